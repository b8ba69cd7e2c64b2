"""A record of the audit as a line of OCSF (API Activity, 6003). Pure: the same record is always the same line."""

from __future__ import annotations

from typing import Any

import orjson

from cluster.audit.kinds import FAILURES

OCSF_VERSION = "1.5.0"
API_ACTIVITY = 6003
OTHER = 99


def line_of(number: int, document: str) -> str:
    """`raw_data` is the record as it was stored, of which the audit's tree has the hash; all else is made of it."""
    event = orjson.loads(document)
    refused = event["event"] in FAILURES
    told: dict[str, Any] = {
        "category_uid": API_ACTIVITY // 1000,
        "class_uid": API_ACTIVITY,
        "activity_id": OTHER,
        "type_uid": API_ACTIVITY * 100 + OTHER,
        "severity_id": 1,
        "status_id": 2 if refused else 1,
        "time": round(event["at_s"] * 1000),
        "actor": {"user": {"name": event["actor"]}},
        "api": {"operation": event["event"]},
        "resources": [{"type": "model", "name": event["model"]}] if event["model"] else [],
        "metadata": {"version": OCSF_VERSION, "sequence": number, "product": {"name": "Headrace", "vendor_name": "Headrace"}},
        "raw_data": document,
    }
    # Older records have neither: their lines stay what they were.
    if event.get("address"):
        told["src_endpoint"] = {"ip": event["address"]}
    if event.get("door"):
        told["unmapped"] = {"door": event["door"]}  # as OCSF keeps what it has no name for
    return orjson.dumps(told).decode()
