"""The `schedule` section of a Batch document, and the moments at which its cron line says "run". Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, field_validator

from cluster.section import Section

MOST_AT_ONCE = 1000  # fires made up for at one look; the rest are made up for at the next


class Missed(StrEnum):
    """What to do with fires that passed while nobody looked."""

    RUN_LATEST = "run_latest"
    RUN_ALL = "run_all"
    SKIP = "skip"


class Overlap(StrEnum):
    """What to do with a fire that comes while an earlier one runs."""

    SKIP = "skip"
    QUEUE = "queue"


class Schedule(Section):
    """The `schedule` section of a Batch document.

    `cron` is a line of five fields in the time of `timezone` (an IANA name). Where clocks go forward, a fire in the missing hour
    comes right after it; where they go back, a fire at a fixed hour comes once. A fire seen within `grace_s` is not missed.
    A failed or timed-out run is tried `retries` times more, after `backoff_s`, then twice that, and so on; a try goes on where
    the last one stopped. `{as_of}` in the input stands for the fire's date in `timezone`. A run that was left unfinished by
    others is given up when a fire comes.
    """

    cron: str
    timezone: str = "UTC"
    missed: Missed = Missed.RUN_LATEST
    overlap: Overlap = Overlap.SKIP
    grace_s: float = Field(default=60.0, ge=0)
    timeout_s: float | None = Field(default=None, gt=0)
    retries: int = Field(default=2, ge=0, le=20)
    backoff_s: float = Field(default=60.0, ge=0)
    keep: int = Field(default=50, ge=1, description="how many past fires the history holds")

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        if (words := _of_another_cron(cron)) is not None:
            raise ValueError(words)
        try:
            first = next(CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC)), None)
        except CronSimError as error:
            raise ValueError(f"{cron!r} is not a cron line: {error}; five fields, e.g. '30 2 * * *' for half past two") from error
        if first is None:  # cronsim looks 50 years ahead
            raise ValueError(f"{cron!r} never comes: no day is all that its fields ask for")
        return cron

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a folder of zones, e.g. Europe
            raise ValueError(f"{name!r} is not a time zone; use an IANA name, e.g. Europe/Berlin") from error
        return name


_SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


def _of_another_cron(cron: str) -> str | None:
    """How to write what other programs write in a cron line; None where it is no such thing."""
    first, _, rest = cron.strip().partition(" ")
    if first.startswith("@"):
        fields = _SHORTHANDS.get(first.lower(), "30 2 * * *")
        return f"{first!r} is not taken: write the five fields, '{fields}', and the zone as `timezone: Europe/Berlin`"
    variable, equals, zone = first.partition("=")
    if equals and variable in ("CRON_TZ", "TZ"):
        fields = rest.strip() or "30 2 * * *"
        return f"{variable}= is not taken in the cron line: write `timezone: {zone}`, and the five fields alone, '{fields}'"
    return None


def with_five_fields(schedule: Schedule) -> Schedule:
    """The same schedule. Raises ValueError for a sixth field, which cronsim takes for seconds."""
    if len(fields := schedule.cron.split()) != 5:
        raise ValueError(f"the cron line {schedule.cron!r} has {len(fields)} fields; it takes five, without seconds")
    return schedule


# What a person may ask for. `Schedule` itself bears six fields: a store may hold them from before this was looked at.
AskedSchedule = Annotated[Schedule, AfterValidator(with_five_fields)]


def fires_between(schedule: Schedule, after_s: float, until_s: float) -> list[float]:
    """Fire times in (after_s, until_s], oldest first, at most MOST_AT_ONCE."""
    times = itertools.takewhile(lambda at_s: at_s <= until_s, _fires(schedule, after_s))
    return list(itertools.islice(times, MOST_AT_ONCE))


def next_fires(schedule: Schedule, after_s: float, count: int) -> list[float]:
    """The next `count` fire times after `after_s`."""
    return list(itertools.islice(_fires(schedule, after_s), count))


def _fires(schedule: Schedule, after_s: float) -> Iterator[float]:
    start = datetime.fromtimestamp(after_s, ZoneInfo(schedule.timezone))
    last_s = after_s
    for moment in CronSim(schedule.cron, start):
        at_s = moment.timestamp()
        if at_s > last_s:  # where clocks go back, a local time comes twice
            yield at_s
            last_s = at_s
