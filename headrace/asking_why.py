"""What `POST /v1/models/M:explain` is asked and answers, for scripts and the command line. Reads and writes no connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster import errors
from cluster.findings import first_finding

_KINDS: dict[int, type[errors.HeadraceError]] = {
    400: errors.BadInput,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    413: errors.TooLarge,
    429: errors.OverQuota,
    500: errors.EngineFailure,
    503: errors.NoCapacity,
}


class ExplainedRow(BaseModel):
    """Why one row was answered so: see `deployments.explain.form.Explanation`. `attributions` and `standard_errors` are nested
    lists in each input's shape, `error` is the completeness error."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    attributions: dict[str, Any]
    standard_errors: dict[str, Any] = {}
    baseline: float
    answer: float
    error: float
    method: str
    output: str
    label: int | str | bool | None = None
    scale: str
    evaluations: int
    background_rows: int = 0
    too_rough: bool = False
    why: str = ""
    groups: dict[str, tuple[float, float]] = {}
    grouped: dict[str, Any] = {}
    counterfactual: dict[str, Any] | None = None
    changed: tuple[str, ...] = ()


class ExplainedRows(BaseModel):
    """An explanation of each row, by the version that answers them."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True, protected_namespaces=())

    model_name: str
    model_version: str
    explanations: tuple[ExplainedRow, ...]


def explain_path(model: str, version: int | None) -> str:
    """Where a model, or one of its versions, is asked."""
    return f"/v1/models/{model}:explain" if version is None else f"/v1/models/{model}/versions/{version}:explain"


def read_explained(response: httpx.Response, where: str) -> ExplainedRows:
    """The explanations in an answer. Raises the error that it holds, of the class that its status says."""
    try:
        data: Any = response.json()
    except ValueError:
        data = None
    if response.is_success:
        try:
            return ExplainedRows.model_validate(data)
        except ValidationError as error:
            raise errors.HeadraceError(
                f"the answer is not what this version of headrace knows: {first_finding(error).words}",
                where=where,
                remedy="run the same version of headrace here and there",
            ) from error
    told = data.get("error") if isinstance(data, Mapping) else None
    kind = _KINDS.get(response.status_code, errors.HeadraceError)
    if not isinstance(told, str):
        raise errors.Unreachable(f"HTTP {response.status_code} without a reason", where=where, remedy="check HEADRACE_URL")
    raise kind(told, where=where)
