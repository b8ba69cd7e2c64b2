"""The six boards: of the whole service, one model, rollouts, streams, batches, and what the cluster itself does."""

from __future__ import annotations

from ops.boards.panel import Board, Choice, Panel

MODEL = '{model=~"$model"}'
STREAM = '{stream=~"$stream"}'
BATCH = '{batch=~"$batch"}'


def _rate(by: str, metric: str, chosen: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{chosen}[$__rate_interval]))"


def _quantile(share: float, by: str, metric: str, chosen: str = "") -> str:
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{chosen}[$__rate_interval])))"


SERVICE = Board(
    "headrace-service",
    "service",
    (
        Panel("Requests", "reqps", _rate("model", "headrace_requests_total"), "{{model}}"),
        Panel("Requests by outcome", "reqps", _rate("outcome", "headrace_requests_total"), "{{outcome}}"),
        Panel("Time of a request, p99", "s", _quantile(0.99, "model", "headrace_request_seconds"), "{{model}}"),
        Panel("Rows", "rowsps", _rate("way", "headrace_rows_total"), "{{way}}"),
        Panel("Rows without an answer", "rowsps", _rate("model, reason", "headrace_row_errors_total"), "{{model}} {{reason}}"),
        Panel("Requests under way", "short", "sum(headrace_requests_under_way)", "under way"),
        Panel(
            "Budget left in 30 days",
            "percentunit",
            "slo:period_error_budget_remaining:ratio",
            "{{sloth_slo}} {{model}}{{stream}}",
        ),
        Panel("Credentials refused", "cps", _rate("reason", "headrace_refused_credentials_total"), "{{reason}}"),
        Panel("Commands refused", "cps", _rate("command, reason", "headrace_refused_commands_total"), "{{command}} {{reason}}"),
        Panel("Callers new to a model", "short", "sum by (model) (increase(headrace_first_uses_total[1h]))", "{{model}}"),
        Panel("Callers remembered", "short", "max(headrace_seen_callers)", "callers"),
        Panel("Places without the last checkpoint", "short", "max(headrace_checkpoint_places_away)", "places"),
        Panel("Gaps in the audit", "short", "sum(increase(headrace_audit_gaps_total[1h]))", "gaps"),
        Panel("Time until a key ends", "s", "max by (key) (headrace_key_expires_timestamp_seconds) - time()", "{{key}}"),
        Panel(
            "Time until a door's certificate ends",
            "s",
            "max by (node) (headrace_certificate_expires_timestamp_seconds) - time()",
            "{{node}}",
        ),
    ),
)
ONE_MODEL = Board(
    "headrace-model",
    "model",
    (
        Panel("Rows", "rowsps", _rate("version, way", "headrace_rows_total", MODEL), "{{version}} {{way}}"),
        Panel(
            "Rows without an answer",
            "rowsps",
            _rate("version, reason", "headrace_row_errors_total", MODEL),
            "{{version}} {{reason}}",
        ),
        Panel("Time of a request, p50", "s", _quantile(0.5, "version", "headrace_request_seconds", MODEL), "{{version}}"),
        Panel("Time of a request, p99", "s", _quantile(0.99, "version", "headrace_request_seconds", MODEL), "{{version}}"),
        Panel("Time in the queue, p99", "s", _quantile(0.99, "version", "headrace_queue_seconds", MODEL), "{{version}}"),
        Panel(
            "Time of the engine, p99",
            "s",
            _quantile(0.99, "version, way", "headrace_engine_seconds", MODEL),
            "{{version}} {{way}}",
        ),
        Panel(
            "Rows in one call, p50", "short", _quantile(0.5, "version, way", "headrace_call_rows", MODEL), "{{version}} {{way}}"
        ),
        Panel("Replicas", "short", f"sum by (version) (headrace_replicas{MODEL})", "{{version}}"),
        Panel("Features with an alarm of drift", "short", f"max by (version) (headrace_drift_alarms{MODEL})", "{{version}}"),
        Panel("Largest drift now", "short", f"max by (version) (headrace_drift_size{MODEL})", "{{version}}"),
        Panel(
            "Outliers among the rows that are looked at",
            "percentunit",
            " / ".join(_rate("version, way", f"headrace_{rows}_rows_total", MODEL) for rows in ("outlier", "watched")),
            "{{version}} {{way}}",
        ),
        Panel("Replicas wanted", "short", f"sum by (version) (headrace_replicas_wanted{MODEL})", "{{version}}"),
        Panel("Time to load, p99", "s", _quantile(0.99, "version", "headrace_load_seconds", MODEL), "{{version}}"),
        Panel("Replicas begun", "short", f"sum by (version) (increase(headrace_replica_starts_total{MODEL}[1h]))", "{{version}}"),
        Panel("Explanations asked for", "reqps", _rate("outcome", "headrace_explain_requests_total", MODEL), "{{outcome}}"),
        Panel("Rows explained", "rowsps", _rate("version, way", "headrace_explained_rows_total", MODEL), "{{version}} {{way}}"),
        Panel(
            "Rows scored to explain others",
            "rowsps",
            _rate("version, way", "headrace_explain_evaluations_total", MODEL),
            "{{version}} {{way}}",
        ),
        Panel(
            "Time of an explanation, p99",
            "s",
            _quantile(0.99, "version, way", "headrace_explain_seconds", MODEL),
            "{{version}} {{way}}",
        ),
        Panel("Labels", "cps", _rate("version", "headrace_labels_total", MODEL), "{{version}}"),
        Panel("Labels not counted", "cps", _rate("reason", "headrace_label_faults_total", MODEL), "{{reason}}"),
        Panel(
            "Share of answers that got a label, an hour",
            "percentunit",
            f"sum by (version) (increase(headrace_labels_total{MODEL}[1h])) / "
            f"sum by (version) (increase(headrace_label_keys_total{MODEL}[1h]))",
            "{{version}}",
        ),
        Panel("Delay of labels, p90", "s", _quantile(0.9, "version", "headrace_label_delay_seconds", MODEL), "{{version}}"),
        Panel(
            "Mean loss by labels, an hour",
            "percentunit",
            f"sum by (version) (increase(headrace_label_loss_total{MODEL}[1h])) / "
            f"sum by (version) (increase(headrace_labels_total{MODEL}[1h]))",
            "{{version}}",
        ),
        Panel(
            "Mean loss, all labels: lower end", "percentunit", f"max by (version) (headrace_live_loss_low{MODEL})", "{{version}}"
        ),
        Panel(
            "Mean loss, all labels: upper end", "percentunit", f"max by (version) (headrace_live_loss_high{MODEL})", "{{version}}"
        ),
        Panel(
            "Confidence of answers, p10",
            "percentunit",
            _quantile(0.1, "version", "headrace_answer_confidence", MODEL),
            "{{version}}",
        ),
        Panel("Mean loss at build, at most", "percentunit", f"max by (version) (headrace_built_loss{MODEL})", "{{version}}"),
        Panel("Proven worse than at build", "short", f"max by (version) (headrace_quality_alarm{MODEL})", "{{version}}"),
    ),
    (Choice("model", "headrace_stable_version"),),
)
ROLLOUTS = Board(
    "headrace-rollouts",
    "rollouts",
    (
        Panel("Share of keys for the candidate", "percentunit", f"max by (model) (headrace_rollout_weight{MODEL})", "{{model}}"),
        Panel("State", "short", f"max by (model, state) (headrace_rollout_state{MODEL})", "{{model}} {{state}}"),
        Panel("Waits for a person", "short", f"max by (model) (headrace_rollout_held{MODEL})", "{{model}}"),
        Panel("Checks: lower end", "short", f"headrace_rollout_check_low{MODEL}", "{{model}} {{check}}"),
        Panel("Checks: upper end", "short", f"headrace_rollout_check_high{MODEL}", "{{model}} {{check}}"),
        Panel(
            "Rows scored in shadow",
            "rowsps",
            _rate("model, version", "headrace_shadow_rows_total", MODEL),
            "{{model}} {{version}}",
        ),
        Panel(
            "Rows that stable answered instead",
            "rowsps",
            _rate("model, version", "headrace_fallback_rows_total", MODEL),
            "{{model}} {{version}}",
        ),
        Panel("Version that serves", "short", f"headrace_stable_version{MODEL}", "{{model}}"),
    ),
    (Choice("model", "headrace_stable_version"),),
)
STREAMS = Board(
    "headrace-streams",
    "streams",
    (
        Panel("Records", "rps", _rate("stream, outcome", "headrace_stream_records_total", STREAM), "{{stream}} {{outcome}}"),
        Panel("Lag", "short", f"sum by (stream) (headrace_stream_lag_records{STREAM})", "{{stream}}"),
        Panel("Age as answered, p99", "s", _quantile(0.99, "stream", "headrace_stream_record_age_seconds", STREAM), "{{stream}}"),
        Panel(
            "Oldest record not committed",
            "s",
            f"max by (stream) (headrace_stream_oldest_record_age_seconds{STREAM})",
            "{{stream}}",
        ),
        Panel("Dead letters", "cps", _rate("stream, reason", "headrace_dead_letters_total", STREAM), "{{stream}} {{reason}}"),
        Panel("Workers by phase", "short", f"sum by (stream, phase) (headrace_stream_workers{STREAM})", "{{stream}} {{phase}}"),
        Panel("Commits", "cps", _rate("stream", "headrace_stream_commits_total", STREAM), "{{stream}}"),
        Panel("Time of a commit, p99", "s", _quantile(0.99, "stream", "headrace_stream_commit_seconds", STREAM), "{{stream}}"),
        Panel("Tried again", "cps", _rate("stream", "headrace_stream_retries_total", STREAM), "{{stream}}"),
        Panel("Returns to committed offsets", "cps", _rate("stream", "headrace_stream_recoveries_total", STREAM), "{{stream}}"),
        Panel("Records in flight", "short", f"sum by (stream) (headrace_stream_in_flight_rows{STREAM})", "{{stream}}"),
        Panel("Ready", "short", f"min by (stream) (headrace_stream_ready{STREAM})", "{{stream}}"),
    ),
    (Choice("stream", "headrace_stream_ready"),),
)
BATCHES = Board(
    "headrace-batch",
    "batch",
    (
        Panel("Rows", "rowsps", _rate("batch, outcome", "headrace_batch_rows_total", BATCH), "{{batch}} {{outcome}}"),
        Panel("Units", "cps", _rate("batch", "headrace_batch_units_total", BATCH), "{{batch}}"),
        Panel("Last run began late by", "s", f"headrace_batch_schedule_delay_seconds{BATCH}", "{{batch}}"),
        Panel("Since the last success", "s", f"time() - headrace_batch_last_success_timestamp_seconds{BATCH}", "{{batch}}"),
        Panel("Last run failed", "short", f"headrace_batch_last_run_failed{BATCH}", "{{batch}}"),
    ),
    (Choice("batch", "headrace_batch_rows_total"),),
)
NODE = Board(
    "headrace-node",
    "node",
    (
        Panel("Connections at the door", "short", "max by (node) (headrace_door_connections)", "{{node}}"),
        Panel("Gateways", "short", "sum(headrace_gateways)", "gateways"),
        Panel("Scorers", "short", "sum(headrace_scorers)", "scorers"),
        Panel("Age of the oldest table", "s", "max(headrace_table_age_seconds)", "table"),
        Panel("Round of the controller, p99", "s", _quantile(0.99, "", "headrace_controller_tick_seconds"), "p99"),
        Panel("Troubles of the controller", "short", "sum(headrace_controller_troubles)", "troubles"),
        Panel("Values dropped", "cps", "sum(rate(headrace_dropped_values_total[$__rate_interval]))", "dropped"),
        Panel(
            "Payloads kept, and lost", "cps", "sum by (outcome) (rate(headrace_payloads_total[$__rate_interval]))", "{{outcome}}"
        ),
        Panel("Spans sent, and lost", "cps", "sum by (outcome) (rate(headrace_spans_total[$__rate_interval]))", "{{outcome}}"),
        Panel(
            "Trace contexts that are none",
            "cps",
            "sum(rate(headrace_malformed_traceparents_total[$__rate_interval]))",
            "malformed",
        ),
        Panel("Release", "short", "max by (release) (headrace_build_info)", "{{release}}"),
        Panel("Scrapes that answer", "short", 'up{job="headrace"}', "{{instance}}"),
        Panel("Version ready", "short", "headrace_version_ready", "{{model}} {{version}}"),
    ),
)
BOARDS = (SERVICE, ONE_MODEL, ROLLOUTS, STREAMS, BATCHES, NODE)
