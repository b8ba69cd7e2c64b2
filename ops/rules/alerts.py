"""What an operator is woken for, or should look at, beside the objectives."""

from __future__ import annotations

from ops.rules.rule import AlertRule, RuleGroup, Severity

PAGE, TICKET = Severity.PAGE, Severity.TICKET
# The version that serves, as labels: the gauge's value is its number.
STABLE = 'count_values by (model) ("version", headrace_stable_version)'
FAILS = 'sum by (model, version) (increase(headrace_row_errors_total{reason="engine_failure"}[10m]))'
ROWS = "sum by (model, version) (increase(headrace_rows_total[10m]))"

SERVICE = (
    AlertRule(
        "HeadraceScrapeFailing",
        'up{job="headrace"} == 0',
        "2m",
        PAGE,
        "{{ $labels.instance }} does not tell its metrics",
        "No gateway answers, the controller is away (then what serves goes on), or the key is refused.",
        "service",
    ),
    AlertRule(
        "HeadraceNotScraped",
        'absent(up{job="headrace"})',
        "10m",
        TICKET,
        "Prometheus has no target of job headrace",
        "Nothing of Headrace is watched: no other alert can fire.",
        "service",
    ),
    AlertRule(
        "HeadraceNoGateway",
        "max by (job) (headrace_build_info) unless on () (sum(headrace_gateways) > 0)",
        "2m",
        PAGE,
        "no gateway reports",
        "The controller has heard of no gateway within the last seconds: callers may get no answer.",
        "service",
    ),
    AlertRule(
        "HeadraceCredentialsRefused",
        "sum by (reason) (increase(headrace_refused_credentials_total[10m])) >= 50",
        "5m",
        TICKET,
        "credentials are refused: {{ $labels.reason }}",
        "{{ $value | humanize }} in ten minutes: somebody tries keys, or a client has an old one.",
        "service",
    ),
)
VERSIONS = (
    AlertRule(
        "HeadraceStableNotReady",
        f"headrace_version_ready == 0 and on (model, version) {STABLE}",
        "2m",
        PAGE,
        "model {{ $labels.model }}: version {{ $labels.version }}, which serves, is not ready",
        "No replica of the stable version answers.",
        "versions",
    ),
    AlertRule(
        "HeadraceVersionNotReady",
        f"headrace_version_ready == 0 unless on (model, version) {STABLE}",
        "10m",
        TICKET,
        "model {{ $labels.model }}: version {{ $labels.version }} is not ready",
        "It is wanted and does not come up: a rollout waits for it, or a model has not begun to serve.",
        "versions",
    ),
    AlertRule(
        "HeadraceReplicasMissing",
        "headrace_replicas < headrace_replicas_wanted",
        "15m",
        TICKET,
        "model {{ $labels.model }}: version {{ $labels.version }} lacks replicas",
        "{{ $value }} run, more are wanted: the cluster may be full.",
        "versions",
    ),
    AlertRule(
        "HeadraceVersionFailsRows",
        f"{FAILS} / ({FAILS} + ({ROWS} or 0 * {FAILS})) > 0.05 and {FAILS} >= 10",
        "2m",
        TICKET,
        "model {{ $labels.model }}: version {{ $labels.version }} fails {{ $value | humanizePercentage }} of its rows",
        "The engine failed, by no fault of the rows. Of a candidate callers see nothing: stable answers instead.",
        "versions",
    ),
)
ROLLOUTS = (
    AlertRule(
        "HeadraceRolloutHeld",
        "headrace_rollout_held == 1",
        "15m",
        TICKET,
        "the rollout of {{ $labels.model }} waits for a person",
        "The candidate is proven neither good nor bad, its rows have drifted, or its files are away for too long.",
        "rollouts",
    ),
    AlertRule(
        "HeadraceRolledBack",
        'headrace_rollout_state{state="rolled_back"} == 1 unless (headrace_rollout_state{state="rolled_back"} offset 1h) == 1',
        "0s",
        TICKET,
        "the candidate of {{ $labels.model }} was rolled back",
        "It was proven worse than stable, or a person said so. This ends by itself after an hour.",
        "rollouts",
    ),
)
DRIFT = (
    AlertRule(
        "HeadraceDrift",
        "headrace_drift_alarms > 0",
        "0s",
        TICKET,
        "the rows of model {{ $labels.model }} no longer look like the profile of version {{ $labels.version }}",
        "{{ $value }} features have changed. It is proven, and stands until somebody clears it.",
        "drift",
    ),
)
STREAMS = (
    AlertRule(
        "HeadraceStreamNotReady",
        "headrace_stream_ready == 0",
        "5m",
        PAGE,
        "stream {{ $labels.stream }} is not ready",
        "Its workers do not come up, and nothing is consumed.",
        "streams",
    ),
    AlertRule(
        "HeadraceStreamFailed",
        'max by (stream) (headrace_stream_workers{phase="failed"}) > 0',
        "1m",
        PAGE,
        "a worker of stream {{ $labels.stream }} has failed",
        "It has given up, for a reason that trying again does not mend.",
        "streams",
    ),
    AlertRule(
        "HeadraceStreamStuck",
        'sum by (stream, phase) (headrace_stream_workers{phase=~"cut_off|holding|recovering"}) > 0',
        "5m",
        TICKET,
        "stream {{ $labels.stream }}: workers are {{ $labels.phase }}",
        "They try again, and nothing is lost; what is read meanwhile waits.",
        "streams",
    ),
    AlertRule(
        "HeadraceStreamLagGrowing",
        "deriv(headrace_stream_lag_records[15m]) > 0 and headrace_stream_lag_records > 1000"
        " and headrace_stream_lag_records > 1.1 * (headrace_stream_lag_records offset 15m)",
        "15m",
        TICKET,
        "stream {{ $labels.stream }} falls behind",
        "{{ $value | humanize }} records a second more come than are answered.",
        "streams",
    ),
    AlertRule(
        "HeadraceStreamRecordsWait",
        "headrace_stream_oldest_record_age_seconds > 300",
        "5m",
        PAGE,
        "stream {{ $labels.stream }}: a record was taken and is not committed",
        "It waits for {{ $value | humanizeDuration }}.",
        "streams",
    ),
    AlertRule(
        "HeadraceDeadLetters",
        "sum by (stream, reason) (increase(headrace_dead_letters_total[15m])) >= 1",
        "0s",
        TICKET,
        "stream {{ $labels.stream }}: dead letters, {{ $labels.reason }}",
        "{{ $value | humanize }} within 15 minutes; each is kept whole.",
        "streams",
    ),
)
BATCHES = (
    AlertRule(
        "HeadraceBatchLate",
        "headrace_batch_schedule_delay_seconds > 300",
        "1m",
        TICKET,
        "batch {{ $labels.batch }} began late",
        "{{ $value | humanizeDuration }} after its time.",
        "batch",
    ),
    AlertRule(
        "HeadraceBatchFailed",
        "headrace_batch_last_run_failed == 1",
        "1m",
        TICKET,
        "the last run of batch {{ $labels.batch }} failed",
        "What it had finished is kept in its ledger.",
        "batch",
    ),
    AlertRule(
        "HeadraceBatchNoSuccess",
        "headrace_batch_last_run_failed == 1 unless on (batch) headrace_batch_last_success_timestamp_seconds > time() - 86400",
        "10m",
        PAGE,
        "batch {{ $labels.batch }} has not succeeded for a day",
        "Its last run failed, and none before it within a day went well.",
        "batch",
    ),
)
CONTROLLER = (
    AlertRule(
        "HeadraceControllerTroubles",
        "headrace_controller_troubles > 0",
        "10m",
        TICKET,
        "the controller can't reach or do {{ $value }} things",
        "What serves goes on; changes may wait.",
        "controller",
    ),
    AlertRule(
        "HeadraceTableOld",
        "headrace_table_age_seconds > 60",
        "2m",
        TICKET,
        "a scorer has not heard of its table for {{ $value | humanizeDuration }}",
        "It scores by an older split and older rights: promotions and rollbacks do not reach it.",
        "controller",
    ),
    AlertRule(
        "HeadraceControllerSlow",
        "histogram_quantile(0.9, sum by (le) (rate(headrace_controller_tick_seconds_bucket[10m]))) > 2.5",
        "10m",
        TICKET,
        "a round of the controller takes {{ $value | humanizeDuration }}",
        "Rollouts decide late.",
        "controller",
    ),
    AlertRule(
        "HeadraceValuesDropped",
        "sum(increase(headrace_dropped_values_total[1h])) > 0",
        "0s",
        TICKET,
        "counts were dropped",
        "Metrics are no longer exact: a defect of ours.",
        "controller",
    ),
)


QUALITY = (
    AlertRule(
        "HeadraceWorseThanBuilt",
        "max by (model, version) (headrace_quality_alarm) == 1",
        "0s",
        TICKET,
        "model {{ $labels.model }}: version {{ $labels.version }} is proven worse than at build",
        "Late labels say so, beyond the tolerance of its document. Nothing was rolled back.",
        "quality",
    ),
)


# What is told for the first time has no value before: it is new, not an increase.
NEW = "(sum by ({by}) ({series}) unless sum by ({by}) ({series} offset 15m)) > 0 or sum by ({by}) (increase({series}[15m])) > 0"
SOON_S = 14 * 86_400
CALLERS_MANY = 1_000_000
CUSTODY = (
    AlertRule(
        "HeadraceArtifactRefused",
        NEW.format(by="command", series='headrace_refused_commands_total{reason="BadArtifact"}'),
        "0s",
        TICKET,
        "an artifact was refused: {{ $labels.command }}",
        "Its files are not those that were built, or can't be read. It was not registered.",
        "custody",
    ),
    AlertRule(
        "HeadraceAuditGap",
        "sum(increase(headrace_audit_gaps_total[15m])) > 0",
        "0s",
        TICKET,
        "counts of uses are missing from the audit",
        "A process fell silent before it told its last counts: a minute of calls at most for each, unless the store was away.",
        "custody",
    ),
    AlertRule(
        "HeadraceCheckpointsAway",
        "max(headrace_checkpoint_places_away) > 0",
        "15m",
        TICKET,
        "{{ $value }} places do not take the audit's checkpoints",
        "What happens meanwhile is proven later, by the next one; until then whoever owns the store could rewrite it unseen.",
        "custody",
    ),
    AlertRule(
        "HeadraceManyCallers",
        f"max(headrace_seen_callers) > {CALLERS_MANY}",
        "0s",
        TICKET,
        "{{ $value }} callers of models are remembered",
        "Each is a row of the store for 400 days: callers' names look as if they were made anew for each user or call.",
        "custody",
    ),
    AlertRule(
        "HeadraceFirstUse",
        NEW.format(by="model", series="headrace_first_uses_total"),
        "0s",
        TICKET,
        "model {{ $labels.model }} is used by a caller who never used it before",
        "`headrace audit ls` names him: event `first use`.",
        "custody",
    ),
    AlertRule(
        "HeadraceKeyEnds",
        f"max by (key) (headrace_key_expires_timestamp_seconds) - time() < {SOON_S}",
        "0s",
        TICKET,
        "key {{ $labels.key }} ends in {{ $value | humanizeDuration }}",
        "Whoever uses it gets no answer then.",
        "custody",
    ),
    AlertRule(
        "HeadraceCertificateEnds",
        f"max by (node) (headrace_certificate_expires_timestamp_seconds) - time() < {SOON_S}",
        "0s",
        TICKET,
        "the certificate of node {{ $labels.node }} ends in {{ $value | humanizeDuration }}",
        "Callers over TLS are not answered then.",
        "custody",
    ),
)


def alert_groups() -> tuple[RuleGroup, ...]:
    """One a theme."""
    themes = {"service": SERVICE, "versions": VERSIONS, "rollouts": ROLLOUTS, "drift": DRIFT}
    themes |= {"streams": STREAMS, "batch": BATCHES, "controller": CONTROLLER, "quality": QUALITY, "custody": CUSTODY}
    return tuple(RuleGroup(f"headrace-{name}", rules) for name, rules in themes.items())
