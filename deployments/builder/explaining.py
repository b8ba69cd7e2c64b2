"""What a version is explained with: rows to compare with, methods that work on its sample rows, and what moves its answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cluster.errors import HeadraceError
from cluster.signature import Signature
from deployments.builder.profiling import check_names
from deployments.builder.report import ExplainReport, FeatureImportance, MethodTrial
from deployments.builder.sources.importing import Imported
from deployments.builder.spec import BuildSpec, Explaining
from deployments.engines.answers import decided
from deployments.engines.datatypes import Array
from deployments.engines.port import Engine, gradients_of
from deployments.explain.explaining import explain_rows
from deployments.explain.features import feature_name
from deployments.explain.form import Background, ExplainMethod, ExplainOptions, Explanation, Floats
from deployments.explain.result import COMPLETE_ENOUGH, CUT

MOST_ROWS, MOST_BYTES = 64, 512 << 10
# As many rows may stand in for classes that few rows have.
MOST_RARE = 16
TRIAL_ROWS, TRIAL_S = 4, 1.0
IMPORTANCE_ROWS, IMPORTANCE_S, IMPORTANCE_EVALUATIONS = 32, 3.0, 2000
SHOWN = 20
# Two standard errors of a mean over so many rows or more.
NORMAL = 1.96
METHODS = (
    ExplainMethod.EXACT,
    ExplainMethod.SHAPLEY,
    ExplainMethod.GRADIENTS,
    ExplainMethod.OCCLUSION,
    ExplainMethod.COUNTERFACTUAL,
)
SUMS_UP = {ExplainMethod.EXACT, ExplainMethod.SHAPLEY, ExplainMethod.GRADIENTS}


def check_explained(asked: Explaining, signature: Signature) -> None:
    """Raises BadInput where the document leaves out what is no input."""
    check_names(asked.leave_out, [spec.name for spec in signature.inputs], "input", "explain.leave_out")


def explain_version(
    asked: BuildSpec, spec: BuildSpec, imported: Imported, engine: Engine, answers: Mapping[str, Array]
) -> tuple[Background, ExplainReport]:
    """The kept variant's background, and what explanations of it were seen to be worth. Blocks for seconds at most.

    `asked` is the section as the user wrote it, `spec` with what its source brought, an input example for one; `answers` are what
    the variant said to the rows it was judged by.
    """
    classes = spec.evaluate is None or spec.evaluate.task == "classification"
    if not spec.explain.make:
        none = Background({}, classes=classes, why_none="the document of its build says explain: false")
        return none, ExplainReport(background="none, as the document says")
    chosen = background_places(answers, imported.rows.inputs, classes=classes)
    rows = {name: value[chosen] for name, value in imported.rows.inputs.items()}
    for name in spec.explain.leave_out:
        rows[name] = np.full(rows[name].shape, b"" if rows[name].dtype == np.object_ else 0, dtype=rows[name].dtype)
    background = Background(rows, classes=classes, left_out=spec.explain.leave_out)
    trials = _trials(engine, imported, background)
    works = tuple(ExplainMethod(trial.method) for trial in trials if trial.works)
    background = replace(background, works=works)
    explained = _explained(engine, imported, background)
    report = ExplainReport(
        background=_words(background, asked, spec),
        methods=tuple(trials),
        importance=importance(explained),
        importance_rows=len(explained),
        features=len(_worths(explained[0])) if explained else 0,
        scale=explained[0].scale if explained else "",
    )
    return background, report


def background_places(answers: Mapping[str, Array], rows: Mapping[str, Array], *, classes: bool) -> Array:
    """Which of n rows are kept, in random order: 64 at most, and 512 kB, with a row of every class that the version gave."""
    count = len(next(iter(rows.values())))
    row_bytes = sum(_bytes(value) for value in rows.values()) / max(1, count)
    wanted = int(min(count, MOST_ROWS, max(1, MOST_BYTES // max(1, row_bytes))))
    order = np.random.default_rng(0).permutation(count)
    if not classes:
        return order[:wanted]
    given = np.unique(np.array([str(one) for one in decided(answers).tolist()])[order], return_index=True)[1]
    first = sorted(given.tolist())[: min(MOST_RARE, max(1, wanted // 2))]
    places = np.array([*first, *(place for place in range(count) if place not in set(first))])[:wanted]
    found: Array = order[np.sort(places)]
    return found


def importance(explained: Sequence[Explanation]) -> tuple[FeatureImportance, ...]:
    """The strongest features over the rows, each with the mean size of its part."""
    if not explained:
        return ()
    names = _names(explained[0])
    sizes = np.abs(np.array([_worths(one) for one in explained]))
    means = sizes.mean(axis=0)
    spread = sizes.std(axis=0, ddof=1) / np.sqrt(len(sizes)) if len(sizes) > 1 else np.zeros(len(names))
    strongest = np.argsort(-means, kind="stable")[:SHOWN].tolist()
    return tuple(
        FeatureImportance(
            feature=names[place],
            mean=float(means[place]),
            low=float(max(0.0, means[place] - NORMAL * spread[place])),
            high=float(means[place] + NORMAL * spread[place]),
        )
        for place in strongest
    )


def _trials(engine: Engine, imported: Imported, background: Background) -> list[MethodTrial]:
    rows = imported.rows.take(slice(TRIAL_ROWS)).inputs
    found: list[MethodTrial] = []
    right: list[Floats] = []
    for method in METHODS:
        options = ExplainOptions(method, deadline_s=TRIAL_S)
        started_s = time.perf_counter()
        try:
            explained = explain_rows(engine.score, rows, engine.signature, background, options, gradients=gradients_of(engine))
        except HeadraceError as error:
            found.append(MethodTrial(method=method, works=False, why=error.what))
            continue
        took_s = time.perf_counter() - started_s
        right = right or [_flat(one) for one in explained]
        found.append(_trial(method, explained, took_s, right))
    return found


def _trial(method: ExplainMethod, explained: Sequence[Explanation], took_s: float, right: Sequence[Floats]) -> MethodTrial:
    apart = [one.completeness_error / max(abs(one.answer - one.baseline), 1e-6) for one in explained]
    cut = any(CUT in one.why for one in explained)
    whole = float(np.median(apart)) <= COMPLETE_ENOUGH
    return MethodTrial(
        method=method,
        works=whole or cut or method not in SUMS_UP,
        why=next((one.why for one in explained if one.too_rough), ""),
        rows=len(explained),
        ms_a_row=1000 * took_s / len(explained),
        evaluations=float(np.mean([one.evaluations for one in explained])),
        completeness_error=float(np.mean(apart)),
        agreement=_agreement([_flat(one) for one in explained], right),
    )


def _agreement(found: Sequence[Floats], right: Sequence[Floats]) -> float | None:
    """The mean correlation over rows; None where nothing varies."""
    pairs = [
        float(np.corrcoef(mine, theirs)[0, 1])
        for mine, theirs in zip(found, right, strict=True)
        if len(mine) > 1 and np.ptp(mine) > 0 and np.ptp(theirs) > 0
    ]
    return float(np.mean(pairs)) if pairs else None


def _explained(engine: Engine, imported: Imported, background: Background) -> list[Explanation]:
    """As many rows as there is time for, explained as `auto` does."""
    rows = imported.rows.take(slice(IMPORTANCE_ROWS)).inputs
    ends_s = time.monotonic() + IMPORTANCE_S
    found: list[Explanation] = []
    for place in range(len(next(iter(rows.values())))):
        left_s = ends_s - time.monotonic()
        if left_s <= 0:
            break
        options = ExplainOptions(evaluations=IMPORTANCE_EVALUATIONS, deadline_s=left_s)
        row = {name: value[place : place + 1] for name, value in rows.items()}
        try:
            found += explain_rows(engine.score, row, engine.signature, background, options, gradients=gradients_of(engine))
        except HeadraceError:  # the trials say why
            return []
    return [one for one in found if CUT not in one.why]


def _names(one: Explanation) -> list[str]:
    """Groups where there are some, else every feature."""
    parts = one.attributions.items()
    return list(one.groups) or [feature_name(name, value.shape, place) for name, value in parts for place in range(value.size)]


def _worths(one: Explanation) -> Floats:
    """What each of `_names` is worth."""
    return np.array([value for value, _ in one.groups.values()]) if one.groups else _flat(one)


def _flat(one: Explanation) -> Floats:
    return np.concatenate([value.ravel() for value in one.attributions.values()])


def _bytes(value: Array) -> int:
    return sum(len(item) for item in value.ravel().tolist()) if value.dtype == np.object_ else value.nbytes


def _words(background: Background, asked: BuildSpec, spec: BuildSpec) -> str:
    told = [f"{background.count} rows"]
    if spec.evaluate is None:
        told.append("drawn at random, since the document names none to evaluate on")
    elif asked.evaluate is None:
        told.append("of the input example")
    if background.left_out:
        told.append(f"without {', '.join(background.left_out)}")
    return ", ".join(told)
