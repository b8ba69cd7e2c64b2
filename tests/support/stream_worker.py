"""A stream's worker as a process of its own, so that tests can kill it.

`python -m tests.support.stream_worker SPEC BROKERS RANK`.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
import time
from collections import deque

from consumers.stream.kafka.clients import open_log
from consumers.stream.log.port import Member
from consumers.stream.loop import Loop
from consumers.stream.phases import WorkerPhase
from consumers.stream.spec import StreamSpec
from tests.support.stream_parts import SumScoring


def main(document: str, brokers: str, rank: str) -> None:
    """Works until SIGTERM, exits with 1 where it failed. Says `owns` on its standard output once it has partitions."""
    faulthandler.register(signal.SIGUSR1)
    spec = StreamSpec.model_validate_json(document)
    group = spec.group_of("test")
    # Slow enough to be killed in the middle; it remembers no key, since its memory is looked at.
    scoring = SumScoring(fail=lambda: time.sleep(0.02), keys=deque(maxlen=0))
    loop = Loop("test", spec, scoring, lambda: open_log(spec, brokers, Member(group, f"{group}-{rank}", f"{group}-{rank}")))
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    worker = threading.Thread(target=loop.run)
    worker.start()
    while worker.is_alive() and not loop.lag():
        worker.join(0.02)
    sys.stdout.write("owns\n")
    sys.stdout.flush()
    worker.join()
    scoring.executor.shutdown()
    if loop.phase is WorkerPhase.FAILED:
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
