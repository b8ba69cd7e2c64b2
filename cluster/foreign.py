"""What libraries, and faults of ours, may say of themselves where rows are at hand: places and types, never a value.

A library quotes what it could not take ("could not convert string to float: 'Ada'"), and such a text would end in logs, answers,
dead letters and reports. So the text of an error counts only where its kind never holds one; of all others the kind is told, and
the trace says where it came from.
"""

from __future__ import annotations

import binascii
import json
import struct
import textwrap
import traceback
import zipfile
import zlib
from types import TracebackType

from cluster.errors import HeadraceError

# What these say is about files, addresses, sizes, places and names of Python's own.
_TEXTS_WITHOUT_VALUES = (
    HeadraceError,
    OSError,
    ImportError,
    EOFError,
    MemoryError,
    RecursionError,
    AttributeError,
    NameError,
    json.JSONDecodeError,
    zlib.error,
    binascii.Error,
    struct.error,
    zipfile.BadZipFile,
)
# Brokers name topics, sizes and settings; a class of ours says what we wrote.
_ROOMS_WITHOUT_VALUES = ("cluster", "deployments", "consumers", "headrace", "kafka", "cimpl")
# Of Ray's, most of which quote what a task raised: these say which call was not answered, and for how long.
_NAMES_WITHOUT_VALUES = frozenset({"ray.exceptions.RpcError", "ray.exceptions.GetTimeoutError"})
_LONGEST = 500
_BECAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_MEANWHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"


def words_of(error: BaseException) -> str:
    """What may be told of it: its first line where that holds no value, else its kind. Never empty."""
    text = _safe_text(error)
    return text or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what it says, else its kind: of errors whose texts hold no value, whatever their kind. Never empty."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def kind_and_words(error: BaseException) -> str:
    """The same with its kind before it."""
    text = _safe_text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def trace_of(error: BaseException) -> str:
    """Python's trace with all that caused it, the texts of errors told as `words_of` does. Ends with a line's end."""
    return _trace(error, set())


def _trace(error: BaseException, seen: set[int]) -> str:
    """Of those that were not `seen`."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        cause, context = current.__cause__, None if current.__suppress_context__ else current.__context__
        earlier = cause or context
        joint = "" if earlier is None or id(earlier) in seen else _BECAUSE if cause is not None else _MEANWHILE
        parts.append(joint + _frames(current.__traceback__) + _last_line(current, seen))
        current = earlier
    return "".join(reversed(parts))


def _frames(trace: TracebackType | None) -> str:
    return "Traceback (most recent call last):\n" + "".join(traceback.format_tb(trace)) if trace is not None else ""


def _last_line(error: BaseException, seen: set[int]) -> str:
    name = _full_name(type(error))
    text = _safe_text(error, whole=True)
    group = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    inner = "".join(textwrap.indent(f"within it: {_trace(one, seen)}", "  ") for one in group if id(one) not in seen)
    return f"{name}: {text}\n{inner}" if text else f"{name}\n{inner}"


def _safe_text(error: BaseException, *, whole: bool = False) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"no {error.encoding} at byte {error.start}"
    if isinstance(error, UnicodeEncodeError):
        return f"a character at place {error.start} that {error.encoding} does not have"
    if not _says_no_value(error):
        return ""
    text = str(error).strip()
    return text if whole else text.partition("\n")[0][:_LONGEST]


def _says_no_value(error: BaseException) -> bool:
    room = type(error).__module__.partition(".")[0]
    known = isinstance(error, _TEXTS_WITHOUT_VALUES) or room in _ROOMS_WITHOUT_VALUES
    return known or _full_name(type(error)) in _NAMES_WITHOUT_VALUES


def _full_name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
