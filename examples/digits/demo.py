"""The main job, end to end, as a team would do it by hand: `make demo`, or `python -m examples.digits.demo [--keep]`.

Every count in the closing table is read back from the topics, the files and the answers; any that is off makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import tritonclient.http as triton
from rich.console import Console
from rich.table import Table

from examples.digits.picture import picture
from examples.digits.traffic import Digits, HttpCaller, Publisher, Reader, SteadyProducer, Tally
from headrace.client import ControlClient
from headrace.local.ports import answers, free_port

HERE = Path(__file__).parent
PROJECT = HERE / "project"
OUT = HERE / "out"
HOME = OUT / "home"
HEADRACE = Path(sys.executable).with_name("headrace")

EVENTS = 30_000
MALFORMED_EVENTS = 200
BATCH_COPIES = 100
BATCH_BAD_ROWS = 7
EVENTS_PER_S = 300
FEW_EVENTS = 500  # of fewer, the share of right ones says little: version 3 is stopped after a few dozen
HTTP_CALLS = 20

# One for each version; the third evens out brightness by a table that is too short.
TRAININGS = (
    ("examples.digits.train", "--out", str(OUT / "v1"), "--epochs", "3"),
    ("examples.digits.train_keras", "--out", str(OUT / "v2"), "--epochs", "8"),
    ("examples.digits.train", "--out", str(OUT / "v3"), "--network", "calibrated"),
)

console = Console()


@dataclass
class Ledger:
    """What was counted, and whether it is what it should be."""

    rows: list[tuple[str, str, str, bool]] = field(default_factory=list)

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Notes a count that must equal another."""
        self.rows.append((what, str(found), f"= {wanted}", found == wanted))

    def require(self, what: str, found: str, wanted: str, good: bool) -> None:
        """Notes a figure that must meet a condition."""
        self.rows.append((what, found, wanted, good))

    def tell(self, what: str, found: str) -> None:
        """Notes a figure that nothing is asked of."""
        self.rows.append((what, found, "", True))

    @property
    def good(self) -> bool:
        """Whether every count is right."""
        return all(row[3] for row in self.rows)

    def table(self) -> Table:
        """The closing table."""
        table = Table(title="What was counted")
        for column in ("what", "found", "wanted", ""):
            table.add_column(column)
        for what, found, wanted, good in self.rows:
            table.add_row(what, found, wanted, ("[green]ok[/]" if wanted else "") if good else "[red]WRONG[/]")
        return table


def port_or_other(wanted: int) -> int:
    """The port itself where nothing listens there, else any free one."""
    return free_port() if answers("127.0.0.1", wanted) else wanted


def headrace(*arguments: str, show: bool = True) -> str:
    """Runs the command line as its user would; returns what it printed, and stops the demo where it fails."""
    if show:
        console.print(f"[dim]$ headrace {' '.join(arguments)}[/]", highlight=False)
    done = subprocess.run([str(HEADRACE), *arguments], stdout=None if show else subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"headrace {' '.join(arguments)} ended with exit code {done.returncode}")
    return done.stdout or ""


def headrace_json(*arguments: str) -> Any:
    """The same, for the commands that answer in JSON."""
    return json.loads(headrace(*arguments, "--json", show=False))


@contextmanager
def training(*trainings: tuple[str, ...]) -> Iterator[None]:
    """Trains the networks, one after the other, beside the block; tells afterwards what they printed."""
    steps = [[sys.executable, "-m", *words] for words in trainings]
    with ThreadPoolExecutor(max_workers=1) as aside:
        printed = [aside.submit(subprocess.run, one, capture_output=True, text=True, check=False) for one in steps]
        yield
        with console.status("training"):
            done = [one.result() for one in printed]
    for one in done:
        console.print(one.stdout.strip(), style="dim", highlight=False, soft_wrap=True)
        if one.returncode:
            raise SystemExit(f"{' '.join(one.args)} ended with exit code {one.returncode}:\n{one.stderr}")


def follow_rollout(candidate: int, *, timeout_s: float) -> dict[str, Any]:
    """Follows the rollout of that version to its end, and tells each change of state."""
    command = [str(HEADRACE), "rollout", "status", "digits", "--version", str(candidate), "--watch", "--json"]
    rollout: dict[str, Any] | None = None
    shown = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        late = threading.Timer(timeout_s, watching.kill)
        late.start()
        try:
            for line in watching.stdout or ():
                rollout = json.loads(line)["rollout"]
                if rollout is None:
                    continue  # it begins with the controller's next look
                told = f"version {candidate}: {rollout['state']}, {rollout['weight']:g} % of traffic"
                if told != shown:
                    words = "; ".join(check["words"] for check in rollout["checks"])
                    console.print(f"  {told}" + (f" ({words})" if words else ""), highlight=False, soft_wrap=True)
                    shown = told
        finally:
            late.cancel()
    if watching.returncode or rollout is None:
        raise SystemExit(f"the rollout of version {candidate} did not end within {timeout_s:g} s")
    console.print(f"  {rollout['reason']}", highlight=False, soft_wrap=True)
    return rollout


def write_dataset(digits: Digits, path: Path) -> int:
    """Writes the digits as a Parquet dataset of four files, some rows of it bad; returns how many rows it has."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    pixels = np.tile(digits.rows, (BATCH_COPIES, 1))
    bad = np.linspace(0, len(pixels) - 1, BATCH_BAD_ROWS).astype(int)
    pixels[bad[::2], 5] = np.nan
    values: pa.Array = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), 784)
    mask = np.zeros(len(pixels), dtype=bool)
    mask[bad[1::2]] = True
    nulls = pa.array(mask)
    table = pa.table(
        {
            "id": pa.array(np.arange(len(pixels))),
            "label": pa.array(np.tile(digits.labels, BATCH_COPIES)),
            "image": pa.compute.if_else(nulls, pa.scalar(None, values.type), values),
        }
    )
    share = -(-len(table) // 4)
    for part in range(4):
        pq.write_table(table.slice(part * share, share), path / f"digits-{part}.parquet", row_group_size=share // 4)
    return len(table)


def read_until(reader: Reader, publisher: Publisher, timeout_s: float) -> Tally:
    """Reads both topics until all that was published is there; shows progress."""
    wanted = publisher.good + publisher.bad
    with console.status("reading the output topic") as status:
        for read in reader.read_until(publisher.good, publisher.bad, timeout_s=timeout_s):
            status.update(f"reading the output topic: {read} of {wanted}")
    return reader.tally


def step(number: int, title: str) -> None:
    """Announces a step."""
    console.print(f"\n[bold]{number}. {title}[/]")


def stream_part(ledger: Ledger, publisher: Publisher, reader: Reader) -> None:
    """Publishes the first events and reads what became of them."""
    publisher.send_good(EVENTS // 2)
    publisher.send_bad(MALFORMED_EVENTS)
    publisher.send_good(EVENTS - EVENTS // 2)
    publisher.flush()
    started = time.monotonic()
    tally = read_until(reader, publisher, timeout_s=300)
    seconds = time.monotonic() - started
    ledger.tell("stream: drained at", f"{(publisher.good + publisher.bad) / seconds:,.0f} events/s")
    for reason, count in tally.reasons.most_common():
        console.print(f"  dead letters: {count:>4} x {reason}", highlight=False, soft_wrap=True)


def batch_part(ledger: Ledger, digits: Digits) -> None:
    """Scores the dataset in bulk and reads the published files back."""
    rows = write_dataset(digits, OUT / "batch" / "in")
    headrace("batch", "run", "digits")
    summary = headrace_json("batch", "status", "digits")
    scored = ds.dataset(OUT / "batch" / "scored", format="parquet").to_table()
    ids = scored.column("id").to_numpy()
    ledger.expect("batch: rows scored", len(ids), rows - BATCH_BAD_ROWS)
    ledger.expect("batch: rows scored twice", len(ids) - len(np.unique(ids)), 0)
    ledger.expect("batch: rows in quarantine", summary["rows_quarantined"], BATCH_BAD_ROWS)
    right = np.mean(scored.column("prediction").to_numpy() == scored.column("label").to_numpy())
    ledger.require("batch: accuracy", f"{right:.3f}", "> 0.85", bool(right > 0.85))
    ledger.tell("batch: rate", f"{summary['rows_per_s']:,.0f} rows/s")


def http_part(ledger: Ledger, url: str, digits: Digits) -> None:
    """One call with curl, one with an unchanged tritonclient."""
    body = {"inputs": [{"name": "image", "shape": [1, 784], "datatype": "FP32", "data": digits.rows[0].tolist()}]}
    (OUT / "request.json").write_text(json.dumps(body))
    target = f"{url}/v2/models/digits/infer"
    console.print(f"[dim]$ curl -d @request.json {target}[/]", highlight=False)
    curl = subprocess.run(
        ["curl", "-sS", "--fail-with-body", "-H", "Content-Type: application/json", "-d", f"@{OUT / 'request.json'}", target],
        capture_output=True,
        text=True,
        check=False,
    )
    answer = json.loads(curl.stdout)
    console.print(f"  {curl.stdout[:300]}", highlight=False, soft_wrap=True)
    ledger.expect("curl: digit", int(np.argmax(answer["outputs"][0]["data"])), int(digits.labels[0]))

    client = triton.InferenceServerClient(url.removeprefix("http://"))
    many = triton.InferInput("image", list(digits.rows.shape), "FP32")
    many.set_data_from_numpy(digits.rows)
    started = time.monotonic()
    answers = [client.infer("digits", [many]).as_numpy("probabilities") for _ in range(HTTP_CALLS)]
    rate = HTTP_CALLS * len(digits.rows) / (time.monotonic() - started)
    client.close()
    outputs = answers[-1]
    ledger.tell(f"HTTP: rate, {len(digits.rows)} rows a call", f"{rate:,.0f} rows/s")
    right = float(np.mean(np.argmax(outputs, axis=1) == digits.labels))
    ledger.require(f"tritonclient: accuracy on {len(digits.rows)} rows", f"{right:.3f}", "> 0.85", right > 0.85)


def rollout_part(ledger: Ledger, url: str, digits: Digits, publisher: Publisher, pictured: Path | None) -> None:
    """Replaces version 1 (PyTorch) by 2 (Keras, compressed) and sees the broken 3 off, under load from a stream and over HTTP."""
    with HttpCaller(url, "digits", digits) as caller, SteadyProducer(publisher, EVENTS_PER_S):
        headrace("build", str(PROJECT / "model-v2.yaml"))
        with nullcontext() if pictured is None else picture("digits", pictured):
            ledger.expect("rollout of version 2", follow_rollout(2, timeout_s=240)["state"], "promoted")
        headrace("build", str(PROJECT / "model-v3.yaml"))
        ledger.expect("rollout of version 3 (broken)", follow_rollout(3, timeout_s=240)["state"], "rolled_back")
    ledger.expect("HTTP calls that failed", sum(caller.failures.values()), 0)
    ledger.tell("HTTP calls answered", f"{sum(caller.versions.values())} ({dict(sorted(caller.versions.items()))} by version)")
    for failure, count in caller.failures.most_common(5):
        console.print(f"  failed {count} times: {failure}", highlight=False)


def count_stream(ledger: Ledger, publisher: Publisher, tally: Tally) -> None:
    """Holds what was read against what was published."""
    ledger.tell("stream: events in, malformed ones among them", f"{publisher.good + publisher.bad}")
    ledger.expect("stream: events out", len(tally.scored), publisher.good)
    ledger.expect("stream: dead letters", len(tally.dead), publisher.bad)
    ledger.expect("stream: lost", publisher.good + publisher.bad - len(tally.scored) - len(tally.dead), 0)
    ledger.expect("stream: doubled", tally.duplicates, 0)
    accuracy = tally.accuracy()
    for version, share in accuracy.items():
        rows = tally.rows_by_version[version]
        what = f"stream: accuracy of version {version} on {rows} events"
        if rows < FEW_EVENTS:
            ledger.tell(what, f"{share:.3f}")
        else:
            ledger.require(what, f"{share:.3f}", "> 0.85", share > 0.85)
    ledger.expect("stream: versions that scored include 1 and 2", {"1", "2"} <= set(accuracy), True)


def run(brokers_given: str | None, *, keep: bool, pictured: Path | None) -> bool:
    """All steps, in order. Returns whether every count was right."""
    ledger = Ledger()
    step(1, "Start everything, and meanwhile train three networks on real handwritten digits")
    ports = {"--http-port": port_or_other(8000), "--grpc-port": port_or_other(9000), "--dashboard-port": port_or_other(8265)}
    if not brokers_given:
        ports["--broker-port"] = port_or_other(9092)
    options = [word for name, port in ports.items() for word in (name, str(port))]
    with training(*TRAININGS):
        headrace("up", *([] if brokers_given else ["--broker"]), *options)
    with np.load(OUT / "test.npz") as data:
        digits = Digits(rows=data["image"], labels=data["label"])
    status = headrace_json("status")
    url, brokers = status["addresses"]["http"], brokers_given or status["addresses"]["broker"]

    step(2, "Build version 1 and apply the project")
    headrace("build", str(PROJECT / "model.yaml"))
    headrace("apply", "-f", str(PROJECT / "model.yaml"), "-f", str(PROJECT / "stream.yaml"), "-f", str(PROJECT / "batch.yaml"))

    step(3, f"Publish {EVENTS} events and {MALFORMED_EVENTS} malformed ones, and read what comes out")
    name = f"{time.time_ns():x}"  # tells this run's events from those of an earlier one on the same broker
    publisher = Publisher(brokers, "digits-in", digits, name)
    reader = Reader(brokers, "digits-out", "digits-dead", digits.labels, name)
    stream_part(ledger, publisher, reader)

    step(4, "Score a Parquet dataset")
    batch_part(ledger, digits)

    step(5, "Ask over HTTP")
    http_part(ledger, url, digits)

    step(6, "Roll out version 2, from Keras and compressed, then a broken version 3, while events and calls keep coming")
    rollout_part(ledger, url, digits, publisher, pictured)
    count_stream(ledger, publisher, read_until(reader, publisher, timeout_s=120))
    publisher.close()
    reader.close()

    console.print()
    console.print(ledger.table())
    if keep:
        console.print("\nLeft running; `headrace down` ends it. Set this first:")
        console.print(f"  export HEADRACE_HOME={HOME}", highlight=False, soft_wrap=True)
        for name, address in headrace_json("status")["addresses"].items():
            console.print(f"  {name}: {address}", highlight=False)
        with ControlClient.from_environment() as client:
            console.print(f"  console: {client.console_link()}", highlight=False, soft_wrap=True)
    return ledger.good


def tidy(action: Callable[[], object]) -> None:
    """Ends what is running from an earlier demo, then does `action`."""
    if (HOME / "run.json").exists():
        headrace("down", show=False)
    action()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where every count was right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running and print the addresses")
    parser.add_argument("--picture", type=Path, help="take a picture of the console during a rollout, into this file")
    options = parser.parse_args(arguments)
    keep: bool = options.keep
    os.environ["HEADRACE_HOME"] = str(HOME)
    started = time.monotonic()
    tidy(lambda: shutil.rmtree(OUT, ignore_errors=True))
    OUT.mkdir(parents=True)
    good = False
    try:
        good = run(os.environ.get("KAFKA_BOOTSTRAP_SERVERS"), keep=keep, pictured=options.picture)
    finally:
        if not keep:
            tidy(lambda: None)
    verdict = "[bold green]Every count is right.[/]" if good else "[bold red]Some counts are wrong.[/]"
    console.print(f"{verdict} {time.monotonic() - started:.0f} s.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
