"""What the online bench compares with: a plain deployment behind Serve's own proxy, and MLServer, each as its users start it.

`python -m bench.online_rivals PORT MODEL.onnx` runs the plain deployment until its standard input ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson

from bench.service import awaited
from headrace.local.ports import free_port

MLSERVER = ("mlserver==1.7.1", "onnxruntime")


@contextmanager
def plain_serve(model: Path) -> Iterator[int]:
    """A deployment of one replica in a Ray of its own, with nothing set that Serve leaves unset; its port."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    command = [sys.executable, "-m", "bench.online_rivals", str(port), str(model)]
    with _running(command, f"http://127.0.0.1:{port}/plain", env=environment):
        yield port


@contextmanager
def mlserver(model: Path, folder: Path) -> Iterator[int]:
    """MLServer with the model in its own process, JSON over REST; its port. Raises OSError or CalledProcessError: not to be had.

    Its pins are not ours, so it has a venv of its own beside this one.
    """
    prefix = Path(sys.prefix)
    venv = prefix.with_name(f"{prefix.name}-mlserver")
    uv, python = str(prefix / "bin" / "uv"), str(venv / "bin" / "python")
    subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(venv)], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *MLSERVER], check=True)
    port = free_port()
    folder.mkdir()
    settings = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "host": "127.0.0.1"}
    settings |= {"parallel_workers": 0, "debug": False}
    described = {"name": "bench", "implementation": "mlserver_model.Onnx", "parameters": {"uri": str(model)}}
    (folder / "settings.json").write_bytes(orjson.dumps(settings))
    (folder / "model-settings.json").write_bytes(orjson.dumps(described))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [str(venv / "bin" / "mlserver"), "start", str(folder)]
    with _running(command, f"http://127.0.0.1:{port}/v2/models/bench/ready", env=environment, ends_by_signal=True):
        yield port


@contextmanager
def _running(command: list[str], ready: str, env: dict[str, str], *, ends_by_signal: bool = False) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    assert process.stdin is not None
    try:
        awaited(lambda: _answers(ready, process))
        yield
    finally:
        process.stdin.close()  # the plain deployment ends by itself then, and its Ray with it
        if ends_by_signal:
            process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool | None:
    """Whether it answers by now; None: not yet. Raises RuntimeError where the process has ended."""
    if process.poll() is not None:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200 or None
    except httpx.TransportError:
        return None  # it does not listen yet


def _serve(port: int, model: str) -> None:
    import numpy as np
    import onnxruntime as ort
    import ray
    from ray import serve
    from starlette.requests import Request

    @serve.deployment
    class Plain:
        def __init__(self) -> None:
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1  # as everyone else here: more than there are cores only spin
            self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        async def __call__(self, request: Request) -> dict[str, Any]:
            if request.method == "GET":  # whether it runs
                return {}
            (tensor,) = (await request.json())["inputs"]
            x = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
            (p,) = self.session.run(["p"], {"x": x})
            return {"outputs": [{"name": "p", "datatype": "FP32", "shape": p.shape, "data": p.ravel().tolist()}]}

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Plain.bind(), name="plain", route_prefix="/plain")
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
