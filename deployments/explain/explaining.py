"""Explains rows: the one callable of this room. Every method is over a batch call, so that any version can be explained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.errors import BadInput, EngineFailure
from cluster.signature import Signature
from deployments.engines.answers import class_output
from deployments.engines.datatypes import Array
from deployments.engines.port import RowsRefused
from deployments.explain.choosing import Circumstances, choose
from deployments.explain.counterfactual import Changed, counterfactual
from deployments.explain.features import FeatureGroups, RowShapes, feature_groups, row_shapes
from deployments.explain.form import Background, ExplainMethod, ExplainOptions, Explanation, Floats, Gradients, Score
from deployments.explain.integrated import integrated
from deployments.explain.mixing import Evaluator, Mixture, mixture
from deployments.explain.occlusion import occluded
from deployments.explain.references import check_rows, reference_rows
from deployments.explain.result import GroupValues, per_value, roughness
from deployments.explain.shapley.exact import exact
from deployments.explain.shapley.first_rounds import FirstRounds
from deployments.explain.shapley.sampled import sampled
from deployments.explain.targets import ExplainTarget, SeenAnswers, classes_of, output_to_explain, resolve_target

BATCH_BYTES = 16 << 20
# Rows that stay in a core's own cache between being made and being scored.
CACHE_BYTES = 1 << 20
SMALL_ROWS = 128
BATCH_S = 0.03
# A quarter of a second.
BATCHES_AT_STAKE = 8
SMALLEST_BATCH = 8


def explain_rows(
    score: Score,
    rows: Mapping[str, Array],
    signature: Signature,
    background: Background | None,
    options: ExplainOptions,
    *,
    gradients: Gradients | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Explanation]:
    """Explains n rows, by input [n, ...]; see `ExplainRows` in `form.py`."""
    started_s = clock()
    count = check_rows(signature, rows)
    if not count:
        return []
    shapes = row_shapes(rows)
    groups = feature_groups(signature, shapes, options.groups, options.blocks)
    others = reference_rows(signature, shapes, background, options.baseline)
    row_bytes = sum(value.nbytes for value in rows.values()) // count
    batch_rows = min(options.batch_rows, max(1, BATCH_BYTES // max(1, row_bytes)))
    answers = _answers(score, rows, batch_rows)
    before_s = clock()
    theirs = _reference_answers(score, others, batch_rows)
    in_time_rows = _in_good_time(len(next(iter(others.values()))), clock() - before_s)
    at_stake_rows = BATCHES_AT_STAKE * min(batch_rows, in_time_rows)
    batch_rows = min(batch_rows, in_time_rows, max(SMALL_ROWS, CACHE_BYTES // max(1, row_bytes)))
    classes = background.classes if background else True
    seen = SeenAnswers({name: np.concatenate([value, theirs[name]]) for name, value in answers.items()}, classes)
    output = output_to_explain(signature, seen.outputs, options)
    method, groups = _method(signature, shapes, groups, others, background, options, gradients)
    first = FirstRounds(options.seed)
    asked = _Asked(
        score, signature, options, batch_rows, at_stake_rows, method, groups, shapes, others, theirs, gradients, clock, first
    )
    targets = [_target(output, _row(answers, place), seen, options, method, classes) for place in range(count)]
    values = [target.values(_row(answers, place))[0] for place, target in enumerate(targets)]
    _refuse({place: "the version's answer to it is no number" for place, one in enumerate(values) if not np.isfinite(one)})
    found: list[Explanation] = []
    for place, target in enumerate(targets):
        now_s = clock()
        ends_s = None if options.deadline_s is None else now_s + (started_s + options.deadline_s - now_s) / (count - place)
        found.append(asked.explained(_row(rows, place), _row(answers, place), target, float(values[place]), ends_s))
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """One call: what is the same for all its rows. `others` are the reference rows, `theirs` the answers to them."""

    score: Score
    signature: Signature
    options: ExplainOptions
    batch_rows: int
    at_stake_rows: int
    method: ExplainMethod
    groups: FeatureGroups
    shapes: RowShapes
    others: Mapping[str, Array]
    theirs: Mapping[str, Array]
    gradients: Gradients | None
    clock: Callable[[], float]
    first: FirstRounds

    def explained(
        self, row: Mapping[str, Array], said: Mapping[str, Array], target: ExplainTarget, answer: float, ends_s: float | None
    ) -> Explanation:
        """One row, [1, ...] by input, with the version's answer `said`."""
        baselines = target.values(self.theirs)
        if not np.isfinite(baselines).all():
            raise BadInput(
                "the version answers with no number to the baseline", where="explain.baseline", remedy="give another baseline"
            )
        evaluator = Evaluator(self.score, target, self.batch_rows, self.at_stake_rows, ends_s, self.clock)
        mixed = mixture(self.signature, row, self.others, self.shapes, self.groups)
        changed: Changed | None = None
        if self.method is ExplainMethod.COUNTERFACTUAL:
            changed = self._changed(mixed, evaluator, said, answer)
            found = changed.values
        else:
            found = self._attributed(mixed, evaluator, answer, baselines)
        told = [] if changed is None or changed.row is not None else ["no row of another class was found in time"]
        told += [rough] if (rough := roughness(found, answer)) else []
        return Explanation(
            method=self.method,
            output=target.output,
            label=target.label,
            scale=target.scale,
            baseline=found.baseline,
            answer=answer,
            attributions=per_value(found.values, self.groups, self.shapes),
            errors=per_value(found.errors, self.groups, self.shapes),
            groups={name: (float(found.values[one]), float(found.errors[one])) for one, name in self.groups.named.items()},
            evaluations=evaluator.evaluations + 1,
            background_rows=found.rows,
            completeness_error=abs(float(found.values.sum()) - (answer - found.baseline)),
            too_rough=bool(told),
            why="; ".join(told),
            counterfactual=changed.row if changed else None,
            changed=tuple(self.groups.name(one) for one in changed.groups) if changed else (),
            grouped=self.groups.grouped(),
        )

    def _attributed(self, mixed: Mixture, evaluator: Evaluator, answer: float, baselines: Floats) -> GroupValues:
        allowed = self.options.evaluations
        if self.method is ExplainMethod.EXACT:
            return exact(mixed, evaluator, baselines, allowed)
        if self.method is ExplainMethod.OCCLUSION:
            return occluded(mixed, evaluator, answer, baselines, allowed)
        if self.method is ExplainMethod.GRADIENTS:
            return integrated(mixed, evaluator, self.gradients, answer, baselines, allowed)
        return sampled(mixed, evaluator, answer, baselines, allowed, self.first)

    def _changed(self, mixed: Mixture, evaluator: Evaluator, said: Mapping[str, Array], answer: float) -> Changed:
        own = classes_of(said)[0]
        if str(own) == str(self.options.label):
            raise BadInput(
                "the row has that class already", where="explain.class", remedy="name another, or leave it out for any other"
            )
        allowed = self.options.evaluations
        return counterfactual(mixed, evaluator, own, classes_of(self.theirs), answer, allowed, self.options.label)


def _method(
    signature: Signature,
    shapes: RowShapes,
    groups: FeatureGroups,
    others: Mapping[str, Array],
    background: Background | None,
    options: ExplainOptions,
    gradients: Gradients | None,
) -> tuple[ExplainMethod, FeatureGroups]:
    if options.method is not ExplainMethod.AUTO:
        return options.method, groups
    circumstances = Circumstances(
        shapes=shapes,
        groups=groups,
        rows=len(next(iter(others.values()))),
        evaluations=options.evaluations,
        gradients=gradients is not None and all(value.dtype.kind == "f" for value in others.values()),
        works=background.works if background else None,
        may_cut=options.blocks is None and not options.groups,
    )
    return choose(circumstances, lambda side: feature_groups(signature, shapes, options.groups, side))


def _target(
    output: str,
    said: Mapping[str, Array],
    seen: SeenAnswers,
    options: ExplainOptions,
    method: ExplainMethod,
    classes: bool,
) -> ExplainTarget:
    if method is not ExplainMethod.COUNTERFACTUAL:
        return resolve_target(output, said, seen, options)
    if not classes and class_output(seen.outputs) is None:
        raise BadInput(
            "the version tells no classes, and a counterfactual is a row of another class",
            where="explain.method",
            remedy="say shapley",
        )
    # What is to be lowered is the row's own class; the class that was named is the one to reach.
    return resolve_target(output, said, seen, ExplainOptions(output=options.output, scale=options.scale))


def _answers(score: Score, rows: Mapping[str, Array], batch_rows: int) -> dict[str, Array]:
    count = len(next(iter(rows.values())))
    parts: Sequence[Mapping[str, Array]] = [
        score({name: value[start : start + batch_rows] for name, value in rows.items()}) for start in range(0, count, batch_rows)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _reference_answers(score: Score, others: Mapping[str, Array], batch_rows: int) -> dict[str, Array]:
    try:
        return _answers(score, others, batch_rows)
    except (BadInput, EngineFailure) as error:
        raise BadInput(
            f"the version can't score the baseline: {error.what}", where="explain.baseline", remedy="give another baseline"
        ) from error


def _in_good_time(rows: int, took_s: float) -> int:
    """For how many rows about 30 ms suffice, a power of two, so that noise in the time rarely makes another number."""
    possible = max(SMALLEST_BATCH, int(rows * BATCH_S / max(took_s, 1e-6)))
    return int(1 << (possible.bit_length() - 1))


def _refuse(rows: Mapping[int, str]) -> None:
    if rows:
        remedy = "explain rows that the version can answer: see which of their values are NaN or infinite"
        raise RowsRefused.of({place: BadInput(why, remedy=remedy) for place, why in rows.items()})


def _row(tensors: Mapping[str, Array], place: int) -> dict[str, Array]:
    return {name: value[place : place + 1] for name, value in tensors.items()}
