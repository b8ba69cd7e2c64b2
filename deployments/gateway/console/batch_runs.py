"""How far a batch's runs are, and the rows that they quarantined, for a page: read from the ledgers beside its output.

What reads ledgers lives above this room; it is named to the gateway as a port.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cluster.access.callers import CLUSTER, Caller, Role
from cluster.commands.feeds import SHOW
from cluster.commands.models import SHOW as SHOW_MODEL
from cluster.commands.versions import RESOLVE
from cluster.control_plane import ControlPlane
from cluster.errors import Forbidden, NotFound, Unauthenticated
from deployments.observe.use_log import CONSOLE_DOOR, UseLog

SHARED_S = 1.0  # whoever asks within this time gets the same look
KNOWN_MOST = 100  # batches


@dataclass(frozen=True, slots=True)
class BatchRunSeen:
    """One run. `state` is running, unfinished, publishing or published; running is unknown (None in `held`) where the output is
    not local. `rows` are all of its dataset, `rows_done` those of finished units; `rows_s` is the rate of the last minute, or of
    the whole run where it is over, `left_s` what it still takes at that rate. `fire` names the job of the schedule, or of a
    person, that it is the run of; empty where a terminal began it."""

    run_id: str
    version: int
    state: str
    held: bool | None
    as_of: str | None
    fire: str
    started_s: float
    ended_s: float | None
    units: int
    units_done: int
    rows: int
    rows_done: int
    quarantined: int
    rows_s: float | None
    left_s: float | None
    files: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class QuarantineReason:
    """Rows that share a reason: how many, and a few of them, each a text by column. Long texts are cut."""

    reason: str
    rows: int
    samples: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What a run quarantined, by reason, the most frequent first; `looked_at` of `rows` were counted. `redacted` are the columns
    of which no value is shown, `more_columns` how many others are not shown either. `kept` is false where the rows are gone."""

    rows: int
    looked_at: int
    reasons: tuple[QuarantineReason, ...]
    redacted: tuple[str, ...] = ()
    more_columns: int = 0
    kept: bool = True


class BatchLedgers(Protocol):
    """Reads the ledgers of a batch, by its document's `spec`. Every method may block for seconds; called from several threads.
    Raises BadInput, Conflict, NotFound and Unreachable."""

    def runs(self, spec: Mapping[str, Any]) -> tuple[BatchRunSeen, ...]:
        """Its runs, the newest first."""

    def quarantine(self, spec: Mapping[str, Any], run_id: str, redact: frozenset[str]) -> Quarantine:
        """What that run quarantined, without values of the inputs and outputs that `redact` names, and of those that were
        redacted when it began."""


class BatchRuns:
    """Answers for a page. Used on one event loop. Without ledgers each answer is NotFound. `uses` is told of rows that somebody
    looks at."""

    def __init__(self, control: ControlPlane, ledgers: Callable[[], BatchLedgers] | None, uses: UseLog | None = None) -> None:
        self._control, self._make, self._uses = control, ledgers, uses
        self._made: asyncio.Task[BatchLedgers] | None = None
        self._looks: OrderedDict[str, tuple[float, asyncio.Task[tuple[BatchRunSeen, ...]]]] = OrderedDict()

    async def runs(self, name: str, caller: Caller) -> dict[str, Any]:
        """All that are kept. Raises what `feed.show` raises to this caller, and what the ledgers raise."""
        feed = await self._control.call(SHOW.name, {"kind": "batch", "name": name}, caller)
        return {"runs": [asdict(run) for run in await self._shared(name, feed["spec"], await self._ledgers(name))]}

    async def quarantine(self, name: str, run_id: str, caller: Caller) -> dict[str, Any]:
        """What a run quarantined. Raises as above, Forbidden and Unauthenticated: rows are data, and not everybody's."""
        feed = await self._control.call(SHOW.name, {"kind": "batch", "name": name}, caller)
        if not caller.may(Role.OPERATE, feed["model"]):
            what, remedy = "rows are shown to who has the role operate over the model", "ask an admin for it"
            raise (Unauthenticated if caller.anonymous else Forbidden)(what, where=f"batch {name}", remedy=remedy)
        ledgers, redact = await self._ledgers(name), await self._redacted(feed["model"])
        found = await asyncio.to_thread(ledgers.quarantine, feed["spec"], run_id, redact)
        if self._uses is not None:
            shown = sum(len(reason.samples) for reason in found.reasons)
            self._uses.looked(caller.name, feed["model"], f"quarantine of batch {name}, run {run_id}", CONSOLE_DOOR, shown)
        return asdict(found)

    async def _ledgers(self, name: str) -> BatchLedgers:
        """Made when it is first asked for: reading Parquet takes its memory."""
        if self._make is None:
            raise NotFound("this gateway reads no runs", where=f"batch {name}", remedy=f"`headrace batch status {name}`")
        made = self._made
        if made is None or (made.done() and made.exception() is not None):  # what failed once is tried again
            made = self._made = asyncio.create_task(asyncio.to_thread(self._make))
        return await asyncio.shield(made)

    async def _redacted(self, model: str) -> frozenset[str]:
        """What the model's document says now, whether any version is stable or none."""
        versions = (await self._control.call(SHOW_MODEL.name, {"model": model}, CLUSTER))["versions"]
        if not versions:
            return frozenset()
        found = await self._control.call(RESOLVE.name, {"model": model, "version": versions[-1]["version"]}, CLUSTER)
        return frozenset((found.get("payloads") or {}).get("redact", ()))

    async def _shared(self, name: str, spec: Mapping[str, Any], ledgers: BatchLedgers) -> tuple[BatchRunSeen, ...]:
        looked_s, look = self._looks.get(name, (0.0, None))
        if look is None or (look.done() and time.monotonic() - looked_s > SHARED_S):
            look = asyncio.create_task(asyncio.to_thread(ledgers.runs, spec))
            self._looks[name] = time.monotonic(), look
            self._looks.move_to_end(name)
            while len(self._looks) > KNOWN_MOST:
                self._looks.popitem(last=False)
        return await asyncio.shield(look)
