"""Drift: whether a model's rows still look like its versions' profiles, and clearing alarms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.access.callers import Role
from cluster.commands.command import Command, CommandEntry, CommandResult, Context, Message
from cluster.commands.known import known_model, staying_model
from cluster.commands.rights import Asks, RoleAsked, of_model
from cluster.drift.alarms import DriftAlarm
from cluster.drift.alarms import of_model as alarms_of_model
from cluster.drift.scope import watched_versions
from cluster.drift.section import Drift
from cluster.errors import NotFound
from cluster.state import State
from cluster.versions import VersionId

if TYPE_CHECKING:  # numpy, which who only asks goes without
    from cluster.drift.watched import DriftLook, FeatureSize

ALARMS_AT_MOST = 200  # of one model in an answer
LOOKED_AT_MOST = 20  # features of one version: those that are farthest off


class DriftAsked(Message):
    """Of one model, or of all that the caller may see."""

    model: str = ""


class ClearDrift(Command):
    """Clears the alarms of a model: all of them, or those of one feature, of one version."""

    model: str
    feature: str = ""
    version: int | None = None


class DriftSizeView(Message):
    """How far a feature's last rows are from the profile. `before` and `after` are shares of rows by bin, `bins` names these: the
    lowest and the highest edge, or categories."""

    feature: str
    side: str
    psi: float
    js: float
    before: tuple[float, ...]
    after: tuple[float, ...]
    bins: tuple[str, ...]


class DriftAlarmView(Message):
    """An alarm, with its size as it was when it was raised. `together`: it is one of many features that are off a little."""

    size: DriftSizeView
    version: int
    kind: str
    words: str
    since_s: float
    together: bool


class DriftVersionView(Message):
    """A version that is watched. Without `since_s` nothing was heard of its rows yet; without `features` it has no
    profile, and nothing is watched. `sizes` are of its last rows now, the largest first."""

    version: int
    rows: int = 0
    since_s: float | None = None
    features: int = 0
    profile_rows: int = 0
    sizes: tuple[DriftSizeView, ...] = ()


class ModelDriftView(Message):
    """One model: how it is watched, its alarms (the first ALARMS_AT_MOST of `alarmed`), and each of its watched versions."""

    model: str
    drift: Drift
    alarmed: int
    alarms: tuple[DriftAlarmView, ...]
    versions: tuple[DriftVersionView, ...]


class DriftView(Message):
    """The models asked for."""

    models: tuple[ModelDriftView, ...]


class DriftCleared(Message):
    """How many alarms were cleared."""

    cleared: int


def _status(at: Context, request: DriftAsked) -> CommandResult:
    if request.model:
        known_model(at, request.model)
    names = [request.model] if request.model else [name for name in sorted(at.state.models) if at.caller.may(Role.VIEW, name)]
    watched, looks = watched_versions(at.state), at.drift()
    models = [
        ModelDriftView(
            model=name,
            drift=at.state.models[name].drift or Drift(),
            alarmed=len(alarms := alarms_of_model(at.state.alarms, name)),
            alarms=tuple(_alarm_view(alarm) for alarm in alarms[:ALARMS_AT_MOST]),
            versions=tuple(_version_view(version, looks.get(version)) for version in sorted(watched) if version.model == name),
        )
        for name in names
    ]
    return CommandResult(at.state, DriftView(models=tuple(models)))


def _version_view(version: VersionId, look: DriftLook | None) -> DriftVersionView:
    if look is None:
        return DriftVersionView(version=version.number)
    return DriftVersionView(
        version=version.number,
        rows=look.rows,
        since_s=look.since_s,
        features=look.features,
        profile_rows=look.profile_rows,
        sizes=tuple(_size(one) for one in look.sizes(LOOKED_AT_MOST)),
    )


def _size(one: FeatureSize | DriftAlarm) -> DriftSizeView:
    return DriftSizeView(
        feature=one.feature,
        side="output" if one.answer else "input",
        psi=one.psi,
        js=one.js,
        before=one.before,
        after=one.after,
        bins=one.bins,
    )


def _alarm_view(alarm: DriftAlarm) -> DriftAlarmView:
    return DriftAlarmView(
        size=_size(alarm),
        version=alarm.version.number,
        kind=alarm.kind.value,
        words=alarm.words,
        since_s=alarm.since_s,
        together=alarm.together,
    )


def _clear(at: Context, request: ClearDrift) -> CommandResult:
    staying_model(at, request.model)
    alarms = [
        alarm
        for alarm in alarms_of_model(at.state.alarms, request.model)
        if request.feature in ("", alarm.feature) and request.version in (None, alarm.version.number)
    ]
    if not alarms and (request.feature or request.version is not None):
        raise NotFound(
            "no such alarm stands",
            where=f"drift of {request.model}",
            remedy=_standing(alarms_of_model(at.state.alarms, request.model)),
        )
    gone = {alarm.key for alarm in alarms}
    kept = {key: alarm for key, alarm in at.state.alarms.items() if key not in gone}
    state = replace(at.state, alarms=kept) if gone else at.state
    return CommandResult(state, DriftCleared(cleared=len(gone)))


def _standing(alarms: Iterable[DriftAlarm]) -> str:
    names = [f"{alarm.feature} of version {alarm.version.number}" for alarm in alarms][:5]
    return f"those that stand: {', '.join(names)}" if names else "there is none"


def _asks(_: State, request: DriftAsked) -> Asks:
    return (RoleAsked((Role.VIEW,), request.model),) if request.model else ()  # else the answer holds what its caller may see


STATUS = CommandEntry(
    "drift.status", DriftAsked, DriftView, _status, "Whether rows still look like the profile", _asks, looks=True
)
CLEAR = CommandEntry("drift.clear", ClearDrift, DriftCleared, _clear, "Clears alarms of drift", of_model(Role.OPERATE))
COMMANDS = (STATUS, CLEAR)
