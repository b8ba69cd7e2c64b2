"""A rule, a group of rules, and the file that Prometheus reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import yaml

RUNBOOKS = "docs/runbooks"


class Severity(StrEnum):
    """Who is told, and how fast."""

    PAGE = "page"  # wakes somebody
    TICKET = "ticket"  # looked at in working hours


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """A series that Prometheus keeps, by a name of its own."""

    record: str
    expr: str
    labels: dict[str, str] = field(default_factory=dict)

    def document(self, runbooks: str) -> dict[str, Any]:
        """As Prometheus reads it."""
        del runbooks  # nobody is told of it
        return {"record": self.record, "expr": self.expr, **({"labels": self.labels} if self.labels else {})}


@dataclass(frozen=True, slots=True)
class AlertRule:
    """Something to tell a person. `page` names the runbook's file, without its suffix; the alert has a heading there."""

    alert: str
    expr: str
    lasts: str
    severity: Severity
    summary: str
    description: str
    page: str
    labels: dict[str, str] = field(default_factory=dict)

    def document(self, runbooks: str) -> dict[str, Any]:
        """As Prometheus reads it. `runbooks` is the folder or the URL under which the pages lie."""
        return {
            "alert": self.alert,
            "expr": self.expr,
            "for": self.lasts,
            "labels": {"severity": str(self.severity), **self.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{runbooks}/{self.page}.md#{self.alert.lower()}",
            },
        }


@dataclass(frozen=True, slots=True)
class RuleGroup:
    """Rules that are evaluated in turn."""

    name: str
    rules: tuple[RecordingRule | AlertRule, ...]


def rules_file(groups: tuple[RuleGroup, ...], runbooks: str = RUNBOOKS) -> str:
    """The whole file, in YAML."""
    document = {"groups": [{"name": one.name, "rules": [rule.document(runbooks) for rule in one.rules]} for one in groups]}
    return "# Written by `make ops`; change ops/rules/ instead.\n" + yaml.safe_dump(document, sort_keys=False, width=130)
