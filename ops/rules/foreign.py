"""Names of other servers, derived from ours: boards that people have for Triton, KServe and MLServer go on working.

Not loaded unless asked for. What we do not measure (Triton's input and output time) is left out rather than made up.
"""

from __future__ import annotations

from ops.rules.rule import RecordingRule, RuleGroup

BY = "sum by (model, version)"
OK = 'headrace_requests_total{model!="", outcome="ok"}'
BAD = 'headrace_requests_total{model!="", outcome!="ok"}'
# Triton's closed set of reasons.
REASONS = {"REJECTED": "refused|over_quota|shed", "CANCELED": "late|gone", "BACKEND": "failed"}


def _named(expr: str) -> str:
    return f'label_replace({expr}, "model_name", "$1", "model", "(.*)")'


TRITON = (
    RecordingRule("nv_inference_request_success", f"{BY} ({OK})"),
    *(
        RecordingRule(
            "nv_inference_request_failure",
            f'{BY} (headrace_requests_total{{model!="", outcome=~"{ours}"}})',
            {"reason": reason},
        )
        for reason, ours in REASONS.items()
    ),
    RecordingRule("nv_inference_count", f"{BY} (headrace_rows_total)"),
    RecordingRule("nv_inference_exec_count", f"{BY} (headrace_engine_seconds_count)"),
    RecordingRule("nv_inference_request_duration_us", f'1e6 * {BY} (headrace_request_seconds_sum{{model!=""}})'),
    RecordingRule("nv_inference_queue_duration_us", f"1e6 * {BY} (headrace_queue_seconds_sum)"),
    RecordingRule("nv_inference_compute_infer_duration_us", f"1e6 * {BY} (headrace_engine_seconds_sum)"),
)
KSERVE = tuple(
    RecordingRule(
        f"request_predict_seconds_{part}",
        _named(f'sum by ({"model, le" if part == "bucket" else "model"}) (headrace_engine_seconds_{part}{{way="online"}})'),
    )
    for part in ("bucket", "count", "sum")
)
MLSERVER = (
    RecordingRule("model_infer_request_success_total", f"{BY} ({OK})"),
    RecordingRule("model_infer_request_failure_total", f"{BY} ({BAD})"),
    RecordingRule("model_infer_request_duration_count", f'{BY} (headrace_request_seconds_count{{model!=""}})'),
    RecordingRule("model_infer_request_duration_sum", f'{BY} (headrace_request_seconds_sum{{model!=""}})'),
)


def foreign_groups() -> tuple[RuleGroup, ...]:
    """One a server."""
    return (
        RuleGroup("headrace-as-triton", TRITON),
        RuleGroup("headrace-as-kserve", KSERVE),
        RuleGroup("headrace-as-mlserver", MLSERVER),
    )
