"""The routed scorer: split, call, fall back, put back in order, shadow, count. Every caller of a version goes through it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cluster.control_plane import ControlPlane
from cluster.errors import BadInput, NotFound
from cluster.routing.routes import Route, RouteTable
from cluster.routing.split import goes_to_candidate
from cluster.signature import Signature
from cluster.watch.catalogue import EXPLAIN_EVALUATIONS, EXPLAIN_SECONDS, EXPLAINED_ROWS, SCORERS, TABLE_AGE, ScoringWay
from deployments.control.evidence_log import EvidenceLog
from deployments.control.table_watch import DriftPush, EvidencePush, ReportPush, TableWatch, UsePush
from deployments.drift.drift_sample import DriftSample
from deployments.drift.profile_book import ProfileBook
from deployments.drift.row_outliers import RowOutliers
from deployments.drift.version_counting import DrawnRows
from deployments.engines.datatypes import Array
from deployments.explain.form import ExplainOptions
from deployments.observe.metering import Meter
from deployments.observe.meters import Meters
from deployments.observe.payloads.log import PayloadLog
from deployments.observe.scorer_meter import ScorerMeter
from deployments.privacy.released import cannot_explain, released
from deployments.profiles.numbers import Floats
from deployments.scoring.answering import CallScorer
from deployments.scoring.asking import VersionAsker, asleep
from deployments.scoring.call import Call, begin_call, target_of
from deployments.scoring.label_keys import count_labelled, label_keys
from deployments.scoring.port import Explained, Scored
from deployments.scoring.rows import Answer, Part, Rows, assembled
from deployments.scoring.senders import Senders
from deployments.scoring.shadow.score import ShadowScorer
from deployments.scoring.shadow.shadows import Shadowed, Shadows
from deployments.scoring.tally import Tally
from deployments.transport.engine_process import start_engine_process
from deployments.transport.explanations import Explainer, ReplicaExplanations
from deployments.transport.remote import RemoteTransport
from deployments.transport.transports import EmbeddedTransport, Transport

_logger = logging.getLogger(__name__)

FIRST_TABLE_S = 10.0
LAST_REPORT_S = 2.0
GREETING_S = 2.0
# Who gives a call less than this of the model's own time makes it fail himself: that is no evidence.
HURRIED_SHARE = 0.5
NAN, NAN_REMEDY = (
    "the row holds NaN, a missing value",
    "send a number for each, or set `refuse_nan: false` in the Model document",
)


class RoutedScorer:
    """Implements `deployments.scoring.port.Scorer` over the controller's route table. Used from one event loop.

    `remote` reaches replicas; `embedded` is used for the models that ask for it, as soon as it is ready, and `trial` for such a
    model's candidate that has not passed a step yet.
    """

    def __init__(
        self,
        control: ControlPlane,
        remote: Transport | None = None,
        embedded: Transport | None = None,
        trial: Transport | None = None,
        *,
        meters: Meters | None = None,
        way: ScoringWay = ScoringWay.ONLINE,
        meter: Meter | None = None,
        payloads: PayloadLog | None = None,
        explainer: Explainer | None = None,
        drift: DriftSample | None = None,
        seed: int | None = None,
    ) -> None:
        """Without others given, `remote` asks Serve's replicas, `embedded` loads engines in this process, and `trial` each in a
        process of its own. `meters` is what its process counts in, and `way` how it scores; `meter` takes the place of both.
        `payloads` is told of what shadows disagree on, and closed at the end. `drift` is the process's. `explainer` asks Serve's
        replicas too, also for models whose engines are here: explanations take time that callers of their processes wait for."""
        self.meters = meters or Meters()
        self._remote = remote or RemoteTransport()
        self._embedded = embedded or EmbeddedTransport()
        self._trial = trial or EmbeddedTransport(start_engine_process)
        self._explainer = explainer or ReplicaExplanations()
        self._asker = VersionAsker(self._remote, self._embedded, self._trial)
        self._random = np.random.default_rng(seed)
        self._told: set[str] = set()
        self._log = EvidenceLog(f"scorer-{uuid.uuid4().hex}")
        self._watch = TableWatch(control, self._changed)
        self._push = EvidencePush(control, self._log)
        self._background: list[asyncio.Task[None]] = []
        self._reports, self._use_push = ReportPush(control, self.meters), UsePush(control, self.meters.uses)
        self.meters.before_each_report(self._gauges)
        tally = Tally(self._log, meter or ScorerMeter(self.meters, way))
        self._payloads, self._way = payloads, way
        self._profiles, self._drift = ProfileBook(), drift or DriftSample(self.meters, way)
        self._drift.looked_at = self._looked_at
        self._drift_push = DriftPush(control, self._drift)
        self.outliers = RowOutliers(self._profiles)
        shadow = ShadowScorer(self._asker, tally, lambda model: self.table.routes.get(model), self._disagreed)
        self._shadows = Shadows(shadow.score)
        self._calls = CallScorer(self._asker, tally, self._shadows, self._random)

    async def start(self) -> None:
        """Begins to follow the route table; returns when the first one is here, or after a while without. By then it is recorded
        that the process counts uses, where that can be: one that is killed after is missed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GREETING_S):
                await self._use_push.flush()
        self._background = [
            asyncio.create_task(each.run()) for each in (self._watch, self._push, self._reports, self._use_push, self._drift_push)
        ]
        for task in self._background:
            task.add_done_callback(_tell)
        await self._watch.first(FIRST_TABLE_S)

    async def close(self) -> None:
        """Hands the last evidence over if the controller is there, and lets everything go."""
        tasks = [*self._background, *([self._shadows.task] if self._shadows.task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._push.flush()
        if self._payloads is not None:
            await asyncio.to_thread(self._payloads.close)
        with contextlib.suppress(TimeoutError):  # figures are not worth a slow end, while the controller is restarted
            async with asyncio.timeout(LAST_REPORT_S):
                await self._use_push.last()
                await self._reports.flush()
                await self._drift_push.flush()
        await self._asker.close()

    @property
    def table(self) -> RouteTable:
        """The route table in use."""
        return self._watch.table

    def route(self, model: str) -> Route:
        """The model's route. Raises NotFound."""
        table = self._watch.table
        found = table.routes.get(model)
        if found is None:
            raise NotFound("no version of this model is served", where=model, remedy=_remedy(table))
        return found

    def signature(self, model: str, version: int | None = None) -> Signature:
        """See `Scorer.signature`."""
        route = self.route(model)
        return target_of(route, route.stable if version is None else version).signature

    def replicas(self, model: str, version: int) -> int:
        """See `Scorer.replicas`."""
        route = self._watch.table.routes.get(model)
        target = route.targets.get(version) if route is not None else None
        return self._asker.replicas(route, target) if route is not None and target is not None else 1

    async def score(
        self,
        model: str,
        tensors: Mapping[str, Array],
        keys: Sequence[bytes | None] | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
        donated: bool = False,
        senders: Senders | None = None,
    ) -> Scored:
        """See `Scorer.score`."""
        call = self.begin(model, tensors, keys, version=version, timeout_s=timeout_s, donated=donated, senders=senders)
        return await self.answer(call)

    def begin(
        self,
        model: str,
        tensors: Mapping[str, Array],
        keys: Sequence[bytes | None] | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
        donated: bool = False,
        senders: Senders | None = None,
    ) -> Call:
        """What `score` does before it asks anybody, and raises then. May be called from any thread; looks at every number."""
        route = self.route(model)
        allowed_s = route.serving.timeout_s if timeout_s is None else timeout_s
        end_s = time.monotonic() + allowed_s
        told = senders if route.stage else None
        given_up = donated and route.payloads is None  # what is kept of them is taken once they are scored
        call = begin_call(route, tensors, keys, version=version, donated=given_up, end_s=end_s, random=self._random, senders=told)
        return replace(call, hurried=True) if allowed_s < HURRIED_SHARE * route.serving.timeout_s else call

    async def answer(self, call: Call, *, outliers: bool = False) -> Scored:
        """The rest of `score`, and which rows are `outliers`, as far as profiles say it; then none may have been donated."""
        target, rows = call.target, call.rows
        parts = await self._calls.parts(call)
        outputs, errors = assembled(target.signature, parts, rows)
        versions = np.full(rows, target.version, dtype=np.int32)
        for part in parts:
            versions[part.rows] = part.version
        if call.bad is not None:
            refusal = BadInput(NAN, where=call.route.model, remedy=NAN_REMEDY)
            errors.update(dict.fromkeys(np.flatnonzero(call.bad).tolist(), refusal))
        wanted = None if call.pinned else call.route.labels
        # Evidence, shadows and drift see the parts, in full; from here on it is what leaves.
        limits = call.route.serving.outputs
        leaving = released(outputs, limits, errors) if limits else outputs
        keys = label_keys(wanted, leaving, parts, rows, time.time()) if wanted is not None else None
        if wanted is not None and keys is not None:
            count_labelled(self.meters, call.route.model, wanted, keys, outputs, parts)
        unlike = await self._unlike(call, versions) if outliers else None
        return Scored(leaving, versions, errors, keys, call.route.payloads, self._drawn(call, parts), unlike)

    async def _unlike(self, call: Call, versions: npt.NDArray[np.int32]) -> Floats | None:
        try:
            return await self.outliers.of(call.route, call.tensors, versions)
        except BadInput as error:  # no row's fault, and no reason to keep its answer
            if call.route.model not in self._told:
                self._told.add(call.route.model)
                _logger.warning("no outliers are told: %s", error)
            return None

    def _drawn(self, call: Call, parts: Sequence[Part]) -> Sequence[DrawnRows]:
        """Some of the rows are looked at: at once, but on a stream not before they are committed, nor in a batch here."""
        if self._way is ScoringWay.BATCH:
            return ()
        found: list[DrawnRows] = []
        for part in parts:
            if not part.fair:
                continue
            known = self._profiles.known(call.route.model, call.route.targets[part.version])
            if known is None:
                continue
            answer = part.answer
            drawn = self._drift.drawn(
                known.counting, call.tensors, answer.outputs, part.rows, failed=answer.failed, order=call.order
            )
            if drawn is not None:
                found.append(drawn)
        if self._way is ScoringWay.STREAM:
            return found
        for drawn in found:
            self._drift.put(drawn)
        return ()

    def version_of(self, model: str, key: bytes | None) -> int:
        """The version that answers a caller of this key; stable where there is none. Raises NotFound."""
        route = self.route(model)
        if key is None or route.candidate not in route.targets or route.candidate is None:
            return route.stable
        theirs = goes_to_candidate(key, salt=route.salt, weight=route.weight)
        return route.candidate if theirs else route.stable

    async def explain(
        self,
        model: str,
        tensors: Mapping[str, Array],
        options: ExplainOptions,
        key: bytes | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Explained:
        """Why n rows are answered as they are, by `version`, or by the one that answers a caller of this `key`; stable where
        neither is given. Nothing of it is evidence, payload or counted as scored.

        Raises what `Scorer.score` does, EngineFailure, BadInput for options that don't fit the version, and Forbidden where the
        model's outputs are limited.
        """
        route, began_s = self.route(model), time.monotonic()
        if route.serving.outputs:
            raise cannot_explain(model)
        if version is None:
            version = self.version_of(model, key)
        allowed_s = route.serving.timeout_s if timeout_s is None else timeout_s
        call = begin_call(route, tensors, None, version=version, donated=False, end_s=began_s + allowed_s, random=self._random)
        if call.bad is not None:
            raise BadInput(NAN, where=f"{model}, row {int(np.argmax(call.bad))}", remedy=NAN_REMEDY)
        if route.asleep:
            raise asleep(model)
        explanations = await self._explainer.explain(call.target, tensors, options, allowed_s)
        labels = (model, str(version), self._way)
        self.meters.observe(EXPLAIN_SECONDS, time.monotonic() - began_s, *labels)
        self.meters.add(EXPLAINED_ROWS, len(explanations), *labels)
        self.meters.add(EXPLAIN_EVALUATIONS, sum(one.evaluations for one in explanations), *labels)
        return Explained(version, explanations)

    def _disagreed(self, shadowed: Shadowed, answer: Answer, rows: Rows) -> None:
        route = shadowed.route
        if self._payloads is not None and route.payloads is not None:
            version, inputs = shadowed.candidate.version, shadowed.tensors
            self._payloads.disagreed(route.payloads, self._way, route.model, version, inputs, answer.outputs, rows)

    def _looked_at(self, drawn: DrawnRows) -> None:
        """Not on the event loop."""
        route = self.table.routes.get(drawn.version.model)
        if self._payloads is None or route is None or route.payloads is None or not route.payloads.outliers:
            return
        found = drawn.version.outliers_among(drawn)
        if found is not None:
            kept = self._way, route.model, drawn.version.number, *found, drawn.stands_for
            self._payloads.unlike(route.payloads, *kept)

    def _gauges(self, meters: Meters) -> None:
        meters.put(SCORERS, 1)
        meters.put(TABLE_AGE, self._watch.age_s)

    def _changed(self, table: RouteTable) -> None:
        self._asker.keep(table)
        self._drift.keep(
            self._profiles.keep({target.app for route in table.routes.values() for target in route.targets.values()})
        )
        if self._payloads is not None:
            known = {route.model: route.payloads for route in table.routes.values()}
            self._payloads.keep({model: payloads for model, payloads in known.items() if payloads is not None})
        self._log.keep_only({(route.model, route.stage) for route in table.routes.values()})


def _tell(task: asyncio.Task[None]) -> None:
    """These tasks end only when cancelled; anything else is a defect that must be seen."""
    if not task.cancelled() and task.exception() is not None:
        _logger.error("a background task of the scorer ended", exc_info=task.exception())


def _remedy(table: RouteTable) -> str:
    if not table.routes:
        return "apply a Model document and build a version; none is ready yet"
    return f"served now: {', '.join(sorted(table.routes))}"
