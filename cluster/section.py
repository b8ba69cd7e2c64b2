"""What every section of a project file is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic_core import ErrorDetails


class Section(BaseModel):
    """Base of the sections: nothing unknown, and finite numbers only, for JSON has no others and so no store could keep them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def sentence(finding: ErrorDetails) -> str:
    """What pydantic found wrong, without its name for an error that a validator of ours raised."""
    return finding["msg"].removeprefix("Value error, ")
