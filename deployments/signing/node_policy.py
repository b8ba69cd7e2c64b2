"""Where a node's signing policy is. Apart from what judges by it: who only names it opens no version."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

POLICY_VARIABLE = "HEADRACE_SIGNING"


def policy_file(environment: Mapping[str, str] | None = None) -> Path | None:
    """The policy that this node's environment names; None where it names none, and any version may be unsigned."""
    named = (os.environ if environment is None else environment).get(POLICY_VARIABLE, "")
    return Path(named) if named else None
