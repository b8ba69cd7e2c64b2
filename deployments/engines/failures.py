"""What an engine's own error may tell: which operator failed and on which shapes, never a value of a row.

Engines quote what they choke on: an index, a text that is no number. What is told is what the patterns below find, and nothing
else of the text.
"""

from __future__ import annotations

import re

_NUMBERS = r"[\d, x*]+"
_FOUND = (
    # onnxruntime
    r"\[ONNXRuntimeError\] : \d+ : (?P<onnxruntime>[A-Z_]+)",
    r"(?P<node>while running \S+ node\. Name:'[^']*')",
    r"Got invalid dimensions for input: \S+ for the following indices(?:\s*index: \d+ Got: \d+ Expected: \d+)+",
    r"Failed to allocate memory for requested buffer of size \d+",
    r"The input tensor cannot be reshaped to the requested shape",
    r"indices element out of data bounds",
    r"bad_alloc",
    # torch
    r"(?:CUDA|HIP) out of memory",
    r"(?:CUDA|cuDNN|CUBLAS|cuBLAS) error: [A-Za-z_ -]+",
    r"DefaultCPUAllocator: (?:can't|not enough) [a-z ]+",
    rf"mat1 and mat2 shapes cannot be multiplied \({_NUMBERS} and {_NUMBERS}\)",
    r"The size of tensor a \(\d+\) must match the size of tensor b \(\d+\) at non-singleton dimension \d+",
    r"shape '\[[\d, -]+\]' is invalid for input of size \d+",
    rf"Expected \d+D \(unbatched\) or \d+D \(batched\) input to \w+, but got input of size: \[{_NUMBERS}\]",
    r"index out of range in self",
    r"[Ii]ndex(?= -?\d+ is) is out of bounds",
    r"does not have a deterministic implementation",
)
_ALL = re.compile("|".join(f"(?:{each})" for each in _FOUND))
_MOST_PIECES, _LONGEST = 3, 300


def told_by(error: BaseException) -> str:
    """The kind of the error, and what of its first lines is about operators, shapes and memory."""
    pieces = [match.group("onnxruntime") or match.group(0) for match in _ALL.finditer(str(error)[:4000])]
    text = ", ".join(dict.fromkeys(pieces[:_MOST_PIECES]))[:_LONGEST]
    kind = type(error).__name__
    return f"{kind}: {text}" if text else kind
