"""An object store that speaks S3, behind a relay by which it can be away: moto's server, as a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow.fs as pafs
import pytest

from headrace.local.ports import free_port
from tests.support.tcp_proxy import TcpProxy, proxied
from tests.support.waiting import until

SERVER = Path(__file__).parents[2] / ".venv-object-store" / "bin" / "moto_server"
BUCKET = "versions"
STARTS_S = 60.0


@dataclass(frozen=True)
class ObjectStore:
    """`uri` is its one bucket, as artifacts are written to it."""

    uri: str
    relay: TcpProxy

    def leave(self) -> None:
        """No connection is taken, and those that are open end."""
        self.relay.open = False
        self.relay.cut()

    def come_back(self) -> None:
        """It is there again, with what it kept."""
        self.relay.open = True


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Runs one. Skips the test where moto is not installed."""
    if not SERVER.exists():
        pytest.skip("needs moto in a venv of its own: `make object-store`")
    port, relay_port = free_port(), free_port()
    with (folder / "moto.log").open("wb") as log:
        server = subprocess.Popen([SERVER, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log, env={**os.environ})
    try:
        until(
            lambda: httpx.get(f"http://127.0.0.1:{port}/moto-api/", trust_env=False).is_success,
            STARTS_S,
            trouble=(httpx.TransportError,),
        )
        options = f"endpoint_override=127.0.0.1:{relay_port}&scheme=http&region=us-east-1"
        with proxied(relay_port, port) as relay:
            maker, _ = pafs.FileSystem.from_uri(f"s3://{BUCKET}?{options}&allow_bucket_creation=true")
            maker.create_dir(BUCKET)
            yield ObjectStore(f"s3://{BUCKET}/models?{options}", relay)
    finally:
        server.terminate()
        server.wait(20)
