"""What the onnx engine needs of onnxruntime's insides: its status codes, which it raises as errors and exports nowhere, and the
model's bytes, which a session keeps for as long as it lives."""

from __future__ import annotations

import logging

import onnxruntime as ort

from deployments.insides import Inside

_STATUS = (
    "EPFail",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoModel",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
)
TABLE = tuple(
    Inside("onnxruntime.capi.onnxruntime_pybind11_state", name, without="any error of a session is taken for the model's")
    for name in _STATUS
)
_BYTES = "_model_bytes"  # an attribute of each session

_log = logging.getLogger(__name__)


def forget_bytes(session: ort.InferenceSession) -> None:
    """Lets go of what a session was made from: it keeps it only to be made again, for another device. Without it a model takes
    its size in memory twice."""
    if hasattr(session, _BYTES):
        setattr(session, _BYTES, None)
    else:
        _log.warning("onnxruntime's session has no %s here: a model takes its size in memory once more", _BYTES)


def session_errors() -> tuple[type[Exception], ...]:
    """What a session raises where the model, or what it is given, is at fault; anything where one of its codes is not known."""
    # RuntimeError, ValueError and TypeError are what the binding itself raises.
    found = [inside.probe() for inside in TABLE]
    return (Exception,) if None in found else (*found, RuntimeError, ValueError, TypeError)
