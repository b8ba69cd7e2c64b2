"""`python -m examples.custody.demo`: a model sealed and signed, others refused, a customer forgotten, a changed record found."""

from __future__ import annotations

import shutil
import sys
import time

from examples.custody.steps import FOLDER, OUT, STEPS, Custody
from examples.local_run import begin_afresh, headrace, running


def main() -> int:
    """All of it. Returns 0 where everything was as said."""
    started_s = time.monotonic()
    begin_afresh(OUT)
    OUT.mkdir(parents=True)
    headrace("signing", "new", "release")
    shutil.copyfile(FOLDER / "policy" / "signing.yaml", OUT / "signing.yaml")
    walk = Custody()
    with running(OUT, "--broker", "--signing", str(OUT / "signing.yaml")):
        for title, step in STEPS:
            print(f"\n{title}", flush=True)
            step(walk)
    return walk.end(started_s)


if __name__ == "__main__":
    sys.exit(main())
