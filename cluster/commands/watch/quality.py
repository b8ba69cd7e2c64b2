"""How right a model's versions are, by late labels, and clearing an alarm about it."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from cluster.access.callers import Role
from cluster.commands.command import CommandEntry, CommandResult, Context, Message, ModelName
from cluster.commands.known import known_model, staying_model
from cluster.commands.rights import of_model
from cluster.commands.versions import version_role
from cluster.errors import Conflict
from cluster.quality.built import built_loss
from cluster.quality.estimate import estimated_loss
from cluster.quality.live import VersionQuality
from cluster.quality.section import LiveLabels
from cluster.rollout.checks.labels import Loss, require_output
from cluster.state import Model, State
from cluster.versions import VersionId
from cluster.watch.catalogue import CONFIDENCE, LABEL_DELAYS_S, LABEL_KEYS, LabelFault
from cluster.watch.history import quantile
from cluster.watch.reports import Series
from cluster.watch.sums import MetricTotals


class ClearAlarm(ModelName):
    """Clears an alarm: what is watched for begins anew. Without a version, those of all of them."""

    version: int | None = Field(default=None, ge=1)


class QualityAlarmView(Message):
    """Since `at_s` it is proven that answers lose more than `limit`. `loss` is the mean of the `labelled` answers before
    that, about since when they are worse; `built` that of the build."""

    at_s: float
    labelled: int
    loss: float
    built: float
    limit: float


class VersionQualityView(Message):
    """One version's: the mean `loss` of `labelled` answers, which lies between `low` and `high` with 95 % confidence at all times
    at once; None where there is no label.

    `built` is its loss at build, of `built_rows` rows, and `limit` what is told as an alarm; None where the build does not tell
    it. `share` of the answers since the controller began (they went out with `keys` keys) have met their label. Half of the
    labels came within `delay_p50_s`, 9 of 10 within `delay_p90_s`. `estimate` is the loss that the confidence
    of `estimate_of` sampled answers since the controller began makes likely, labels or not; nothing acts on it. `misfit` says why
    no label can be held against it.
    """

    version: int
    role: str
    labelled: int
    loss: float | None
    low: float
    high: float
    built: float | None = None
    built_rows: int = 0
    limit: float | None = None
    keys: int = 0
    share: float | None = None
    delay_p50_s: float | None = None
    delay_p90_s: float | None = None
    estimate: float | None = None
    estimate_of: int = 0
    alarm: QualityAlarmView | None = None
    misfit: str = ""


class QualityView(Message):
    """How right a model's versions are. `labels` is None where its document has no such section: then nothing is known.

    `faults` is how many labels were not counted, by reason.
    """

    model: str
    labels: LiveLabels | None
    versions: tuple[VersionQualityView, ...] = ()
    faults: dict[LabelFault, int] = Field(default_factory=dict)


def quality_view(state: State, model: Model, totals: MetricTotals, counted_since_s: float = 0.0) -> QualityView:
    """Of the versions that serve or have labels, oldest first."""
    wanted = model.labels
    if wanted is None:
        return QualityView(model=model.name, labels=None)
    known, views = model.quality.versions, []
    for version in state.versions_of(model.name):
        number = version.id.number
        role = version_role(state, model, number)
        if number in known or role in ("stable", "candidate"):
            labels = model.name, str(number)
            keys = int(totals.counters.get(Series(LABEL_KEYS.name, labels), 0.0))
            sure = totals.histograms.get(Series(CONFIDENCE.name, labels))
            view = _view(state, version.id, role, wanted, known.get(number, VersionQuality()), keys, counted_since_s)
            estimate = estimated_loss(version.quality, sure.counts) if sure is not None and wanted.loss is Loss.WRONG else None
            of = sum(sure.counts) if sure is not None and estimate is not None else 0
            views.append(view.model_copy(update={"estimate": estimate, "estimate_of": of}))
    return QualityView(model=model.name, labels=wanted, versions=tuple(views), faults=dict(model.quality.faults))


def _view(
    state: State, version: VersionId, role: str, wanted: LiveLabels, seen: VersionQuality, keys: int, since_s: float
) -> VersionQualityView:
    built, interval, alarm = built_loss(state.versions[version].quality, wanted), seen.interval, seen.alarm
    recent = seen.recent if seen.recent_since_s == since_s else 0
    return VersionQualityView(
        version=version.number,
        role=role,
        labelled=seen.labelled,
        loss=seen.loss / seen.labelled if seen.labelled else None,
        low=interval.low,
        high=interval.high,
        built=built.mean if built is not None else None,
        built_rows=built.rows if built is not None else 0,
        limit=built.high + wanted.tolerance if built is not None else None,
        keys=keys,
        # A gateway that has not reported yet, say, has given keys that are not counted.
        share=min(recent / keys, 1.0) if keys else None,
        delay_p50_s=quantile(LABEL_DELAYS_S, seen.delays, 0.5),
        delay_p90_s=quantile(LABEL_DELAYS_S, seen.delays, 0.9),
        alarm=None
        if alarm is None
        else QualityAlarmView(at_s=alarm.at_s, labelled=alarm.labelled, loss=alarm.loss, built=alarm.built, limit=alarm.limit),
        misfit=_misfit(state, version, wanted),
    )


def _misfit(state: State, version: VersionId, wanted: LiveLabels) -> str:
    try:
        require_output(state.versions[version], wanted.output, wanted.loss, "labels")
    except Conflict as error:
        return error.what
    return ""


def _show(at: Context, request: ModelName) -> CommandResult:
    model = known_model(at, request.model)
    return CommandResult(at.state, quality_view(at.state, model, at.totals(), at.counted_since_s))


def _clear(at: Context, request: ClearAlarm) -> CommandResult:
    model = staying_model(at, request.model)
    versions = dict(model.quality.versions)
    alarmed = [number for number, seen in versions.items() if seen.alarm is not None and request.version in (None, number)]
    if not alarmed:
        which = f"version {request.version} of model" if request.version is not None else "model"
        raise Conflict(
            "there is no alarm to clear", where=f"{which} {model.name}", remedy="`headrace quality status` shows alarms"
        )
    for number in alarmed:
        versions[number] = versions[number].cleared()
    state = at.state.with_model(replace(model, quality=replace(model.quality, versions=versions)))
    return CommandResult(state, quality_view(state, state.models[model.name], at.totals(), at.counted_since_s))


SHOW = CommandEntry(
    "quality.show",
    ModelName,
    QualityView,
    _show,
    "How right a model's versions are, by late labels",
    of_model(Role.VIEW),
    looks=True,
)
CLEAR = CommandEntry(
    "quality.clear", ClearAlarm, QualityView, _clear, "Clears the alarm that live is worse than at build", of_model(Role.OPERATE)
)
COMMANDS = (SHOW, CLEAR)
