"""Level and form of our logs, as the environment of a process says."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from cluster.errors import BadInput

FORM_VARIABLE, LEVEL_VARIABLE = "HEADRACE_LOG_FORM", "HEADRACE_LOG_LEVEL"


class LogForm(StrEnum):
    """How a line is written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """What is written, from there on."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """As the logging library has it."""
        return logging.getLevelNamesMapping()[self.name]


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Of all processes of a cluster."""

    form: LogForm = LogForm.TEXT
    level: LogLevel = LogLevel.WARNING

    @property
    def variables(self) -> dict[str, str]:
        """What tells processes of them."""
        return {FORM_VARIABLE: self.form.value, LEVEL_VARIABLE: self.level.value}


_Choice = TypeVar("_Choice", LogForm, LogLevel)


def log_settings(environment: Mapping[str, str] | None = None) -> LogSettings:
    """What the environment says; what it does not say is as usual. Raises BadInput."""
    seen = os.environ if environment is None else environment
    return LogSettings(
        _chosen(FORM_VARIABLE, seen.get(FORM_VARIABLE), LogForm.TEXT),
        _chosen(LEVEL_VARIABLE, seen.get(LEVEL_VARIABLE), LogLevel.WARNING),
    )


def _chosen(variable: str, said: str | None, usual: _Choice) -> _Choice:
    if not said:
        return usual
    try:
        return type(usual)(said.lower())
    except ValueError:
        known = ", ".join(type(usual))
        raise BadInput(f"there is no {said[:40]!r}", where=variable, remedy=f"one of {known}") from None
