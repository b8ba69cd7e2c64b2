"""Which versions must be signed, and by whom: what an operator says in a file of each node."""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import AwareDatetime, Field, ValidationError, model_validator

from cluster.errors import BadInput
from cluster.findings import first_finding
from cluster.section import Section
from deployments.signing.examine import SignatureDemand
from deployments.signing.keys import TrustedKey, trusted_key

_MOST_BYTES = 256 * 1024
_PEM = "-----BEGIN "
# What PyYAML raises, as it comes, for a scalar that is none of its kind: 2026-11-31 for one.
_OF_VALUES = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)


class SigningMode(StrEnum):
    """What becomes of a version whose signature is not as asked: nothing, a word in the log, or a refusal."""

    OFF = "off"
    WARN = "warn"
    ENFORCE = "enforce"


class SigningRule(Section):
    """For models by patterns, e.g. `fraud-*`. `keys` are public keys or certificates that may have signed: files in PEM, relative
    to the policy's own, or PEM itself.

    Signatures made before `since` do not count. With `provenance: false` the files' signature is enough, as any tool for OpenSSF
    model signing makes it; not with `since`, for nothing else than the provenance tells when it was made.
    """

    models: tuple[str, ...] = Field(min_length=1)
    mode: SigningMode
    keys: tuple[str, ...] = ()
    since: AwareDatetime | None = None
    provenance: bool = True

    @model_validator(mode="before")
    @classmethod
    def _off_is_a_word(cls, data: object) -> object:
        """YAML takes `off` for false."""
        return {**data, "mode": "off"} if isinstance(data, dict) and data.get("mode") is False else data

    @model_validator(mode="after")
    def _keys_where_needed(self) -> Self:
        if self.mode is not SigningMode.OFF and not self.keys:
            raise ValueError(f"keys: mode {self.mode} trusts nobody without any: list the public keys that count")
        if self.since is not None and not self.provenance:
            raise ValueError("since: only a provenance tells when a version was signed: leave out `provenance: false`")
        return self


class SigningPolicy(Section):
    """The file. The first rule whose pattern fits a model counts; a model that none fits may be unsigned."""

    kind: Literal["Signing"]
    rules: tuple[SigningRule, ...] = ()

    def rule_for(self, model: str) -> SigningRule | None:
        """The rule that counts for a model; None where nothing is asked of it."""
        fits = (rule for rule in self.rules if any(fnmatchcase(model, pattern) for pattern in rule.models))
        rule = next(fits, None)
        return None if rule is None or rule.mode is SigningMode.OFF else rule


def read_policy(file: Path) -> SigningPolicy:
    """Raises BadInput for a file that is missing or makes no sense: who asks for signatures gets no version past it."""
    remedy = "correct it (docs/signing.md); until then no version is registered or opened here"
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        text = content.decode("utf-8") if len(content) <= _MOST_BYTES else ""
        if twice := _written_twice(text):
            raise BadInput(f"bad signing policy: {twice} is written twice", where=str(file), remedy=remedy)
        return SigningPolicy.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise BadInput(f"bad signing policy: {first_finding(error)}", where=str(file), remedy=remedy) from error
    except (OSError, RecursionError, yaml.YAMLError, *_OF_VALUES) as error:
        what = f"the signing policy can't be read: {type(error).__name__}"
        raise BadInput(what, where=str(file), remedy=remedy) from error


def _written_twice(text: str) -> str:
    """A field of which YAML would let the second take the place of the first, without a word; empty where there is none."""
    left, seen = [yaml.compose(text, Loader=yaml.SafeLoader)], set[int]()
    while left:
        node = left.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:  # an alias leads to what was looked at
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
            if twice := next((name for name in names if names.count(name) > 1), ""):
                return twice
            left += [value for _, value in node.value]
        else:
            left += node.value
    return ""


def demand_of(rule: SigningRule, file: Path) -> SignatureDemand:
    """The rule with its keys read; `file` is the policy's. Raises BadInput for a key that is none, or can't be read."""
    return SignatureDemand(tuple(_key(key, file) for key in rule.keys), rule.provenance, rule.since)


def check_policy(file: Path) -> SigningPolicy:
    """The policy, with every key of it read. Raises BadInput."""
    policy = read_policy(file)
    for rule in policy.rules:
        demand_of(rule, file)
    return policy


def _key(key: str, file: Path) -> TrustedKey:
    if key.startswith(_PEM):
        return trusted_key(key.encode(), "a key of the policy", str(file))
    named = file.parent / key
    try:
        with named.open("rb") as opened:
            return trusted_key(opened.read(_MOST_BYTES), named.stem, str(named))
    except OSError as error:
        what = f"a trusted key can't be read: {error.strerror}"
        raise BadInput(what, where=str(named), remedy=f"bring the file, or correct `keys` in {file}") from error
