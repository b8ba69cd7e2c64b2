"""What operators install is what the code renders, names only what there is, and leads to pages that are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from cluster.watch.catalogue import BY_NAME, MetricKind
from ops.boards.boards import BOARDS
from ops.render import BOARD_FOLDER, CHART_FOLDER, RULES_FOLDER, rendered

ROOT = Path(__file__).parents[3]
FILES = rendered()
RULES = [
    rule
    for name, text in FILES.items()
    if name.endswith(".yml")
    for group in yaml.safe_load(text)["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
QUERIES = [panel.query for board in BOARDS for panel in board.panels] + [rule["expr"] for rule in RULES]


@pytest.mark.parametrize("name", FILES)
def test_what_is_checked_in_is_what_the_code_renders(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == FILES[name], "run `make ops`"


def test_nothing_else_lies_there() -> None:
    rules = (*(ROOT / RULES_FOLDER).iterdir(), *(ROOT / CHART_FOLDER).iterdir())
    found = {path.relative_to(ROOT).as_posix() for path in (*(ROOT / BOARD_FOLDER).glob("*.json"), *rules)}
    assert found == set(FILES)
    assert (ROOT / "ops" / "prometheus").resolve() == (ROOT / RULES_FOLDER).resolve()


def _told() -> set[str]:
    """What /metrics has: a counter and a gauge by their names, a histogram by three."""
    parts = {MetricKind.HISTOGRAM: ("_bucket", "_sum", "_count")}
    return {f"{name}{part}" for name, metric in BY_NAME.items() for part in parts.get(metric.kind, ("",))}


def test_every_name_of_ours_in_a_query_is_one_of_the_catalogue() -> None:
    named = {name for query in QUERIES for name in re.findall(r"\bheadrace_\w+", query)}
    assert named - _told() == set()
    assert len(named) > 40


def test_every_metric_is_shown_on_a_board() -> None:
    shown = {name for board in BOARDS for panel in board.panels for name in re.findall(r"\bheadrace_\w+", panel.query)}
    assert set(BY_NAME) - {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} - shown == set()


def test_labels_in_queries_are_labels_of_their_metrics() -> None:
    for query in QUERIES:
        for name, chosen in re.findall(r"\b(headrace_\w+)\{([^}]*)\}", query):
            metric = BY_NAME.get(name) or BY_NAME[re.sub(r"_(bucket|sum|count)$", "", name)]
            assert set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", chosen)) <= {*metric.labels, "le"}, query


def test_boards_have_a_source_to_choose_and_names_that_stay() -> None:
    documents = [json.loads(text) for name, text in FILES.items() if name.endswith(".json")]
    assert sorted(one["uid"] for one in documents) == sorted(
        f"headrace-{name}" for name in ("service", "model", "rollouts", "streams", "batch", "node")
    )
    for one in documents:
        assert one["templating"]["list"][0]["type"] == "datasource"
        assert len({panel["id"] for panel in one["panels"]}) == len(one["panels"])


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_an_alert_says_what_is_wrong_and_leads_to_a_page_about_it(rule: dict[str, dict[str, str]]) -> None:
    told = rule["annotations"]
    assert told["summary"]
    assert told["description"]
    assert rule["for"]
    assert rule["labels"]["severity"] in ("page", "ticket")
    page, _, heading = told["runbook_url"].partition("#")
    headings = re.findall(r"^## (\w+)$", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [one for one in headings if one.lower() == heading] == [rule["alert"]]


def test_runbooks_may_lie_elsewhere() -> None:
    text = rendered("https://runbooks.example/headrace")[f"{RULES_FOLDER}/alerts.yml"]
    urls = [rule["annotations"]["runbook_url"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    assert all(url.startswith("https://runbooks.example/headrace/") for url in urls)
