"""Every metric that there is: its name, what it counts, and its labels. Pure; `docs/metrics.md` is written from here.

Base units; counters end in `_total`. A label's values are bounded: names of what was applied, version numbers, and closed sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MetricKind(StrEnum):
    """What a metric's number means."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Across(StrEnum):
    """How the values of one gauge from several processes become one."""

    SUM = "sum"
    MOST = "most"


class ScoringWay(StrEnum):
    """The three ways to score; the label `way`."""

    ONLINE = "online"
    STREAM = "stream"
    BATCH = "batch"


class RequestOutcome(StrEnum):
    """How a request ended; the label `outcome`. Only `failed` is the fault of the version, or ours."""

    OK = "ok"
    REFUSED = "refused"  # bad input, an unknown model, no right to it: 4xx
    OVER_QUOTA = "over_quota"
    SHED = "shed"  # no capacity
    LATE = "late"  # its time was over
    GONE = "gone"  # its caller had left
    FAILED = "failed"  # the version's failure, or a fault of ours


class RowFault(StrEnum):
    """Why a row got no answer; the label `reason` of rows."""

    BAD_INPUT = "bad_input"
    ENGINE_FAILURE = "engine_failure"
    NO_CAPACITY = "no_capacity"


class LabelFault(StrEnum):
    """Why a late label was not counted; the label `reason` of labels."""

    UNREADABLE = "unreadable"  # no record of a key and a label
    NO_KEY = "no_key"  # its key is none that an answer went out with
    UNKNOWN_VERSION = "unknown_version"  # no version of that number is there
    WRONG_TYPE = "wrong_type"  # no number; of classes: no whole one
    NOT_FINITE = "not_finite"
    TWICE = "twice"  # the prediction was labelled before
    LATE = "late"  # later than the document allows
    REDEFINED = "redefined"  # its answer was given before the document named another output or loss


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `bounds` are a histogram's upper bounds, rising, without the last one (+Inf)."""

    name: str
    kind: MetricKind
    words: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    across: Across = Across.SUM


# From a thousandth: embedded engines answer in less than OpenTelemetry's smallest bound.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
AGES_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
LABEL_DELAYS_S = (60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0, 172800.0, 604800.0, 1209600.0, 2592000.0, 7776000.0)
CONFIDENCES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0)

_VERSION = ("model", "version")
_WAY = ("model", "version", "way")


def _counter(name: str, words: str, *labels: str) -> Metric:
    return Metric(f"headrace_{name}_total", MetricKind.COUNTER, words, labels)


def _gauge(name: str, words: str, *labels: str, across: Across = Across.SUM) -> Metric:
    return Metric(f"headrace_{name}", MetricKind.GAUGE, words, labels, across=across)


def _histogram(name: str, words: str, *labels: str, bounds: tuple[float, ...] = SECONDS) -> Metric:
    return Metric(f"headrace_{name}", MetricKind.HISTOGRAM, words, labels, bounds)


# What every way of scoring counts.
ROWS_SCORED = _counter("rows", "Rows answered. On a stream, once their transaction has committed.", *_WAY)
ROW_ERRORS = _counter("row_errors", "Rows that got no answer, by reason.", *_WAY, "reason")
FALLBACK_ROWS = _counter("fallback_rows", "Rows of this candidate that the stable version answered instead.", *_WAY)
SHADOW_ROWS = _counter("shadow_rows", "Rows that this candidate scored in shadow.", *_VERSION)
ENGINE_SECONDS = _histogram("engine_seconds", "How long a version took for one call, on its replica or embedded.", *_WAY)
CALL_ROWS = _histogram("call_rows", "Rows in one call to a version.", *_WAY, bounds=ROWS)

# Explanations: no traffic, and counted apart from it. `evaluations` are rows that a version scored for them.
EXPLAIN_REQUESTS = _counter(
    "explain_requests",
    "Requests to explain. `model` and `version` are empty where nothing served was named.",
    *_VERSION,
    "protocol",
    "outcome",
)
EXPLAIN_SECONDS = _histogram("explain_seconds", "How long one call for explanations took, all of its rows.", *_WAY)
EXPLAINED_ROWS = _counter("explained_rows", "Rows explained.", *_WAY)
EXPLAIN_EVALUATIONS = _counter("explain_evaluations", "Rows that versions scored to explain others.", *_WAY)

# Online.
REQUESTS = _counter(
    "requests",
    "Requests to score. `model` and `version` are empty where nothing served was named.",
    *_VERSION,
    "protocol",
    "outcome",
)
REQUEST_SECONDS = _histogram("request_seconds", "From a request's head to its answer, in the gateway.", *_VERSION, "protocol")
QUEUE_SECONDS = _histogram("queue_seconds", "How long a request waited for its call to begin.", *_VERSION)
REQUESTS_UNDER_WAY = _gauge("requests_under_way", "Requests that gateways hold.")
GATEWAYS = _gauge("gateways", "Gateways that have reported within the last seconds.")
DOOR_CONNECTIONS = _gauge("door_connections", "Connections that the door of a node holds.", "node", across=Across.MOST)
REFUSED_CREDENTIALS = _counter("refused_credentials", "Credentials that were refused, by reason.", "reason")


# The audit.
REFUSED_COMMANDS = _counter("refused_commands", "Commands that were refused, by the kind of their error.", "command", "reason")
FIRST_USES = _counter("first_uses", "Callers that were seen with a model for the first time.", "model")
SEEN_CALLERS = _gauge("seen_callers", "Callers of models that are remembered, to tell who is new; counted every ten minutes.")
CHECKPOINTS_AWAY = _gauge("checkpoint_places_away", "Places that did not take the audit's last checkpoint.")
AUDIT_GAPS = _counter("audit_gaps", "Times that counts of uses are missing from the audit, as it tells.")
KEY_EXPIRES = _gauge("key_expires_timestamp_seconds", "When the last key of a name ends, Unix time.", "key", across=Across.MOST)
CERTIFICATE_EXPIRES = _gauge(
    "certificate_expires_timestamp_seconds", "When the certificate of a node's door ends, Unix time.", "node", across=Across.MOST
)

# Streams.
STREAM_RECORDS = _counter("stream_records", "Input records whose transaction has committed.", "stream", "outcome")
DEAD_LETTERS = _counter("dead_letters", "Records that left as dead letters, by the kind of their error.", "stream", "reason")
STREAM_LAG = _gauge("stream_lag_records", "Records that can be read and are not committed.", "stream")
STREAM_OLDEST = _gauge(
    "stream_oldest_record_age_seconds",
    "Age of the oldest record that is taken and not committed; 0 where there is none.",
    "stream",
    across=Across.MOST,
)
STREAM_RECORD_AGE = _histogram(
    "stream_record_age_seconds", "Age of a record, by its timestamp, as its answer was committed.", "stream", bounds=AGES_S
)
STREAM_COMMITS = _counter("stream_commits", "Transactions committed.", "stream")
STREAM_COMMIT_SECONDS = _histogram("stream_commit_seconds", "How long a commit took.", "stream")
STREAM_RETRIES = _counter("stream_retries", "Micro-batches that were tried again.", "stream")
STREAM_RECOVERIES = _counter("stream_recoveries", "Returns to the committed offsets.", "stream")
STREAM_IN_FLIGHT = _gauge("stream_in_flight_rows", "Records taken and not committed.", "stream")
STREAM_READY = _gauge("stream_ready", "1 where the stream's workers are ready.", "stream")
STREAM_WORKERS = _gauge("stream_workers", "Workers by phase.", "stream", "phase")

# Batches.
BATCH_ROWS = _counter("batch_rows", "Rows of finished units: scored, or quarantined.", "batch", "outcome")
BATCH_UNITS = _counter("batch_units", "Units finished.", "batch")
BATCH_DELAY = _gauge("batch_schedule_delay_seconds", "How late the last scheduled run began.", "batch")
BATCH_LAST_FAILED = _gauge(
    "batch_last_run_failed", "1 where the last run that ended has failed, scheduled or asked for.", "batch"
)
BATCH_LAST_SUCCESS = _gauge(
    "batch_last_success_timestamp_seconds", "When the last run that was scheduled or asked for succeeded, Unix time.", "batch"
)

# Payload logs.
PAYLOADS = _counter(
    "payloads",
    "Predictions for the payload log (logged, dropped, failed), once for each place that they go to.",
    "model",
    "outcome",
)

# Late labels.
LABEL_KEYS = _counter("label_keys", "Answers that went out with a label key.", *_VERSION)
LABELS = _counter("labels", "Answers that have met their label, of all times.", *_VERSION)
LABEL_FAULTS = _counter("label_faults", "Labels that were not counted, by reason.", "model", "reason")
LABEL_LOSS = _counter("label_loss", "What the labelled answers lost in all, 0 to 1 each.", *_VERSION)
LABEL_DELAY = _histogram("label_delay_seconds", "How long after its answer a label was told.", *_VERSION, bounds=LABEL_DELAYS_S)
CONFIDENCE = _histogram(
    "answer_confidence",
    "Probability of the class that a version gave, over a sample of its answers; where labels are wanted.",
    *_VERSION,
    bounds=CONFIDENCES,
)
LIVE_LOSS_LOW = _gauge("live_loss_low", "Lower end of the interval of the mean loss by late labels.", *_VERSION)
LIVE_LOSS_HIGH = _gauge("live_loss_high", "Upper end of the interval of the mean loss by late labels.", *_VERSION)
BUILT_LOSS = _gauge("built_loss", "What the mean loss was at build, at most, as sure as its rows make it.", *_VERSION)
QUALITY_ALARM = _gauge("quality_alarm", "1 where live answers are proven worse than at build, until it is cleared.", *_VERSION)

# Traces.
SPANS = _counter("spans", "Spans of what was traced (exported, dropped, failed).", "outcome")
MALFORMED_TRACEPARENTS = _counter("malformed_traceparents", "Trace contexts that callers sent and that are none.")
# Drift.
WATCHED_ROWS = _counter("watched_rows", "Rows that were looked at beside the profile of the version that answered them.", *_WAY)
OUTLIER_ROWS = _counter("outlier_rows", "Of the rows that were looked at, those that are outliers (p of 0.01 or less).", *_WAY)
DRIFT_ALARMS = _gauge("drift_alarms", "Features of this version that no longer look like its profile, until cleared.", *_VERSION)
DRIFT_SIZE = _gauge(
    "drift_size",
    "How far the feature that is farthest off is from the profile now: Jensen-Shannon distance, 0 to 1.",
    *_VERSION,
)

# Rollouts, replicas, the controller.
ROLLOUT_STATE = _gauge("rollout_state", "1 for the state that the model's newest rollout is in.", "model", "state")
ROLLOUT_HELD = _gauge(
    "rollout_held",
    "1 where the rollout under way waits for a person: neither proven good nor bad, or its candidate's files are away for long.",
    "model",
)
ROLLOUT_WEIGHT = _gauge("rollout_weight", "Share of keys that goes to the candidate, 0 to 1.", "model")
ROLLOUT_CHECK_LOW = _gauge("rollout_check_low", "Lower end of the interval of a check's difference.", "model", "check")
ROLLOUT_CHECK_HIGH = _gauge("rollout_check_high", "Upper end of the interval of a check's difference.", "model", "check")
STABLE_VERSION = _gauge("stable_version", "The number of the version that serves.", "model")
REPLICAS = _gauge("replicas", "Replicas that run.", *_VERSION)
REPLICAS_WANTED = _gauge("replicas_wanted", "Replicas that are wanted.", *_VERSION)
VERSION_READY = _gauge("version_ready", "1 where the version's replicas are ready.", *_VERSION)
REPLICA_STARTS = _counter("replica_starts", "Replicas that have loaded their version: the first time, or again.", *_VERSION)
LOAD_SECONDS = _histogram("load_seconds", "How long a replica took to load its version.", *_VERSION)
TICK_SECONDS = _histogram("controller_tick_seconds", "How long a round of the controller took.")
DROPPED = _counter("dropped_values", "Reported values for which there was no series or no room: a defect.")
TROUBLES = _gauge("controller_troubles", "Things that the controller can't reach or do now.")
TABLE_AGE = _gauge("table_age_seconds", "How long ago the scorer that lags most heard of its table.", across=Across.MOST)
SCORERS = _gauge("scorers", "Scorers that have reported within the last seconds.")
BUILD_INFO = _gauge("build_info", "1; the label says which version of Headrace the controller runs.", "release")

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
BY_NAME = {metric.name: metric for metric in METRICS}
