"""The checks of a rollout, a file each. To add one: write its file, and list it here."""

from __future__ import annotations

from cluster.rollout.checks.check import Check
from cluster.rollout.checks.disagreement import DisagreementCheck
from cluster.rollout.checks.error_rate import ErrorRateCheck
from cluster.rollout.checks.labels import LabelCheck
from cluster.rollout.checks.slow import SlowCheck
from cluster.section import Section


class Checks(Section):
    """What is judged. Leave one out and it is not judged."""

    error_rate: ErrorRateCheck | None = ErrorRateCheck(margin=0.01)
    slow: SlowCheck | None = None
    disagreement: DisagreementCheck | None = None
    labels: LabelCheck | None = None

    def in_force(self) -> dict[str, Check]:
        """Those that are judged, by their field, in the order above."""
        found = {field: getattr(self, field) for field in type(self).model_fields}
        return {field: check for field, check in found.items() if check is not None}
