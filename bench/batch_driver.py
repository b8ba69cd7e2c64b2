"""One batch run in a process of its own, as the command line does it: `python -m bench.batch_driver ADDRESS SPEC PINNED`.

Prints one JSON line: when the first row was begun and when the result was published (Unix time), and the rows written.
"""

from __future__ import annotations

import sys
import time

import orjson
import ray

from consumers.batch.ledger import Pinned, Runs
from consumers.batch.places import locate
from consumers.batch.pool import ray_workforce
from consumers.batch.run import Progress, begin
from consumers.batch.spec import BatchSpec


def main() -> None:
    address, spec_json, pinned_json = sys.argv[1:]
    ray.init(address=address, namespace="headrace", log_to_driver=False, logging_level="ERROR")
    spec = BatchSpec.model_validate_json(spec_json)
    first: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.units_done == 1 and not first:
            first.append(time.time())

    manifest = begin("bench", spec, Pinned.model_validate_json(pinned_json), ray_workforce(), as_of=None, fresh=True, watch=watch)
    receipts = Runs(locate(spec.output.path)).all()[-1].receipts()
    # Several workers begin at once, so the first receipt's own time leads back to the first row.
    begun = first[0] - min(receipt.seconds for receipt in receipts[:2])
    print(orjson.dumps({"first_s": begun, "published_s": manifest.ended_s, "written": manifest.written}).decode())


if __name__ == "__main__":
    main()
