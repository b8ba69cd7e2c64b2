"""A panel, a board, and the JSON that Grafana imports."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDE, HIGH, A_ROW = 12, 8, 2


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph: its PromQL, and what each line is called. `unit` is one of Grafana's."""

    title: str
    unit: str
    query: str
    legend: str

    def document(self, number: int) -> dict[str, Any]:
        """As Grafana reads it; `number` from 0 says where it stands."""
        place = {"x": number % A_ROW * WIDE, "y": number // A_ROW * HIGH, "w": WIDE, "h": HIGH}
        target = {"refId": "A", "datasource": SOURCE, "expr": self.query, "legendFormat": self.legend}
        return {
            "id": number + 1,
            "type": "timeseries",
            "title": self.title,
            "datasource": SOURCE,
            "gridPos": place,
            "fieldConfig": {"defaults": {"unit": self.unit, "min": None}, "overrides": []},
            "options": {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list", "placement": "bottom"}},
            "targets": [target],
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """A variable of a board: the values that `label` of `metric` has."""

    label: str
    metric: str

    def document(self) -> dict[str, Any]:
        """As Grafana reads it."""
        query = f"label_values({self.metric}, {self.label})"
        return {
            "name": self.label,
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": self.label},
            "definition": query,
            "refresh": 2,
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "current": {"text": "All", "value": "$__all"},
        }


@dataclass(frozen=True, slots=True)
class Board:
    """One board. `uid` stays, so that importing it again replaces it."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    choices: tuple[Choice, ...] = ()

    def text(self) -> str:
        """The file that Grafana imports."""
        source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source", "current": {}}
        document = {
            "uid": self.uid,
            "title": f"Headrace: {self.title}",
            "tags": ["headrace"],
            "schemaVersion": 38,
            "editable": True,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "templating": {"list": [source, *(one.document() for one in self.choices)]},
            "panels": [panel.document(number) for number, panel in enumerate(self.panels)],
        }
        return json.dumps(document, indent=1) + "\n"
