"""What the contract's jobs run instead of a batch: as its name says, ends, fails, lacks something for now, waits, or tells which
Ray it is to join."""

from __future__ import annotations

import signal
import sys

from cluster.schedule.jobs import TRY_AGAIN

if __name__ == "__main__":
    sys.stderr.write(f"as asked: {sys.argv[1:]}\n")
    if sys.argv[1] == "fails":
        sys.exit("the last words")
    if sys.argv[1] == "lacks":
        sys.stderr.write("what it lacks")
        sys.exit(TRY_AGAIN)
    if sys.argv[1] == "says-its-ray":
        sys.exit(sys.argv[sys.argv.index("--ray") + 1])
    if sys.argv[1] == "waits":
        signal.pause()
