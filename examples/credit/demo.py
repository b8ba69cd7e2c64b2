"""`python -m examples.credit.demo`: trains, builds, asks over HTTP, by a stream and in bulk; exit code 1 where answers differ."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq

from examples.credit.train import DATA, LABEL, LEFT_OUT
from examples.three_ways import Example, run


def example() -> Example:
    """Each input reads the column of its own name."""
    columns = [name for name in pq.read_schema(DATA).names if name not in (LABEL, *LEFT_OUT)]
    return Example(Path(__file__).parent, "credit", {name: (name,) for name in columns}, positive=1)


if __name__ == "__main__":
    sys.exit(run(example()))
