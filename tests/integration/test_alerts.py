"""Every alert on the real rules engine: it fires where it should, and stays quiet at rest, without traffic and with little."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ops.render import RULES_FOLDER, rendered
from tests.support.promtool import needed

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parents[2]
UP = {'up{job="headrace", instance="a"}': "1x{n}", "headrace_build_info": "1x{n}", "headrace_gateways": "1x{n}"}


@dataclass(frozen=True)
class Case:
    """Series in promtool's notation (`{n}`: for as long as the case lasts) beside `UP`, and which alerts fire after `minutes`."""

    name: str
    series: dict[str, str]
    minutes: int
    firing: tuple[str, ...] = ()


def _requests(**outcomes: str) -> dict[str, str]:
    return {f'headrace_requests_total{{model="m", version="1", protocol="http", outcome="{k}"}}': v for k, v in outcomes.items()}


def _seconds(fast: str, whole: str) -> dict[str, str]:
    return {
        'headrace_request_seconds_bucket{model="m", version="1", protocol="http", le="0.25"}': fast,
        'headrace_request_seconds_count{model="m", version="1", protocol="http"}': whole,
    }


def _ages(fast: str, whole: str) -> dict[str, str]:
    return {
        'headrace_stream_record_age_seconds_bucket{stream="s", le="60.0"}': fast,
        'headrace_stream_record_age_seconds_count{stream="s"}': whole,
    }


def _gauge(name: str, value: str, **labels: str) -> dict[str, str]:
    chosen = ", ".join(f'{label}="{one}"' for label, one in labels.items())
    return {f"headrace_{name}{{{chosen}}}": value}


M = {"model": "m", "version": "1"}
AVAILABILITY, LATENCY, FRESHNESS = ("HeadraceRequestsAvailability", "HeadraceRequestsLatency", "HeadraceStreamsFreshness")
CASES = (
    Case("at rest", _requests(ok="0+600x{n}", failed="0x{n}", refused="0+300x{n}") | _seconds("0+600x{n}", "0+600x{n}"), 120),
    Case(
        "no traffic", _requests(ok="1000x{n}", failed="50x{n}") | _seconds("5x{n}", "1050x{n}") | _ages("5x{n}", "100x{n}"), 120
    ),
    Case("one failure in little traffic", _requests(ok="0+0x30 0+1x{n}", failed="0x30 1x{n}"), 60),
    Case(
        "little traffic, all fail",
        _requests(ok="0x{n}", failed="0+0.1x{n}"),
        200,
        (f"{AVAILABILITY}FastBurn", f"{AVAILABILITY}SlowBurn"),
    ),
    Case(
        "requests fail", _requests(ok="0+600x{n}", failed="0+60x{n}"), 70, (f"{AVAILABILITY}FastBurn", f"{AVAILABILITY}SlowBurn")
    ),
    Case("requests fail slowly", _requests(ok="0+6000x{n}", failed="0+24x{n}"), 180, (f"{AVAILABILITY}SlowBurn",)),
    Case("callers' faults", _requests(ok="0+600x{n}", refused="0+600x{n}", over_quota="0+60x{n}", gone="0+60x{n}"), 70),
    Case("requests are slow", _seconds("0+400x{n}", "0+600x{n}"), 70, (f"{LATENCY}FastBurn", f"{LATENCY}SlowBurn")),
    Case("requests are a little slow", _seconds("0+576x{n}", "0+600x{n}"), 180, (f"{LATENCY}SlowBurn",)),
    Case("records are late", _ages("0+100x{n}", "0+600x{n}"), 70, (f"{FRESHNESS}FastBurn", f"{FRESHNESS}SlowBurn")),
    Case("records are a little late", _ages("0+576x{n}", "0+600x{n}"), 180, (f"{FRESHNESS}SlowBurn",)),
    Case("scrape fails", {'up{job="headrace", instance="b"}': "0x{n}"}, 5, ("HeadraceScrapeFailing",)),
    Case("not scraped", {'up{job="headrace", instance="a"}': "_x{n}"}, 15, ("HeadraceNotScraped",)),
    Case("no gateway", {"headrace_gateways": "_x{n}"}, 5, ("HeadraceNoGateway",)),
    Case("keys refused", _gauge("refused_credentials_total", "0+20x{n}", reason="unknown"), 20, ("HeadraceCredentialsRefused",)),
    Case("few keys refused", _gauge("refused_credentials_total", "0+1x{n}", reason="unknown"), 20),
    Case(
        "stable away",
        _gauge("version_ready", "0x{n}", **M) | _gauge("stable_version", "1x{n}", model="m"),
        15,
        ("HeadraceStableNotReady",),
    ),
    Case(
        "candidate away",
        _gauge("version_ready", "0x{n}", **M) | _gauge("stable_version", "2x{n}", model="m"),
        15,
        ("HeadraceVersionNotReady",),
    ),
    Case("candidate warms", _gauge("version_ready", "0x5 1x{n}", **M), 15),
    Case(
        "replicas missing",
        _gauge("replicas", "1x{n}", **M) | _gauge("replicas_wanted", "2x{n}", **M),
        20,
        ("HeadraceReplicasMissing",),
    ),
    Case("replicas there", _gauge("replicas", "2x{n}", **M) | _gauge("replicas_wanted", "2x{n}", **M), 20),
    Case(
        "version fails rows",
        _gauge("row_errors_total", "0+60x{n}", **M, way="online", reason="engine_failure")
        | _gauge("rows_total", "0+600x{n}", **M, way="online"),
        20,
        ("HeadraceVersionFailsRows",),
    ),
    Case(
        "version answers no row",
        _gauge("row_errors_total", "0+60x{n}", **M, way="online", reason="engine_failure"),
        20,
        ("HeadraceVersionFailsRows",),
    ),
    Case("rows are bad", _gauge("row_errors_total", "0+600x{n}", **M, way="online", reason="bad_input"), 20),
    Case("held", _gauge("rollout_held", "1x{n}", model="m"), 20, ("HeadraceRolloutHeld",)),
    Case("held briefly", _gauge("rollout_held", "0x10 1x{n}", model="m"), 20),
    Case("drift", _gauge("drift_alarms", "3x{n}", model="m", version="1"), 5, ("HeadraceDrift",)),
    Case("no drift", _gauge("drift_alarms", "0x{n}", model="m", version="1"), 20),
    Case("rolled back", _gauge("rollout_state", "_x70 1x{n}", model="m", state="rolled_back"), 80, ("HeadraceRolledBack",)),
    Case("rolled back long ago", _gauge("rollout_state", "1x{n}", model="m", state="rolled_back"), 80),
    Case("promoted", _gauge("rollout_state", "1x{n}", model="m", state="promoted"), 80),
    Case("stream not ready", _gauge("stream_ready", "0x{n}", stream="s"), 10, ("HeadraceStreamNotReady",)),
    Case("stream ready", _gauge("stream_ready", "0x3 1x{n}", stream="s"), 10),
    Case("stream failed", _gauge("stream_workers", "1x{n}", stream="s", phase="failed"), 5, ("HeadraceStreamFailed",)),
    Case("stream stuck", _gauge("stream_workers", "1x{n}", stream="s", phase="cut_off"), 10, ("HeadraceStreamStuck",)),
    Case("stream runs", _gauge("stream_workers", "1x{n}", stream="s", phase="running"), 10),
    Case("lag grows", _gauge("stream_lag_records", "0+1000x{n}", stream="s"), 60, ("HeadraceStreamLagGrowing",)),
    Case("lag stands", _gauge("stream_lag_records", "50000x{n}", stream="s"), 60),
    Case("lag shrinks", _gauge("stream_lag_records", "90000-100x{n}", stream="s"), 60),
    Case("record waits", _gauge("stream_oldest_record_age_seconds", "400x{n}", stream="s"), 10, ("HeadraceStreamRecordsWait",)),
    Case("no record waits", _gauge("stream_oldest_record_age_seconds", "4x{n}", stream="s"), 10),
    Case("dead letter", _gauge("dead_letters_total", "0x5 3x{n}", stream="s", reason="bad_input"), 10, ("HeadraceDeadLetters",)),
    Case("dead letters of old", _gauge("dead_letters_total", "3x{n}", stream="s", reason="bad_input"), 30),
    Case("batch late", _gauge("batch_schedule_delay_seconds", "900x{n}", batch="b"), 5, ("HeadraceBatchLate",)),
    Case("batch on time", _gauge("batch_schedule_delay_seconds", "2x{n}", batch="b"), 5),
    Case(
        "batch failed once",
        _gauge("batch_last_run_failed", "1x{n}", batch="b") | _gauge("batch_last_success_timestamp_seconds", "0x{n}", batch="b"),
        20,
        ("HeadraceBatchFailed",),
    ),
    Case(
        "batch never well",
        _gauge("batch_last_run_failed", "1x{n}", batch="b"),
        20,
        ("HeadraceBatchFailed", "HeadraceBatchNoSuccess"),
    ),
    Case("batch well", _gauge("batch_last_run_failed", "0x{n}", batch="b"), 20),
    Case("troubles", _gauge("controller_troubles", "2x{n}"), 15, ("HeadraceControllerTroubles",)),
    Case("trouble for a moment", _gauge("controller_troubles", "2x3 0x{n}"), 15),
    Case("table old", _gauge("table_age_seconds", "90x{n}"), 5, ("HeadraceTableOld",)),
    Case("table new", _gauge("table_age_seconds", "2x{n}"), 5),
    Case(
        "controller slow",
        _gauge("controller_tick_seconds_bucket", "0x{n}", le="2.5")
        | _gauge("controller_tick_seconds_bucket", "0+60x{n}", le="5.0")
        | _gauge("controller_tick_seconds_bucket", "0+60x{n}", le="+Inf"),
        30,
        ("HeadraceControllerSlow",),
    ),
    Case(
        "controller quick",
        _gauge("controller_tick_seconds_bucket", "0+60x{n}", le="0.05")
        | _gauge("controller_tick_seconds_bucket", "0+60x{n}", le="+Inf"),
        30,
    ),
    Case("worse than built", _gauge("quality_alarm", "0x5 1x{n}", **M), 10, ("HeadraceWorseThanBuilt",)),
    Case("as good as built", _gauge("quality_alarm", "0x{n}", **M), 10),
    Case("values dropped", _gauge("dropped_values_total", "0x5 3x{n}"), 10, ("HeadraceValuesDropped",)),
    Case(
        "a first refused artifact, a first use, a gap",
        _gauge("refused_commands_total", "_x5 1x{n}", command="version.register", reason="BadArtifact")
        | _gauge("first_uses_total", "_x5 1x{n}", model="m")
        | _gauge("audit_gaps_total", "0x5 1x{n}"),
        10,
        ("HeadraceArtifactRefused", "HeadraceAuditGap", "HeadraceFirstUse"),
    ),
    Case(
        "another refused artifact, and another first use",
        _gauge("refused_commands_total", "4x30 5x{n}", command="version.register", reason="BadArtifact")
        | _gauge("first_uses_total", "4x30 5x{n}", model="m"),
        40,
        ("HeadraceArtifactRefused", "HeadraceFirstUse"),
    ),
    Case(
        "refused and first used long ago, for other reasons, without gaps",
        _gauge("refused_commands_total", "4x{n}", command="version.register", reason="BadArtifact")
        | _gauge("refused_commands_total", "0+5x{n}", command="apply", reason="BadInput")
        | _gauge("first_uses_total", "4x{n}", model="m")
        | _gauge("audit_gaps_total", "3x{n}"),
        60,
    ),
    Case("checkpoints that nobody takes", _gauge("checkpoint_places_away", "0x5 1x{n}"), 25, ("HeadraceCheckpointsAway",)),
    Case("checkpoints that are taken again", _gauge("checkpoint_places_away", "0x5 1x10 0x{n}"), 25),
    Case("more callers than anybody has", _gauge("seen_callers", "1000001x{n}"), 5, ("HeadraceManyCallers",)),
    Case("many callers", _gauge("seen_callers", "1000000x{n}"), 5),
    Case(
        "a key and a certificate that end",
        _gauge("key_expires_timestamp_seconds", "1000000x{n}", key="team")
        | _gauge("certificate_expires_timestamp_seconds", "1000000x{n}", node="a"),
        5,
        ("HeadraceCertificateEnds", "HeadraceKeyEnds"),
    ),
    Case(
        "a key and a certificate that last",
        _gauge("key_expires_timestamp_seconds", "9000000x{n}", key="team")
        | _gauge("certificate_expires_timestamp_seconds", "9000000x{n}", node="a"),
        5,
    ),
    Case("no values dropped", _gauge("dropped_values_total", "3x{n}"), 10),
)


def _test(case: Case) -> dict[str, object]:
    length = str(case.minutes + 5)
    series = [{"series": name, "values": values.replace("{n}", length)} for name, values in (UP | case.series).items()]
    fired = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in case.firing]
    asked = {
        "expr": 'count by (alertname) (count by (alertname, model, stream) (ALERTS{alertstate="firing"}))',
        "eval_time": f"{case.minutes}m",
        "exp_samples": fired,
    }
    return {"name": case.name, "interval": "1m", "input_series": series, "promql_expr_test": [asked]}


def test_each_alert_fires_where_it_should_and_only_there(tmp_path: Path) -> None:
    promtool = needed("promtool")
    rules = [str(ROOT / RULES_FOLDER / name) for name in ("objectives.yml", "alerts.yml")]
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": [_test(case) for case in CASES]}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_left_untested() -> None:
    groups = [group for name, text in rendered().items() if name.endswith(".yml") for group in yaml.safe_load(text)["groups"]]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert {name for case in CASES for name in case.firing} == alerts


def test_prometheus_takes_the_rules() -> None:
    files = sorted(str(path) for path in (ROOT / RULES_FOLDER).glob("*.yml"))
    done = subprocess.run([needed("promtool"), "check", "rules", *files], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == len(files) == 3
