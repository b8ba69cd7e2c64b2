"""`headrace doctor` as a command of its own, beside what runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from headrace.doctor.examine import Diagnosis
from headrace.doctor.problem import Problem

NOT_OF_THE_MACHINE = ("Kafka", "services", "shared paths", "store", "nodes")


def diagnosed(home: Path, **variables: str) -> list[Problem]:
    """What it finds wrong, but for what this machine itself may lack: room on its disks, or a port. It sees no variable of this
    process that is Ray's, Kafka's or ours, but these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HEADRACE_", "KAFKA_"))}
    told = subprocess.run(
        [str(Path(sys.executable).with_name("headrace")), "doctor", "--json"],
        env={**kept, "HEADRACE_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert told.stdout.startswith("{"), told.stderr
    found = Diagnosis.model_validate_json(told.stdout)
    return [problem for problem in found.problems if problem.check in NOT_OF_THE_MACHINE]
