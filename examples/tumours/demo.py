"""`python -m examples.tumours.demo`: trains, builds, asks over HTTP, by a stream, in bulk; exit code 1 where answers differ."""

from __future__ import annotations

import sys
from pathlib import Path

from examples.three_ways import Example, run

CELLS = tuple(f"measure_{place}" for place in range(30))

if __name__ == "__main__":
    sys.exit(run(Example(Path(__file__).parent, "tumours", {"cells": CELLS}, positive=1)))
