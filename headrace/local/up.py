"""`headrace up`: a local Ray, Serve, the controller, the gateway and, where asked for, a broker. All of it, or nothing."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.errors import BadInput, HeadraceError, Unreachable
from deployments.gateway.door.haproxy import usable_haproxy
from headrace.client import ControlClient
from headrace.local.broker import start_broker
from headrace.local.down import Progress, end_run
from headrace.local.home import Settings, without_password
from headrace.local.lock import only_one
from headrace.local.ports import answers, check_free, split_address
from headrace.local.ray_connection import joined_ray
from headrace.local.ray_head import LOOPBACK, await_ray, prepare_temp_dir, spawn_ray
from headrace.local.run_state import BROKER, RAY, Addresses, Phase, RunState, StartedProcess, load_run, save_run, started

if TYPE_CHECKING:
    from deployments.gateway.deployment import GatewaySettings

LOOPBACKS = (LOOPBACK, "localhost")
GATEWAY_TIMEOUT_S = 120.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the user chose. `hosts` are names by which the gateway takes commands, beside the machine's own. `gateways` are
    started, and by load up to `most_gateways`. `num_cpus` is how many CPUs Ray may hand out; None: as many as the machine has."""

    host: str = LOOPBACK
    hosts: tuple[str, ...] = ()
    http_port: int = 8000
    grpc_port: int = 9000
    gateways: int = 1
    most_gateways: int = 1
    dashboard_port: int = 8265
    broker: bool = False
    broker_port: int = 9092
    num_cpus: int | None = None


def bring_up(options: UpOptions, settings: Settings, progress: Progress) -> tuple[RunState, bool]:
    """Starts what does not run. Returns what runs now, and whether it was started by this call.

    A run that is not whole (a part was killed) is ended first and started afresh: all that matters lies in the store and
    in the broker's data. Raises Conflict for a port in use, Unreachable for what does not come up; then nothing is left.
    """
    home = settings.home
    with only_one(home):
        state = load_run(home)
        if state is not None:
            if is_whole(state):
                return state, False
            end_run(home, state, progress)
        _check_door(options)
        _check_ports(options, settings)
        run = _Run(options, settings, progress)
        try:
            return run.start(), True
        except BaseException:  # Ctrl-C too: nothing half-made stays
            end_run(home, run.state, progress)
            raise


def is_whole(state: RunState) -> bool:
    """Whether everything of the run lives and the controller answers through the gateway."""
    if state.phase is not Phase.RUNNING or state.addresses.http is None:
        return False
    if any(process.find() is None for process in state.processes):
        return False
    if state.addresses.broker and not answers(*split_address(state.addresses.broker.split(",")[0])):
        return False
    try:
        with ControlClient(state.addresses.http, timeout_s=10.0) as client:
            client.status()
    except HeadraceError:
        return False
    return True


def _check_door(options: UpOptions) -> None:
    if usable_haproxy() is None and (options.most_gateways > 1 or options.host not in LOOPBACKS):
        raise BadInput(
            "without HAProxy there is one gateway, on loopback",
            where=f"--host {options.host} --gateways {options.most_gateways}",
            remedy="leave these options out, or run where HAProxy can: on Linux, and not with HEADRACE_HAPROXY=0",
        )


def _check_ports(options: UpOptions, settings: Settings) -> None:
    if not options.host or ":" in options.host:
        raise BadInput("the door needs an IPv4 address", where=f"--host {options.host}", remedy="use 127.0.0.1 or 0.0.0.0")
    if settings.ray_address is None:
        check_free(options.host, options.http_port, option="--http-port")
        check_free(options.host, options.grpc_port, option="--grpc-port")
        check_free(LOOPBACK, options.dashboard_port, option="--dashboard-port")
    if options.broker and settings.bootstrap_servers is None:
        check_free(LOOPBACK, options.broker_port, option="--broker-port")


class _Run:
    """One start. run.json is written before each process is started and after, so that a kill leaves a trace of it."""

    def __init__(self, options: UpOptions, settings: Settings, progress: Progress) -> None:
        self._options = options
        self._settings = settings
        self._home = settings.home
        self._progress = progress
        self.state = RunState(
            run_id=secrets.token_hex(8), phase=Phase.STARTING, started_s=time.time(), owns_ray=settings.ray_address is None
        )
        self._note()

    def start(self) -> RunState:
        with ThreadPoolExecutor(max_workers=1) as aside:
            # The broker takes as long as Ray does, and neither needs the other.
            broker = aside.submit(self._start_broker) if self._wants_broker else None
            self._note(addresses=Addresses(http=self._url, grpc=self._grpc, broker=self._brokers))
            if self.state.owns_ray:
                self._start_ray()
            self._start_services(broker)
        self._note(phase=Phase.RUNNING)
        return self.state

    @property
    def _wants_broker(self) -> bool:
        return self._options.broker and self._settings.bootstrap_servers is None

    @property
    def _brokers(self) -> str | None:
        return self._settings.bootstrap_servers or (f"{LOOPBACK}:{self._options.broker_port}" if self._options.broker else None)

    @property
    def _host(self) -> str:
        return LOOPBACK if self._options.host == "0.0.0.0" else self._options.host  # noqa: S104 (compared, not bound)

    @property
    def _url(self) -> str:
        return f"http://{self._host}:{self._options.http_port}"

    @property
    def _grpc(self) -> str:
        return f"{self._host}:{self._options.grpc_port}"

    def _start_broker(self) -> tuple[StartedProcess, float]:
        begun = time.monotonic()
        broker = start_broker(self._home.broker, port=self._options.broker_port)
        return StartedProcess(role=BROKER, pid=broker.pid, created_s=broker.created_s), time.monotonic() - begun

    def _start_ray(self) -> None:
        with self._step("Ray") as told:
            folder = prepare_temp_dir(self._home)
            environment = {"HEADRACE_HOME": str(self._home.root)}
            if self._brokers:
                environment["KAFKA_BOOTSTRAP_SERVERS"] = self._brokers
            process = spawn_ray(
                self._home,
                folder,
                run_id=self.state.run_id,
                dashboard_port=self._options.dashboard_port,
                num_cpus=self._options.num_cpus,
                environment=environment,
            )
            self._note(processes=(*self.state.processes, started(RAY, process.pid)))
            address = await_ray(self._home, folder, process)
            dashboard = f"http://{LOOPBACK}:{self._options.dashboard_port}"
            self._note(addresses=self.state.addresses.model_copy(update={"ray": address, "dashboard": dashboard}))
            told.append(f"{address}, dashboard {dashboard}")

    def _start_services(self, broker: Future[tuple[StartedProcess, float]] | None) -> None:
        with joined_ray(self._settings) as joined:
            from headrace.controller_actor import start_controller  # both import Ray, whose variables are set by now
            from headrace.local import services

            if not self.state.owns_ray:
                found = {"ray": joined.address, "dashboard": joined.dashboard}
                self._note(addresses=self.state.addresses.model_copy(update=found))
            with self._step("Serve"):
                services.start_serve()
            with self._step("controller") as told:
                start_controller(self._settings)
                told.append(without_password(self._settings.store_url))
            if broker is not None:
                process, seconds = broker.result()
                self._note(processes=(*self.state.processes, process))
                self._progress("broker", str(self._brokers), seconds)
            with self._step("gateway") as told:
                services.ensure_gateway(self._gateway(services.node_for(self._options.host, self._options.most_gateways)))
                self._find_door(services.door_address(self._options.host))
                await_gateway(str(self.state.addresses.http))
                told.append(f"{self.state.addresses.http}, gRPC {self.state.addresses.grpc}")

    def _gateway(self, node: str | None) -> GatewaySettings:
        from deployments.gateway.deployment import GatewaySettings  # imports Ray, see above

        options = self._options
        return GatewaySettings(
            replicas=options.gateways,
            most=options.most_gateways,
            node=node,
            host=options.host,
            http_port=options.http_port,
            grpc_port=options.grpc_port,
            hosts=(options.host, *options.hosts),
        )

    def _find_door(self, host: str) -> None:
        found = {"http": f"http://{host}:{self._options.http_port}", "grpc": f"{host}:{self._options.grpc_port}"}
        self._note(addresses=self.state.addresses.model_copy(update=found))

    @contextmanager
    def _step(self, name: str) -> Iterator[list[str]]:
        begun = time.monotonic()
        told: list[str] = []
        yield told
        self._progress(name, " ".join(told), time.monotonic() - begun)

    def _note(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)
        save_run(self._home, self.state)


def await_gateway(url: str) -> None:
    """Returns once the controller answers through the gateway. Raises Unreachable with the last reason."""
    deadline = time.monotonic() + GATEWAY_TIMEOUT_S
    with ControlClient(url, timeout_s=5.0) as client:
        while True:
            try:
                client.status()
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)  # the gateway may wait for the controller
            else:
                return
