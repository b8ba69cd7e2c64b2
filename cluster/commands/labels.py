"""Labels: what was true of answers already given, in the rollout under way and at all times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from cluster.access.callers import CLUSTER, Role
from cluster.commands.command import CommandEntry, CommandResult, Context, Message, ModelName
from cluster.commands.known import active_rollout, staying_model
from cluster.commands.rights import of_model
from cluster.errors import Conflict
from cluster.quality.section import LiveLabels
from cluster.quality.taking import LabelsTaken, LabelTaking, number_of
from cluster.rollout.callers import CallersTold
from cluster.rollout.checks.labels import LabelCheck
from cluster.rollout.evidence import Counts, EvidenceKey, mark
from cluster.rollout.labels import LabelsJudged, judge_labels, stage_of
from cluster.rollout.record import Rollout
from cluster.state import CONTROLLER, AuditEvent, Model, State
from cluster.watch.catalogue import LabelFault

REASONS_AT_MOST = 10
ALARM = "quality.alarm"  # in the audit
REASONS: Mapping[LabelFault, str] = {
    LabelFault.UNREADABLE: "could not be read",
    LabelFault.NO_KEY: "have no label key: send what came with the answer, as it came",
    LabelFault.UNKNOWN_VERSION: "are of versions that are not there",
    LabelFault.WRONG_TYPE: "are no number, or no whole number where classes are labelled",
    LabelFault.NOT_FINITE: "are not finite",
    LabelFault.LATE: "came later after their answer than `labels.within_s` allows",
    LabelFault.REDEFINED: "are of answers from before the document said otherwise what is labelled",
}


class Label(Message):
    """What was true: `key` is the label key that came with the answer, `label` the class's number, or the number itself.

    `sequence`, where its source numbers them one by one, is this label's own.
    """

    key: str
    label: float | str | None
    sequence: int | None = Field(default=None, ge=0)


class TellLabels(ModelName):
    """Labels of answers already given. With a `source` and a `sequence` that rises, a resend counts nothing; where labels have
    sequences of their own, those up to the last one counted.

    `unreadable` is how many more there were that could not be read: they are counted, and their sender knows of them.
    """

    labels: tuple[Label, ...] = Field(max_length=10_000)
    source: str = Field(default="", max_length=1000)
    sequence: int = Field(default=0, ge=0)
    unreadable: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.labels and not self.unreadable:
            raise ValueError("there is no label")
        return self


class LabelsTold(Message):
    """How many labels counted, how many belong to another rollout or were told before, and why others were refused.

    `reasons` holds the first REASONS_AT_MOST.
    """

    counted: int
    elsewhere: int
    refused: int
    reasons: tuple[str, ...] = ()


def _label(at: Context, request: TellLabels) -> CommandResult:
    model = staying_model(at, request.model)
    if model.labels is not None:
        return _live(at, model, model.labels, request)
    active = active_rollout(at, request.model)
    check = active.plan.checks.labels
    if check is None:
        raise Conflict(
            "its plan has no labels check",
            where=f"rollout {active.id} of {active.model}",
            remedy="add a `labels` section to the Model document, or `checks: {labels: ...}` to its rollout section",
        )
    state, scorer = at.state, f"labels/{request.model}/{request.source}"
    if request.source and request.sequence <= state.scorers.get(scorer, -1):
        return CommandResult(state, LabelsTold(counted=0, elsewhere=len(request.labels), refused=0))
    told, numbers, refused = _judged(active, check, request.labels)
    state = _as_evidence(at, state, active, told)
    scorers = dict(state.scorers)
    if request.source:
        mark(scorers, scorer, request.sequence)
    counted = sum(counts.labelled for counts in told.counts.values())
    reasons = (*refused, *told.refused)
    answer = LabelsTold(
        counted=counted,
        elsewhere=numbers - counted - len(told.refused),
        refused=len(reasons),
        reasons=reasons[:REASONS_AT_MOST],
    )
    return CommandResult(replace(state, scorers=scorers), answer)


def _live(at: Context, model: Model, wanted: LiveLabels, request: TellLabels) -> CommandResult:
    """Counts for the versions' quality and, in a rollout whose plan has a labels check, for that: each label once."""
    source, counted_up_to = request.source, model.quality.marks.get(request.source, -1)
    if source and request.sequence <= counted_up_to:
        return CommandResult(at.state, LabelsTold(counted=0, elsewhere=len(request.labels), refused=0))
    fresh = [one for one in request.labels if one.sequence is None or not source or one.sequence > counted_up_to]
    versions = {version.id.number: version for version in at.state.versions_of(model.name)}
    taking = LabelTaking(model.name, wanted, versions, at.now_s, at.counted_since_s)
    before = at.state.recent_labels
    taken = taking.of(model.quality, before, ((one.key, one.label) for one in fresh), request.unreadable)
    quality = taken.quality.marked(source, request.sequence) if source else taken.quality
    state = replace(at.state.with_model(replace(model, quality=quality)), recent_labels=taken.recent)
    active = at.state.active(model.name)
    if active is not None and active.plan.checks.labels is not None:
        told, _, _ = _judged(active, active.plan.checks.labels, [one for one in fresh if one.key in taken.counted])
        state = _as_evidence(at, state, active, told)
    return CommandResult(state, _answer(taken, len(request.labels) - len(fresh)), _alarms(at, model, taken))


def _judged(active: Rollout, check: LabelCheck, labels: Sequence[Label]) -> tuple[LabelsJudged, int, tuple[str, ...]]:
    """What they are as evidence, how many are numbers, and why the others were refused."""
    numbers = {
        place: (one.key, number) for place, one in enumerate(labels, start=1) if (number := number_of(one.label)) is not None
    }
    # By their places: what was sent for a key or a label may be anything.
    refused = (f"no number: label {place}" for place, one in enumerate(labels, start=1) if number_of(one.label) is None)
    return judge_labels(active, check, numbers), len(numbers), tuple(refused)


def _as_evidence(at: Context, state: State, active: Rollout, told: LabelsJudged) -> State:
    if not told.counts:
        return state
    evidence = dict[EvidenceKey, Counts]()
    told_apart = CallersTold(state.evidence.of(active.model, stage_of(active)))
    caller = "" if at.caller.anonymous or at.caller == CLUSTER else at.caller.name
    for version, counts in told.counts.items():
        # Who tells them may make them up: what one caller tells is counted apart too, as what he sends is.
        whole = EvidenceKey(active.model, stage_of(active), version)
        for key in {whole, told_apart.key(replace(whole, caller=caller))}:
            evidence[key] = evidence.get(key, Counts()) + counts
    return replace(state, evidence=state.evidence.adding(evidence))


def _answer(taken: LabelsTaken, told_before: int) -> LabelsTold:
    refused = {fault: count for fault, count in taken.faults.items() if fault not in (LabelFault.TWICE, LabelFault.UNREADABLE)}
    return LabelsTold(
        counted=len(taken.counted),
        elsewhere=told_before + taken.faults.get(LabelFault.TWICE, 0),
        refused=sum(refused.values()),
        reasons=tuple(f"{count} {REASONS[fault]}" for fault, count in refused.items()),
    )


def _alarms(at: Context, model: Model, taken: LabelsTaken) -> tuple[AuditEvent, ...]:
    return tuple(
        AuditEvent(
            at.now_s,
            model.name,
            None,
            ALARM,
            CONTROLLER,
            {"version": number, "labelled": alarm.labelled, "loss": alarm.loss, "built": alarm.built, "limit": alarm.limit},
        )
        for number, alarm in taken.alarms.items()
    )


# Labels are evidence: what they came to stands at each transition, and in the models' quality.
LABEL = CommandEntry(
    "rollout.label",
    TellLabels,
    LabelsTold,
    _label,
    "Counts labels of answers already given",
    of_model(Role.SCORE, Role.OPERATE),
    told=False,
)
COMMANDS = (LABEL,)
