"""What Prometheus and Alertmanager are told. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

JOB = "headrace"
RULES = tuple(Path(__file__).parent / "rules" / name for name in ("objectives.yml", "alerts.yml"))
SCRAPE_S = 5

# Written once: whom to tell is the operator's to say.
ALERTMANAGER = """\
# Yours to change: whom to tell of alerts, e.g. webhook_configs, email_configs. Read when `headrace up --prometheus` starts it.
route:
  receiver: nobody
  group_by: [alertname, model, stream, batch]
  group_wait: 10s
receivers:
  - name: nobody
"""


def prometheus_settings(door: str, key: Path, alertmanager: str) -> str:
    """prometheus.yml: the door is scraped with the home's key, alerts of our rules go to `alertmanager`. Both host:port."""
    document: dict[str, Any] = {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": [str(path) for path in RULES],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {
                "job_name": JOB,
                "authorization": {"credentials_file": str(key)},
                "static_configs": [{"targets": [door]}],
            }
        ],
    }
    return "# Written by `headrace up --prometheus` at each start.\n" + yaml.safe_dump(document, sort_keys=False)
