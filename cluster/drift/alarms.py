"""Alarms: proven changes of a feature. They stand in the state, over restarts, until a person clears them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from cluster.drift.kinds import RateKind
from cluster.versions import VersionId


@dataclass(frozen=True, slots=True)
class DriftAlarm:
    """A feature of one version whose rows no longer look like its profile's; `answer` where it is of the outputs.

    `kind` is of the rate that was farthest off, `words` say which it was and what it was before; `together` that it is one of
    many that are off a little. `before` and `after` are shares of rows in the feature's bins: in the profile, and in the last
    rows before the alarm; `psi` and `js` how far these are apart. `since_s` is when it was raised (Unix), `episode_s` when the
    first of the version was that stood then: what an alarm runs is run once an episode, and `ran` says that it was.
    """

    version: VersionId
    feature: str
    answer: bool
    kind: RateKind
    words: str
    since_s: float
    episode_s: float
    psi: float = 0.0
    js: float = 0.0
    before: tuple[float, ...] = ()
    after: tuple[float, ...] = ()
    bins: tuple[str, ...] = ()
    together: bool = False
    ran: bool = False

    @property
    def key(self) -> str:
        """Names it: there is one a feature."""
        return alarm_key(self.version, self.feature, answer=self.answer)


Alarms = Mapping[str, DriftAlarm]


def alarm_key(version: VersionId, feature: str, *, answer: bool) -> str:
    """The name of the alarm of that feature."""
    return f"{version.model}/{version.number}/{'output' if answer else 'input'}/{feature}"


def of_model(alarms: Alarms, model: str) -> list[DriftAlarm]:
    """The model's, of all its versions: outputs first, then the largest."""
    found = (alarm for alarm in alarms.values() if alarm.version.model == model)
    return sorted(found, key=lambda alarm: (alarm.version.number, not alarm.answer, -alarm.js, alarm.feature))


def of_version(alarms: Alarms, version: VersionId) -> list[DriftAlarm]:
    """Those of one version."""
    return [alarm for alarm in of_model(alarms, version.model) if alarm.version == version]


def with_new(alarms: Alarms, new: Iterable[DriftAlarm], known: Collection[VersionId]) -> Alarms:
    """With new ones, each in the episode that is under way or begins with it; without those of versions that are no more."""
    found = {key: alarm for key, alarm in alarms.items() if alarm.version in known}
    for alarm in new:
        if alarm.version not in known or alarm.key in found:
            continue
        others = [other for other in found.values() if other.version == alarm.version]
        if others:
            alarm = replace(alarm, episode_s=others[0].episode_s, ran=others[0].ran)
        found[alarm.key] = alarm
    return alarms if found == dict(alarms) else found
