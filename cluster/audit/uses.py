"""Who used what: counts by caller, which every process that answers tells about once a minute. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

OTHERS = "(others)"
"""Stands for callers, or addresses, beyond those that are counted apart."""


class UseKind(NamedTuple):
    """What is counted together. `door` is what it came by, `outcome` how it ended.

    Of a credential that was refused the `reason` is told, and the `address` that it came from; else both are empty. `what` is
    there where a person looked at rows: which these are, in words; that is no use of the model.
    """

    principal: str
    model: str
    version: str
    door: str
    outcome: str
    reason: str = ""
    address: str = ""
    what: str = ""


class Used(NamedTuple):
    """How often, and how many rows in all."""

    calls: int
    rows: int


@dataclass(frozen=True, slots=True)
class UseReport:
    """What one process has counted from `began_s` to `ended_s`, Unix time: numbered from 1, so that a resend is harmless.

    `where` says which process it is, in words. One that `stays` tells that it lives: when it is silent, something is missing.
    `last`: it ends, and has told all.
    """

    source: str
    sequence: int
    where: str
    began_s: float
    ended_s: float
    uses: Mapping[UseKind, Used] = field(default_factory=dict)
    stays: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True)
class Teller:
    """What is remembered of a process that tells uses: the number of its last report that is recorded, and until when all is.

    `ended`: its silence was recorded; of one that does not stay (any more), that it has said so.
    """

    sequence: int
    where: str
    until_s: float
    stays: bool = False
    ended: bool = False


class CallerOf(NamedTuple):
    """A caller of a model."""

    model: str
    principal: str


@dataclass(frozen=True, slots=True)
class SeenCallers:
    """Callers to remember, each with when it used the model last, Unix time; who was seen last before `forget_s` is forgotten."""

    seen: Mapping[CallerOf, float]
    forget_s: float
