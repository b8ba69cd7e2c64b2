"""What the onnx engine needs of onnxruntime's insides: its status codes, which it raises as errors and exports nowhere."""

from __future__ import annotations

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


def session_errors() -> tuple[type[Exception], ...]:
    """What a session raises where the model, or what it is given, is at fault; anything where one of its codes is not known."""
    # RuntimeError, ValueError and TypeError are what the binding itself raises.
    found = [inside.probe() for inside in TABLE]
    return (Exception,) if None in found else (*found, RuntimeError, ValueError, TypeError)
