"""`python -m bench.custody [--quick|--large] [--json]`: what it costs that a version is sealed.

Networks of 1 MB to 1 GB are loaded, each time in a process of its own whose imports are done and whose files the machine has in
memory: sealed, plain, and as before, when files were verified and then opened again by their path. The reference of a sealed
load is a plain one and one pass of AES-GCM over as many bytes, measured in the same process after it; that of its memory is a
plain one's, once it is loaded. `--large` is one network of more than 2 GiB, its weights beside the graph: it takes 10 GB of disk
and some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.figures import Figure, show

SIDE = 512  # of a layer: 1 MiB of weights
MB = (1, 16, 256, 1000)
QUICK_MB = (1, 32)
LARGE_MB = (2200,)
OUTSIDE_MB = 2000  # above, an ONNX file can't hold its weights
CALLS = 200


@dataclass(frozen=True, slots=True)
class LoadCost:
    """Of one load: seconds, memory that is its process's own afterwards and at most, seconds of a call, and of AES-GCM alone."""

    load_s: float
    bytes_after: int
    bytes_most: int
    call_s: float
    pass_s: float


def write_models(root: Path, mb: int) -> dict[str, str]:
    """A chain of layers with so many MB of weights: where it lies plain and sealed."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper
    from onnx.external_data_helper import set_external_data

    from cluster.signature import Datatype, Signature, TensorSpec
    from deployments.artifacts.package import write_artifact
    from deployments.artifacts.samples import Samples
    from deployments.engines.onnx_external import weights_beside
    from deployments.keys.references import holder_of

    random, names = np.random.default_rng(mb), [f"w{layer}" for layer in range(mb)]
    file, beside = root / "model.onnx", root / "model.onnx.data"
    weights = []
    with beside.open("wb") as outside:
        for name in names:
            weight = numpy_helper.from_array(random.normal(0, 0.04, (SIDE, SIDE)).astype(np.float32), name)
            if mb > OUTSIDE_MB:
                set_external_data(weight, beside.name, offset=outside.tell(), length=len(weight.raw_data))
                outside.write(weight.raw_data)
                weight.ClearField("raw_data")
            weights.append(weight)
    nodes = [
        helper.make_node("MatMul", [f"h{layer}" if layer else "x", name], ["y" if layer == mb - 1 else f"h{layer + 1}"])
        for layer, name in enumerate(names)
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", SIDE]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", tensors[:1], tensors[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    rows = random.normal(size=(2, SIDE)).astype(np.float32)
    (answer,) = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(["y"], {"x": rows})
    key = holder_of(f"file:{root / 'bench.pub'}")
    found = {}
    for name, holders in (("plain", []), ("sealed", [key])):
        artifact = write_artifact(
            root / name,
            model="chain",
            engine="onnx",
            signature=Signature(
                inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, SIDE)),),
                outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, SIDE)),),
            ),
            files={"model.onnx": file, **weights_beside(file)},
            samples=Samples({"x": rows}, {"y": answer}),
            report={},
            source={},
            sample_tolerance=1e-3,
            seal_for=holders,
        )
        found[name] = artifact.uri
    file.unlink()
    beside.unlink()
    return found


def measure(way: str, folder: Path, mb: int) -> LoadCost:
    """In this process, once: `way` is sealed, plain or path."""
    import psutil
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    import deployments.artifacts.sealing.chunks
    import deployments.artifacts.sealing.dumps
    import deployments.artifacts.sealing.wraps
    import deployments.engines.onnx
    import deployments.keys.ring  # noqa: F401 (imports are not measured)
    from deployments.artifacts.manifest import verify
    from deployments.artifacts.version_files import open_folder
    from deployments.engines.load import _replay, load_engine, open_engine

    for file in folder.iterdir():
        file.read_bytes()
    _open_one_key()

    def by_path() -> object:
        manifest = verify(folder)
        engine = open_engine("onnx", folder / "model.onnx", manifest.signature)
        _replay(engine, open_folder(folder), manifest.sample_tolerance)
        return engine

    load: Callable[[], object] = by_path if way == "path" else lambda: load_engine(open_folder(folder))
    process = psutil.Process()
    began_s = time.perf_counter()
    engine = load()
    load_s = time.perf_counter() - began_s
    after = process.memory_full_info().uss
    most = _peak_bytes()
    row = {"x": np.ones((1, SIDE), np.float32)}
    calls = _calls(engine, row, max(3, CALLS // mb))
    del engine
    cipher, nonce = AESGCM(AESGCM.generate_key(256)), bytes(12)
    part = min(mb, OUTSIDE_MB)  # one call takes no more than 2 GB
    sealed, plain = bytearray(part * 2**20 + 16), bytearray(part * 2**20)
    cipher.encrypt_into(nonce, plain, None, sealed)
    pass_s = mb / part * min(_timed(lambda: cipher.decrypt_into(nonce, sealed, None, plain)) for _ in range(3))
    return LoadCost(load_s, after, most, statistics.median(calls), pass_s)


def _open_one_key() -> None:
    """OpenSSL sets up an algorithm when a process first uses it, as Python imports a module: 2 ms once, not measured."""
    from deployments.keys.hpke_key import HpkeKey, new_hpke_pair

    private, _ = new_hpke_pair()
    key = HpkeKey.of_pem(private, "one")
    key.unwrap(key.wrap(bytes(32), b"one"), b"one")


def _calls(engine: Any, row: dict[str, Any], count: int) -> list[float]:
    return [_timed(lambda: engine.score(row)) for _ in range(count)]


def _timed(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def _peak_bytes() -> int:
    # Not getrusage: that begins with what the parent held.
    told = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
    return int(told.split()[0]) * 1024


def in_a_process(way: str, folder: str, mb: int) -> LoadCost:
    """One load. Raises SystemExit where it fails."""
    command = [sys.executable, "-m", "bench.custody", "--measure", way, folder, str(mb)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return LoadCost(**json.loads(done.stdout))


def figures_of(root: Path, mb: int, times: int) -> list[Figure]:
    """Of one size: the ways in turn, so that what the machine does besides falls on all."""
    folders = write_models(root, mb)
    ways = {"sealed": folders["sealed"], "plain": folders["plain"], "path": folders["plain"]}
    costs: dict[str, list[LoadCost]] = {way: [] for way in ways}
    for _ in range(times):
        for way, folder in ways.items():
            costs[way].append(in_a_process(way, folder, mb))

    def least(way: str, what: str) -> float:
        return min(float(getattr(cost, what)) for cost in costs[way])

    gcm_s = min(least(way, "pass_s") for way in ways)
    sealed_s, plain_s, path_s = (least(way, "load_s") for way in ways)
    after = {way: least(way, "bytes_after") / 1e6 for way in ways}
    most = {way: least(way, "bytes_most") / 1e6 for way in ways}
    calls = {way: 1e3 * least(way, "call_s") for way in ways}
    return [
        Figure(f"{mb} MB: load, sealed / plain + AES-GCM", 1e3 * sealed_s, 1e3 * (plain_s + gcm_s), "ms"),
        Figure(f"{mb} MB: memory after, sealed / plain", after["sealed"], after["plain"], "MB"),
        Figure(f"{mb} MB: memory at most, sealed / plain", most["sealed"], most["plain"], "MB"),
        Figure(f"{mb} MB: a call, sealed / plain", calls["sealed"], calls["plain"], "ms"),
        Figure(f"{mb} MB: load, plain / by its path", 1e3 * plain_s, 1e3 * path_s, "ms"),
        Figure(f"{mb} MB: memory after, plain / by its path", after["plain"], after["path"], "MB"),
        Figure(f"{mb} MB: memory at most, plain / by its path", most["plain"], most["path"], "MB"),
    ]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.custody")
    parser.add_argument("--quick", action="store_true", help="small networks, fewer times")
    parser.add_argument("--large", action="store_true", help="one network above 2 GiB instead, fewer times")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        way, folder, mb = asked.measure
        print(json.dumps(asdict(measure(way, Path(folder), int(mb)))))
        return
    from deployments.keys.hpke_key import new_hpke_pair
    from deployments.keys.ring import VARIABLE
    from deployments.keys.secret_file import write_once

    found: list[Figure] = []
    for mb in LARGE_MB if asked.large else QUICK_MB if asked.quick else MB:
        with tempfile.TemporaryDirectory(prefix="headrace-custody-") as folder:
            root = Path(folder)
            private, public = new_hpke_pair()
            write_once(root / "bench.key", private)
            (root / "bench.pub").write_text(public)
            os.environ[VARIABLE] = f"file:{root / 'bench.key'}"
            found += figures_of(root, mb, 2 if asked.large else 3 if asked.quick else 5)
    show(found, as_json=asked.json)


if __name__ == "__main__":
    main()
