"""What the contract's jobs run instead of a batch: ends, fails or waits, as the batch's name says."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    sys.stderr.write(f"as asked: {sys.argv[1:]}\n")
    if sys.argv[1] == "fails":
        sys.exit("the last words")
    if sys.argv[1] == "waits":
        signal.pause()
