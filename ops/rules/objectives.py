"""Objectives of service (SLOs): recording rules in Sloth's names, so that its dashboards work, and burn-rate alerts."""

from __future__ import annotations

from dataclasses import dataclass

from ops.rules.rule import AlertRule, RecordingRule, RuleGroup, Severity

SERVICE = "headrace"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
PERIOD = "30d"
# One bad event among few is no rate: an alert needs this many within its long window. See decision 33.
LEAST_BAD = 10


@dataclass(frozen=True, slots=True)
class Objective:
    """`good` percent of all events shall not be bad, by each value of `label`. `bad` and `total` are PromQL with WINDOW in it."""

    name: str
    good: float
    label: str
    bad: str
    total: str
    words: str

    @property
    def labels(self) -> dict[str, str]:
        """By which Sloth's dashboards find it."""
        return {"sloth_id": f"{SERVICE}-{self.name}", "sloth_service": SERVICE, "sloth_slo": self.name}

    @property
    def selector(self) -> str:
        """Its series."""
        return ", ".join(f'{name}="{value}"' for name, value in self.labels.items())

    @property
    def budget(self) -> str:
        """The share of events that may be bad."""
        return f"{1 - self.good / 100:.6g}"


@dataclass(frozen=True, slots=True)
class Burn:
    """An alert's pair of windows: both burn the budget more than `times` as fast as it may be burnt."""

    short: str
    long: str
    times: float


PAGES = (Burn("5m", "1h", 14.4), Burn("30m", "6h", 6))
TICKETS = (Burn("2h", "1d", 3), Burn("6h", "3d", 1))

OURS = 'model!="", outcome=~"failed|shed|late"'
OBJECTIVES = (
    Objective(
        "requests-availability",
        99.9,
        "model",
        bad=f"sum by (model) (rate(headrace_requests_total{{{OURS}}}[WINDOW]))",
        total='sum by (model) (rate(headrace_requests_total{model!="", outcome=~"ok|failed|shed|late"}[WINDOW]))',
        words="requests fail, are shed or come too late by no fault of their callers",
    ),
    Objective(
        "requests-latency",
        99.0,
        "model",
        bad='sum by (model) (rate(headrace_request_seconds_count{model!=""}[WINDOW]))'
        ' - sum by (model) (rate(headrace_request_seconds_bucket{model!="", le="0.25"}[WINDOW]))',
        total='sum by (model) (rate(headrace_request_seconds_count{model!=""}[WINDOW]))',
        words="requests take longer than 250 ms",
    ),
    Objective(
        "streams-freshness",
        99.0,
        "stream",
        bad="sum by (stream) (rate(headrace_stream_record_age_seconds_count[WINDOW]))"
        # Prometheus 3 writes 60.0, older ones keep what they scrape.
        ' - sum by (stream) (rate(headrace_stream_record_age_seconds_bucket{le=~"60|60.0"}[WINDOW]))',
        total="sum by (stream) (rate(headrace_stream_record_age_seconds_count[WINDOW]))",
        words="records are answered more than a minute after their time",
    ),
)


def objective_groups() -> tuple[RuleGroup, ...]:
    """Three groups an objective, as Sloth writes them."""
    return tuple(group for one in OBJECTIVES for group in (_ratios(one), _facts(one), _alerts(one)))


def _ratios(one: Objective) -> RuleGroup:
    # No events: no sample, rather than 0/0, which would make every average NaN.
    rules = [
        RecordingRule(
            f"slo:sli_error:ratio_rate{window}",
            f"(({one.bad}) or 0 * ({one.total})) / (({one.total}) > 0)".replace("WINDOW", window),
            {**one.labels, "sloth_window": window},
        )
        for window in WINDOWS
    ]
    ratio = f"slo:sli_error:ratio_rate5m{{{one.selector}}}[{PERIOD}]"
    month = RecordingRule(
        f"slo:sli_error:ratio_rate{PERIOD}",
        f"sum_over_time({ratio}) / ignoring (sloth_window) count_over_time({ratio})",
        {**one.labels, "sloth_window": PERIOD},
    )
    return RuleGroup(f"sloth-slo-sli-recordings-{SERVICE}-{one.name}", (*rules, month))


def _facts(one: Objective) -> RuleGroup:
    objective = f"slo:objective:ratio{{{one.selector}}}"
    budget = f"slo:error_budget:ratio{{{one.selector}}}"
    on = "on (sloth_id, sloth_slo, sloth_service) group_left ()"
    rules = (
        RecordingRule("slo:objective:ratio", f"vector({one.good / 100:.6g})", one.labels),
        RecordingRule("slo:error_budget:ratio", f"1 - {objective}", one.labels),
        RecordingRule("slo:time_period:days", "vector(30)", one.labels),
        RecordingRule("slo:current_burn_rate:ratio", _over("5m", one, on, budget), one.labels),
        RecordingRule("slo:period_burn_rate:ratio", _over(PERIOD, one, on, budget), one.labels),
        RecordingRule("slo:period_error_budget_remaining:ratio", f"1 - slo:period_burn_rate:ratio{{{one.selector}}}", one.labels),
        RecordingRule(
            "sloth_slo_info",
            "vector(1)",
            {**one.labels, "sloth_mode": "headrace", "sloth_objective": f"{one.good:g}", "sloth_spec": "prometheus/v1"},
        ),
    )
    return RuleGroup(f"sloth-slo-meta-recordings-{SERVICE}-{one.name}", rules)


def _over(window: str, one: Objective, on: str, budget: str) -> str:
    return f"slo:sli_error:ratio_rate{window}{{{one.selector}}} / {on} {budget}"


def _alerts(one: Objective) -> RuleGroup:
    title = "".join(part.capitalize() for part in one.name.split("-"))
    rules = (
        AlertRule(
            f"Headrace{title}{'Fast' if severity is Severity.PAGE else 'Slow'}Burn",
            " or ".join(_burns(one, burn) for burn in burns),
            "2m" if severity is Severity.PAGE else "15m",
            severity,
            f"{one.label} {{{{ $labels.{one.label} }}}}: too many {one.words}",
            f"The error budget ({100 - one.good:.4g} % in {PERIOD}) burns at a rate that leaves none. "
            "Now bad: {{ $value | humanizePercentage }}.",
            "service" if one.label == "model" else "streams",
            one.labels,
        )
        for severity, burns in ((Severity.PAGE, PAGES), (Severity.TICKET, TICKETS))
    )
    return RuleGroup(f"sloth-slo-alerts-{SERVICE}-{one.name}", tuple(rules))


def _burns(one: Objective, burn: Burn) -> str:
    limit = f"({burn.times} * {one.budget})"
    short, long = (f"max by ({one.label}) (slo:sli_error:ratio_rate{w}{{{one.selector}}})" for w in (burn.short, burn.long))
    bad = one.bad.replace("WINDOW", burn.long).replace("rate(", "increase(")
    return f"({short} > {limit} and {long} > {limit} and ({bad}) >= {LEAST_BAD})"
