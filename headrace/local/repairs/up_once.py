"""One `headrace up` in a process of its own, a line a step: `python -m headrace.local.repairs.up_once OPTIONS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import TypeAdapter

from cluster.error_wire import to_wire
from cluster.errors import HeadraceError
from headrace.client import ControlClient
from headrace.local.home import read_settings
from headrace.local.lock import Busy
from headrace.local.options import UpOptions
from headrace.local.repairs.aboard import take_aboard
from headrace.local.repairs.supervise import BUSY, line_of
from headrace.local.run_state import note_left_out
from headrace.local.up import bring_up


def main(options: str) -> int:
    """0, or 1, or BUSY: then the last line is the error, as it goes over the wire."""
    try:
        asked, settings = TypeAdapter(UpOptions).validate_json(options), read_settings()
        bring_up(asked, settings, lambda *step: _write(line_of(*step)))
        if asked.models:
            with ControlClient.from_environment(settings) as client:
                note_left_out(settings.home, take_aboard(client, Path(asked.models), _write))
    except HeadraceError as error:
        _write(json.dumps({"error": to_wire(error)}))
        return BUSY if isinstance(error, Busy) else 1
    return 0


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
