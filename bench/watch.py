"""`python -m bench.watch [--quick] [--json] [--only WAY]`: what watching a model costs on each of the three ways.

Watched is a version with a profile, some of whose rows are counted beside it, of whose traffic a hundredth is kept; the other has
no profile, and nothing of it is kept. Both are the same network, embedded, and take turns, pair by pair; the ratio is what is
left of the rate, and the goal 0.95. Metrics are counted of both: what those cost is seen by running `bench.online` of two
releases in turn.

| figure | what takes turns |
|---|---|
| `watch.online.json`, `.binary`, `.grpc` | two models of one gateway, one row a request (medians) |
| `watch.stream.binary` | the table of one worker (means) |
| `watch.batch` | runs over the same files (medians) |
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from rich.console import Console

from bench import grpc_load
from bench.access import compared
from bench.batch import drive
from bench.batch_data import Case, spec_of, write_dataset, write_model
from bench.figures import Figure, show
from bench.http_load import measure, request
from bench.online import GRPC_METHOD
from bench.service import ENVIRONMENT, Service, binary_body, grpc_message, json_body, running
from bench.watch_stream import watched_stream
from cluster.commands.documents import Apply, ModelDocument
from cluster.watch.payloads import PayloadFiles, Payloads

WATCHED, PLAIN = "bench-watched", "bench-plain"
SAMPLE = 0.01
PROFILED = 2000
# Of some twenty seconds: what a worker does once must not count.
CASE = Case("watch", files=8, rows_a_file=50_000, width=784, layers=(128, 10), as_list=True, links=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter rounds: some eight minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--only", default="", help="only ways whose name holds this: online, stream, batch")
    options = parser.parse_args()
    screen = Console(stderr=True)
    figures: list[Figure] = []
    if options.only in "online":
        figures += online(*((5, 4.0) if options.quick else (9, 10.0)), screen)
    with tempfile.TemporaryDirectory(prefix="hw-") as folder:
        if options.only in "stream":
            figures.append(watched_stream(3 if options.quick else 7, PROFILED, SAMPLE, Path(folder), screen))
        if options.only in "batch":
            figures.append(batch(3 if options.quick else 7, Path(folder), screen))
    show(figures, as_json=options.json)


def online(rounds: int, seconds: float, screen: Console) -> list[Figure]:
    """Requests a second by each protocol."""
    figures: list[Figure] = []
    with running() as service:
        prepare(service)
        for form, (body, headers) in {
            "json": (json_body(), {"content-type": "application/json"}),
            "binary": binary_body(),
        }.items():
            messages = [request(f"/v2/models/{model}/infer", body, headers) for model in (WATCHED, PLAIN)]
            pairs = [
                tuple(measure(service.port, message, connections=32, seconds=seconds) for message in messages)
                for _ in range(rounds + 1)
            ]
            figures += compared(screen, f"watch.online.{form}", pairs[1:])
        address = f"127.0.0.1:{service.grpc_port}"
        pairs = [
            tuple(
                grpc_load.measure(address, GRPC_METHOD, grpc_message(model), calls=32, seconds=seconds)
                for model in (WATCHED, PLAIN)
            )
            for _ in range(rounds + 1)
        ]
        figures += compared(screen, "watch.online.grpc", pairs[1:])
        kept = sum(1 for _ in (service.folder / "payloads").rglob("*.parquet"))
        (seen,) = service.control.drift(WATCHED).models
        if not kept or not any(version.rows for version in seen.versions):
            raise RuntimeError("nothing was kept, or looked at: there is nothing to compare")
    return figures


def prepare(service: Service) -> None:
    """Both serve, and the gateway has heard of it."""
    serving = {"transport": "embedded", "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}
    payloads = {"sample": SAMPLE, "parquet": {"path": str(service.folder / "payloads"), "every_s": 2}}
    for model, more, profiled in ((WATCHED, {"payloads": payloads}, PROFILED), (PLAIN, {}, 0)):
        document = {"name": model, "serving": serving, "rollout": {"steps": [{"weight": 100}]}, **more}
        service.control.apply(Apply(models=(ModelDocument.model_validate(document),)))
        service.rollout_at(model, service.register(model, 128, profiled=profiled), "promoted")


def batch(rounds: int, folder: Path, screen: Console) -> Figure:
    """Rows a second of whole runs. There is no controller to tell: a worker asks for it once a unit, and keeps its counts."""
    os.environ.update(ENVIRONMENT)
    import ray
    from ray._raylet import Config

    Config.initialize("")  # Ray was imported before, and read its variables then

    write_dataset(CASE, folder / "in")
    pins = [write_model(CASE, folder / f"model-{profiled}", profiled=profiled) for profiled in (PROFILED, 0)]
    cores = os.cpu_count() or 1
    kept = Payloads(sample=SAMPLE, parquet=PayloadFiles(path=str(folder / "kept"), every_s=2))
    runs = [
        (spec_of(CASE, folder / "in", folder / f"out-{side}", cores), pinned.model_copy(update={"payloads": payloads}))
        for side, (pinned, payloads) in enumerate(zip(pins, (kept, None), strict=True))
    ]
    context = ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(folder / "r"),
        object_store_memory=512 * 1024 * 1024,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        address = str(context.address_info["gcs_address"])
        rates = [[CASE.rows / drive(address, *run)["seconds"] for run in runs] for _ in range(rounds + 1)][1:]
    finally:
        ray.shutdown()
    if not any((folder / "kept").rglob("*.parquet")):
        raise RuntimeError("nothing was kept: there is nothing to compare")
    screen.print(f"watch.batch, of each pair: {', '.join(f'{watched / plain:.2f}' for watched, plain in rates)}")
    watched, plain = (statistics.median(pair[side] for pair in rates) for side in (0, 1))
    return Figure("watch.batch", watched, plain, "rows/s")


if __name__ == "__main__":
    main()
