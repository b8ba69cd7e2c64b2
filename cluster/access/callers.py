"""Who calls and what he may: roles over patterns of model names, a union without deny, nothing by default. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from cluster.section import Section

EVERY_MODEL = "*"
SEE_YOURS = "see `headrace models` for those that you may see"  # a remedy that names nobody else's
_PATTERN = re.compile(r"[A-Za-z0-9._*-]{1,128}")
_REMEMBERED = 128  # names asked for, of each caller
ADDRESS_MOST = 64  # an IPv6 address with its zone is shorter
_LONGEST_REMEMBERED = 128  # no model's name is longer, but what is asked for may be


class Role(StrEnum):
    """What somebody may do with the models that a grant names."""

    SCORE = "score"
    """Call them, and see what callers need: their inputs and outputs, and whether they are ready."""
    VIEW = "view"
    """See them, their versions, rollouts, streams and batches, and what became of them."""
    OPERATE = "operate"
    """Move what runs: rollouts, replicas, streams and batches."""
    DEPLOY = "deploy"
    """Register and remove versions, apply and delete documents."""
    ADMIN = "admin"
    """Make keys and say who may do what."""


def _pattern(text: str) -> str:
    if _PATTERN.fullmatch(text) is None:
        raise ValueError("a model's name, in which * stands for any part, such as fraud-*")
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


def _matches(model: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)


class Grant(Section):
    """Roles over all models whose names match one of the patterns, in which `*` stands for any part."""

    roles: tuple[Role, ...] = Field(min_length=1, max_length=len(Role))
    models: tuple[Pattern, ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _admin_is_of_all(self) -> Self:
        if Role.ADMIN in self.roles and EVERY_MODEL not in self.models:
            raise ValueError('admin is over everything: give it models: ["*"], in a grant of its own')
        return self

    def covers(self, model: str) -> bool:
        """Whether it is about this model."""
        return _matches(model, self.models)


class Quota(Section):
    """How much one caller may ask of one model, in each gateway: requests and rows a second, and requests at a time. For models
    whose names match one of the patterns."""

    requests_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    rows_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    under_way: int | None = Field(default=None, ge=1)
    models: tuple[Pattern, ...] = Field(default=(EVERY_MODEL,), min_length=1, max_length=100)

    def covers(self, model: str) -> bool:
        """Whether it is about this model."""
        return _matches(model, self.models)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody known, or anybody. `name` is what the audit says, such as `key fraud-team`. Of several quotas for a model the
    first one counts. `speaks_for` a person: who he says he is stands in the audit. `anonymous` brought nothing to be known by.
    `door` and `address` say how and from where he came, as far as the audit is to tell it."""

    name: str
    grants: tuple[Grant, ...]
    quotas: tuple[Quota, ...] = ()
    speaks_for: bool = False
    anonymous: bool = False
    door: str = field(default="", compare=False)
    address: str = field(default="", compare=False)
    _known: dict[tuple[Role | None, str], bool] = field(default_factory=dict, compare=False, repr=False)

    def may(self, role: Role, model: str) -> bool:
        """Whether he has this role over this model."""
        return self._remembered(role, model)

    def sees(self, model: str) -> bool:
        """Whether he may know that there is such a model: with any role over it."""
        return self._remembered(None, model)

    def by(self, door: str, address: bytes = b"") -> Self:
        """The same one, as who came by that door, from that address."""
        return replace(self, door=door, address=address[:ADDRESS_MOST].decode("latin-1"))

    @property
    def is_admin(self) -> bool:
        """Whether he may make keys, and say who may do what."""
        return any(Role.ADMIN in grant.roles for grant in self.grants)

    @property
    def sees_all(self) -> bool:
        """Whether no model's name is kept from him."""
        return any(EVERY_MODEL in grant.models for grant in self.grants)

    def quota(self, model: str) -> Quota | None:
        """The one that counts for this model."""
        return next((quota for quota in self.quotas if quota.covers(model)), None)

    def _remembered(self, role: Role | None, model: str) -> bool:
        asked = role, model
        known = self._known.get(asked)
        if known is None:
            known = any((role is None or role in grant.roles) and grant.covers(model) for grant in self.grants)
            if len(model) <= _LONGEST_REMEMBERED:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[asked] = known
        return known


def grant_of(roles: Iterable[Role], *models: str) -> Grant:
    """The grant of these roles over these models, over all where none is named."""
    return Grant(roles=tuple(roles), models=models or (EVERY_MODEL,))


EVERYTHING = (grant_of(Role),)
# Processes of the cluster itself: who can run one could do all of it without asking.
CLUSTER = Caller("the cluster", EVERYTHING, speaks_for=True)
STRANGER = Caller("anybody", (), anonymous=True)
# Where only this machine's users reach the gateway, or somebody wanted it so in so many words.
VISITOR = Caller("anybody", (grant_of((Role.SCORE, Role.VIEW)),), anonymous=True)
