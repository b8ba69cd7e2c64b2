"""Why a batch's rows were answered so, as columns of its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from cluster.errors import BadInput
from consumers.batch.read.columns import Binding
from consumers.batch.score.answers import explained_columns
from consumers.batch.score.rowscorer import Explains, RowScorer
from consumers.batch.write.records import RunRecord
from deployments.engines.datatypes import Array
from deployments.explain.asking import section_options
from deployments.explain.form import Explanation
from deployments.explain.strongest import strongest
from deployments.privacy.released import cannot_explain

ROWS_A_CALL = 16


class ExplainColumns:
    """Makes the columns of one run's rows. Used from one thread."""

    def __init__(self, record: RunRecord, scorer: RowScorer, bindings: Sequence[Binding]) -> None:
        """The run's document must ask for explanations. Raises BadInput where its options don't fit the version, Forbidden where
        the model's outputs are limited."""
        section = record.spec.explain
        if section is None or not isinstance(scorer, Explains):
            raise BadInput("rows can't be explained here", where="spec.explain", remedy="leave it out")
        if record.pinned.outputs:
            raise cannot_explain(record.pinned.model)
        self._top = section.top
        self._options = section_options(section, record.pinned.signature)
        self._call = scorer.explains(record.pinned, self._options)
        self._names = {one.name: one.columns for one in bindings if len(one.columns) > 1}
        self._any = False

    def of(self, tensors: Mapping[str, Array]) -> dict[str, pa.Array]:
        """For each of n rows, n at least 1, the names and values of its strongest features, and its error; null where a row
        can't be explained. Raises BadInput where none can."""
        found: list[Explanation | None] = []
        for start in range(0, _rows(tensors), ROWS_A_CALL):
            found += self._few({name: tensor[start : start + ROWS_A_CALL] for name, tensor in tensors.items()})
        worth = [None if one is None else strongest(one, self._top, self._names) for one in found]
        return explained_columns(
            [None if each is None else [one.feature for one in each] for each in worth],
            [None if each is None else [one.worth for one in each] for each in worth],
            [None if one is None else one.completeness_error for one in found],
        )

    def _few(self, tensors: Mapping[str, Array]) -> list[Explanation | None]:
        try:
            found: list[Explanation | None] = [*self._call(tensors)]
        except BadInput:
            found = [self._one({name: each[row : row + 1] for name, each in tensors.items()}) for row in range(_rows(tensors))]
            if not self._any and not any(found):  # most likely it is no row's fault
                raise
        self._any = self._any or any(found)
        return found

    def _one(self, tensors: Mapping[str, Array]) -> Explanation | None:
        try:
            return self._call(tensors)[0]
        except BadInput:
            return None


def _rows(tensors: Mapping[str, Array]) -> int:
    return len(next(iter(tensors.values())))
