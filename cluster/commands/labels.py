"""Labels: what was true of answers given in the rollout under way."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from cluster.access.callers import CLUSTER, Role
from cluster.commands.command import CommandEntry, CommandResult, Context, Message, ModelName
from cluster.commands.known import active_rollout
from cluster.commands.rights import of_model
from cluster.errors import Conflict
from cluster.rollout.callers import CallersTold
from cluster.rollout.evidence import Counts, EvidenceKey, mark
from cluster.rollout.labels import judge_labels, stage_of

REASONS_AT_MOST = 10


class Label(Message):
    """What was true: `key` is the label key that came with the answer, `label` the class's number, or the number itself."""

    key: str
    label: float


class TellLabels(ModelName):
    """Labels of answers given in the rollout under way. With a `source` and a `sequence` that rises, a resend counts nothing."""

    labels: tuple[Label, ...] = Field(min_length=1, max_length=10_000)
    source: str = ""
    sequence: int = Field(default=0, ge=0)


class LabelsTold(Message):
    """How many labels counted, how many belong to another rollout or were told before, and why others were refused.

    `reasons` holds the first REASONS_AT_MOST.
    """

    counted: int
    elsewhere: int
    refused: int
    reasons: tuple[str, ...] = ()


def _label(at: Context, request: TellLabels) -> CommandResult:
    active = active_rollout(at, request.model)
    check = active.plan.checks.labels
    if check is None:
        raise Conflict(
            "its plan has no labels check",
            where=f"rollout {active.id} of {active.model}",
            remedy="add `checks: {labels: ...}` to the Model's rollout section, and start it again",
        )
    state, scorer = at.state, f"labels/{request.model}/{request.source}"
    if request.source and request.sequence <= state.scorers.get(scorer, -1):
        return CommandResult(state, LabelsTold(counted=0, elsewhere=len(request.labels), refused=0))
    told = judge_labels(active, check, ((one.key, one.label) for one in request.labels))
    evidence, told_apart = dict(state.evidence), CallersTold(state.evidence)
    caller = "" if at.caller.anonymous or at.caller == CLUSTER else at.caller.name
    for version, counts in told.counts.items():
        # Who tells them may make them up: what one caller tells is counted apart too, as what he sends is.
        whole = EvidenceKey(active.model, stage_of(active), version)
        for key in {whole, told_apart.key(replace(whole, caller=caller))}:
            evidence[key] = evidence.get(key, Counts()) + counts
    scorers = dict(state.scorers)
    if request.source:
        mark(scorers, scorer, request.sequence)
    counted = sum(counts.labelled for counts in told.counts.values())
    answer = LabelsTold(
        counted=counted,
        elsewhere=len(request.labels) - counted - len(told.refused),
        refused=len(told.refused),
        reasons=told.refused[:REASONS_AT_MOST],
    )
    return CommandResult(replace(state, evidence=evidence, scorers=scorers), answer)


# Labels are evidence: what they came to stands at each transition.
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
