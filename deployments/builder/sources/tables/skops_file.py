"""Fitted estimators in skops' format, which names each type that it holds before any is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.errors import BadInput


def read_skops(file: Path, harmless: Sequence[str]) -> Any:
    """The estimator. `harmless` begin the names of types that hold numbers only, beyond those that skops knows to be safe.

    Raises BadInput for any other type, before it is made.
    """
    # Only where it is wanted: pickles and text need no skops.
    import skops.io

    try:
        asked = skops.io.get_untrusted_types(file=file)
        unknown = sorted(name for name in asked if not name.startswith(tuple(harmless)))
        if unknown:
            raise BadInput(
                f"holds {', '.join(unknown)}, which skops does not know to be safe",
                where=str(file),
                remedy="leave those out of the model, or save it with joblib and say allow_pickle: true",
            )
        return skops.io.load(file, trusted=asked)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"can't be read: {error}", where=str(file), remedy="save it again with skops.io.dump") from error
