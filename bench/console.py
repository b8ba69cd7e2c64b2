"""`python -m bench.console [--quick] [--json]`: what 200 open consoles cost the gateway and its door.

A rollout is under way and somebody calls steadily, so that there is news each second. Rounds with the consoles and without take
turns; the figure is the processor time that they add, beside what is allowed: 5 % of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from rich.console import Console

from bench.figures import Figure, show
from bench.idle import cpu_s, processes
from bench.service import Service, binary_body, running

MODEL = "bench-console"
CONSOLES = 200
ALLOWED_MS_PER_S = 50.0
STEPS = {"steps": [{"weight": 50, "bake_s": 3600}, {"weight": 100}], "deadline_s": 7200}
CALL_EVERY_S = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under two minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    rounds, seconds = (2, 10.0) if options.quick else (4, 30.0)
    with running() as service:
        service.apply(MODEL, {"transport": "embedded", "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}, STEPS)
        service.rollout_at(MODEL, service.register(MODEL, 64), "promoted")
        service.rollout_at(MODEL, service.register(MODEL, 128), "canary")
        held, free, events = list[float](), list[float](), list[float]()
        with calling(service):
            for _ in range(rounds):
                free.append(used_ms_per_s(seconds))
                with consoles(service.port, events):
                    held.append(used_ms_per_s(seconds))
    Console(stderr=True).print(f"with: {held}\nwithout: {free}\nevents/s of a console: {events}")
    added = statistics.fmean(held) - statistics.fmean(free)
    figures = [Figure("console.cpu", added, ALLOWED_MS_PER_S, f"ms/s for {CONSOLES} consoles (lower is better)")]
    figures.append(Figure("console.events", statistics.fmean(events), 1.0, "events/s of one console"))
    show(figures, as_json=options.json)


def used_ms_per_s(seconds: float) -> float:
    """The processor time that the gateway and its door take."""
    ours = processes()
    before_s = cpu_s(ours)
    time.sleep(seconds)
    return 1000 * (cpu_s(ours) - before_s) / seconds


@contextmanager
def calling(service: Service) -> Iterator[None]:
    """Somebody calls steadily. Raises SystemExit where a call failed."""
    stop, failures = threading.Event(), list[int]()
    body, headers = binary_body()

    def call() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", trust_env=False) as client:
            while not stop.wait(CALL_EVERY_S):
                answer = client.post(f"/v2/models/{MODEL}/infer", content=body, headers=headers)
                if not answer.is_success:
                    failures.append(answer.status_code)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failures:
        raise SystemExit(f"calls failed: {failures[:5]}")


@contextmanager
def consoles(port: int, events: list[float]) -> Iterator[None]:
    """They are open in a process of their own; notes how many events/s each got. Raises SystemExit where one was closed, or was
    told nothing."""
    command = [sys.executable, "-m", "bench.console", "hold", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "open\n":
            raise SystemExit("the consoles were not to be had")
        yield
        told, _ = process.communicate()
    held_s, *counted = [float(number) for number in told.split()]
    if len(counted) != CONSOLES or min(counted) == 0:
        raise SystemExit(f"{CONSOLES - len(counted)} consoles were closed, and one was told {min(counted, default=0)} times")
    events.append(statistics.fmean(counted) / held_s)


async def opened(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A console that has its first picture."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    writer.write(b"GET /console/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (await reader.readuntil(b"event: picture")).startswith(b"HTTP/1.1 200")
    return reader, writer


async def hold(port: int) -> None:
    """Opens them, and counts what each is told until standard input ends: prints for how long, and how often each."""
    streams = await asyncio.gather(*(opened(port) for _ in range(CONSOLES)))  # at a time: what comes meanwhile would count
    print("open", flush=True)
    counts, began_s = [0] * CONSOLES, time.monotonic()

    async def count(number: int, reader: asyncio.StreamReader) -> None:
        while True:
            await reader.readuntil(b"event: change")
            counts[number] += 1

    counting = [asyncio.create_task(count(number, reader)) for number, (reader, _) in enumerate(streams)]
    await asyncio.to_thread(sys.stdin.buffer.read)
    held_s = time.monotonic() - began_s
    print(held_s, *(counts[number] for number, task in enumerate(counting) if not task.done()))
    for task in counting:
        task.cancel()


if __name__ == "__main__":
    if sys.argv[1:2] == ["hold"]:
        asyncio.run(hold(int(sys.argv[2])))
    else:
        main()
