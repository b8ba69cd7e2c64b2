"""The whole examination: what was seen, and what is wrong with it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from headrace.doctor.machines import judge_machines
from headrace.doctor.problem import Problem, Weight
from headrace.doctor.reach import judge_reach
from headrace.doctor.seen import ClusterSeen
from headrace.doctor.software import judge_software


class Diagnosis(BaseModel):
    """What is wrong, faults first, and what was seen."""

    model_config = ConfigDict(frozen=True)

    problems: tuple[Problem, ...]
    seen: ClusterSeen

    @property
    def faults(self) -> int:
        """How many problems will make something fail."""
        return sum(problem.weight is Weight.FAULT for problem in self.problems)


def judge(seen: ClusterSeen) -> Diagnosis:
    """Pure."""
    found = [*judge_reach(seen), *judge_software(seen), *judge_machines(seen)]
    return Diagnosis(problems=tuple(sorted(found, key=lambda one: (one.weight, one.check, one.where))), seen=seen)
