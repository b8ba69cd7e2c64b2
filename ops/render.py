"""`make ops`: writes the boards and the rules from code.

`python -m ops.render --runbooks URL --into FOLDER` writes them elsewhere, with alerts that lead to pages under that URL.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ops.boards.boards import BOARDS
from ops.rules.alerts import alert_groups
from ops.rules.foreign import foreign_groups
from ops.rules.objectives import objective_groups
from ops.rules.rule import RUNBOOKS, rules_file

BOARD_FOLDER = "ops/boards"
# In the product, where `headrace up --prometheus` finds them; `ops/prometheus` leads here.
RULES_FOLDER = "headrace/local/prometheus/rules"
# A chart holds all that it needs.
CHART_FOLDER = "ops/helm/headrace/files"


def rendered(runbooks: str = RUNBOOKS) -> dict[str, str]:
    """Every file, by its path from the repository's root."""
    boards = {f"{BOARD_FOLDER}/{one.uid}.json": one.text() for one in BOARDS}
    alerts, objectives = rules_file(alert_groups(), runbooks), rules_file(objective_groups(), runbooks)
    rules = {
        f"{RULES_FOLDER}/alerts.yml": alerts,
        f"{RULES_FOLDER}/objectives.yml": objectives,
        f"{RULES_FOLDER}/other-names.optional.yml": rules_file(foreign_groups(), runbooks),
        f"{CHART_FOLDER}/alerts.yml": alerts,
        f"{CHART_FOLDER}/objectives.yml": objectives,
    }
    return boards | rules


def main() -> None:
    """Writes them all."""
    parser = argparse.ArgumentParser(description="Writes Grafana's boards and Prometheus' rules.")
    parser.add_argument("--runbooks", default=RUNBOOKS, help="the folder or URL under which docs/runbooks is read")
    parser.add_argument("--into", type=Path, default=Path(__file__).parents[1], help="where to; the repository itself")
    options = parser.parse_args()
    for name, text in rendered(options.runbooks.rstrip("/")).items():
        path = options.into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
