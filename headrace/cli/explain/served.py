"""The same explanation by a running service: its replicas explain, in the time that their users leave over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import NotFound
from cluster.signature import Signature
from deployments.engines.datatypes import Array
from deployments.explain.form import ExplainMethod, ExplainScale, Explanation
from deployments.gateway.protocol.v1 import rows_of
from deployments.scoring.nonfinite import spoken
from headrace.asking_why import ExplainedRow
from headrace.cli.explain.row_file import read_row
from headrace.client import ControlClient

WAITS_S = 60.0


def served_explanation(
    client: ControlClient, model: str, version: int | None, file: Path, at: int, asked: Mapping[str, Any]
) -> tuple[str, Explanation, dict[str, Array]]:
    """What is explained, why, and row `at` of the file, [1, ...] by input. Raises NotFound for a version that is not there, and
    what the service answers."""
    signature = _signature(client, model, version)
    row = read_row(file, signature, at)
    instance = {spec.name: _plain(rows_of(spec.name, spec.datatype, row[spec.name])[0]) for spec in signature.inputs}
    told = client.explain(model, [instance], version=version, timeout_s=asked.get("deadline_s") or WAITS_S, **asked)
    return f"{model} version {told.model_version}", as_explanation(told.explanations[0]), row


def as_explanation(row: ExplainedRow) -> Explanation:
    """What the service told, as this process would have computed it."""
    attributions = {name: np.array(value, np.float64) for name, value in row.attributions.items()}
    return Explanation(
        method=ExplainMethod(row.method),
        output=row.output,
        label=row.label,
        scale=ExplainScale(row.scale),
        baseline=row.baseline,
        answer=row.answer,
        attributions=attributions,
        errors={name: np.array(row.standard_errors[name], np.float64) for name in attributions},
        groups=row.groups,
        grouped={name: np.array(row.grouped.get(name, np.zeros(value.shape)), np.bool_) for name, value in attributions.items()},
        evaluations=row.evaluations,
        background_rows=row.background_rows,
        completeness_error=row.error,
        too_rough=row.too_rough,
        why=row.why,
        counterfactual=None
        if row.counterfactual is None
        else {name: np.array(each) for name, each in row.counterfactual.items()},
        changed=row.changed,
    )


def _signature(client: ControlClient, model: str, version: int | None) -> Signature:
    view = client.model(model)
    wanted = view.stable if version is None else version
    for one in view.versions:
        if one.version == wanted:
            return one.signature
    known = ", ".join(str(one.version) for one in view.versions) or "none"
    raise NotFound(f"no version {wanted or 'serves'}", where=model, remedy=f"its versions: {known}")


def _plain(value: Any) -> Any:
    return spoken(value) if isinstance(value, np.ndarray) else value
