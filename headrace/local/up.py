"""`headrace up`: a local Ray, Serve, the controller, the gateway and, where asked for, a broker: what of it is away."""

from __future__ import annotations

import importlib
import os
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.commands.documents import Apply
from cluster.errors import HeadraceError, Unreachable
from headrace.local.broker import running_broker, start_broker
from headrace.local.declared.policies import as_declared, declare
from headrace.local.down import RAY_STOP_S, Progress, end_run
from headrace.local.home import Home, Settings, without_password
from headrace.local.home_key import ensure_home_key
from headrace.local.lock import only_one
from headrace.local.network_access import access_in
from headrace.local.options import LOOPBACK, UpOptions
from headrace.local.preconditions import check_start
from headrace.local.processes import end, of_run
from headrace.local.prometheus.servers import start_prometheus
from headrace.local.ray.connection import joined_ray, load_ray
from headrace.local.ray.head import await_ray, prepare_temp_dir, ray_environment, spawn_ray
from headrace.local.ray.processes import head_processes
from headrace.local.ray.token import set_variables
from headrace.local.ray.words import kept_apart
from headrace.local.repairs.look import look
from headrace.local.repairs.parts import RunPart, plan
from headrace.local.repairs.repair import await_gateway, repair
from headrace.local.run_state import BROKER, RAY, Addresses, Phase, RunState, StartedProcess, load_run, save_run, started

# Ray gives its raylet 30 s to start, which a busy machine may exceed.
RAY_TRIES, TOO_SLOW = 3, "timed out during startup"
UP_ASKS_S = 10.0  # a gateway with much to do may be slow to answer: that is not yet away


@dataclass(frozen=True, slots=True)
class Brought:
    """What runs after `up`. `started`: this call started it, with Ray; else `repaired` are the parts that it brought back."""

    state: RunState
    started: bool
    repaired: tuple[RunPart, ...] = ()


def bring_up(options: UpOptions, settings: Settings, progress: Progress) -> Brought:
    """Starts what does not run.

    Of a run whose Ray lives, only what is away is brought back, with the options that it was started with; what lives is left
    alone, whatever comes of it; an Access document is applied before the door of a new run opens, unless that very one was
    before: what somebody applied since stays. A dead Ray is started afresh: all that matters lies in the store and in the
    broker's data. Policies that were declared before hold where nothing else is said. Raises Conflict for a port in use,
    Unreachable for what does not come up; what this call alone has started is ended then.
    """
    home = settings.home
    access = access_in(Path(options.access)) if options.access else None
    with only_one(home):
        options, settings, kept_lines = as_declared(options, settings)
        for line in kept_lines:
            progress("declared", line, 0.0)
        state = load_run(home)
        if state is not None and state.phase is Phase.RUNNING:
            away = look(state, settings, ask_s=UP_ASKS_S)
            wanted = plan(away)
            if RunPart.RAY not in wanted:
                now, repaired = repair(state, away, settings, progress, take_over=options.take_over)
                return Brought(now, False, repaired)
            for one in away:
                progress(one.part, one.why, 0.0)
        kept = state is not None and keeps_broker(state, options, home)
        if state is not None:
            end_run(home, state, progress, keep_broker=kept)
        with _left_again(home, state):
            check_start(options, settings, access, progress, broker_runs=kept)
            ensure_home_key(home)  # what is wrong with its file is told before anything runs
            declare(options, settings)
            run = _Run(options, settings, progress, access)
            try:
                return Brought(run.start(), started=True)
            except BaseException:  # Ctrl-C too: nothing half-made stays
                end_run(home, run.state, progress, keep_broker=kept)
                raise


@contextmanager
def _left_again(home: Home, state: RunState | None) -> Iterator[None]:
    """Where the block fails, the run that had crashed is noted again: the next `up` starts it with its options."""
    try:
        yield
    except BaseException:
        if state is not None:
            save_run(home, state)
        raise


def keeps_broker(state: RunState, options: UpOptions, home: Home) -> bool:
    """Whether the broker of a run whose Ray is dead goes on: it lives, and is what is asked for now."""
    broker = running_broker(home.broker)
    return options.broker and state.process(BROKER) is not None and broker is not None and broker.port == options.broker_port


class _Run:
    """One start. run.json is written before each process is started and after, so that a kill leaves a trace of it."""

    def __init__(self, options: UpOptions, settings: Settings, progress: Progress, access: Apply | None) -> None:
        self._access = access
        self._options = options
        self._settings = settings
        self._home = settings.home
        self._progress = progress
        self.state = RunState(
            run_id=secrets.token_hex(8),
            phase=Phase.STARTING,
            started_s=time.time(),
            owns_ray=settings.ray_address is None,
            options=options,
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
            if self._options.prometheus:
                self._start_prometheus()
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
        return f"{self._scheme}://{self._host}:{self._options.http_port}"

    @property
    def _scheme(self) -> str:
        return "http" if self._options.tls is None else "https"

    @property
    def _grpc(self) -> str:
        return f"{self._host}:{self._options.grpc_port}"

    def _start_broker(self) -> tuple[StartedProcess, float]:
        begun = time.monotonic()
        broker = start_broker(self._home.broker, port=self._options.broker_port)
        return StartedProcess(role=BROKER, pid=broker.pid, created_s=broker.created_s), time.monotonic() - begun

    def _start_ray(self) -> None:
        with self._step("Ray") as told:
            for tries_left in reversed(range(RAY_TRIES)):
                try:
                    address = self._start_head()
                    break
                except Unreachable as error:
                    if not tries_left or TOO_SLOW not in error.what:
                        raise
                    end(of_run(self.state, self._home.root), timeout_s=RAY_STOP_S)
            dashboard = f"http://{LOOPBACK}:{self._options.dashboard_port}"
            self._note(addresses=self.state.addresses.model_copy(update={"ray": address, "dashboard": dashboard}))
            told.append(f"{address}, dashboard {dashboard}")

    def _start_head(self) -> str:
        folder = prepare_temp_dir(self._home)
        environment = {"HEADRACE_HOME": str(self._home.root), **self._options.variables}
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
        self._note(processes=self.state.with_process(started(RAY, process.pid)).processes)
        with kept_apart(self._home.driver_log):  # what is needed next is loaded while Ray starts
            set_variables(ray_environment(os.environ, self._home))
            load_ray()
            importlib.import_module("headrace.controller_start")
            importlib.import_module("headrace.local.services")
        address = await_ray(self._home, folder, process)
        self._note(processes=(*self.state.processes, *head_processes(of_run(self.state, self._home.root))))
        if not self.state.ray_lives():
            raise Unreachable("Ray ended at once", where=str(folder), remedy=f"read {self._home.logs / 'ray.log'}")
        return address

    def _start_services(self, broker: Future[tuple[StartedProcess, float]] | None) -> None:
        with kept_apart(self._home.driver_log), joined_ray(self._settings) as joined:
            # Both import Ray, whose variables are set by now.
            from headrace.controller_start import asked_for_controller, start_controller
            from headrace.local import services

            if not self.state.owns_ray:
                found = {"ray": joined.address, "dashboard": joined.dashboard}
                self._note(addresses=self.state.addresses.model_copy(update=found))
            with self._step("Serve"), asked_for_controller(self._settings):  # both processes start at a time
                services.start_serve()
            # It answers for all models, and so comes before any: see `deployments.serving.fleet.gateway_opens`.
            services.ask_for_gateway(services.gateway_settings(self._options))
            with self._step("controller") as told:
                take_over, begun = self._options.take_over, time.monotonic()

                def waits(error: HeadraceError) -> None:
                    self._progress("controller", f"waits: {error}", time.monotonic() - begun)

                notes = start_controller(self._settings, access=self._access, take_over=take_over, waits=waits)
                told.append(without_password(self._settings.store_url))
            for note in notes:
                self._progress("access", note, 0.0)
            if broker is not None:
                process, seconds = broker.result()
                self._note(processes=(*self.state.processes, process))
                self._progress("broker", str(self._brokers), seconds)
            with self._step("gateway") as told:
                services.await_gateway_app()
                self._find_door(services.door_address(self._options.host))
                await_gateway(str(self.state.addresses.http), self._settings)
                told.append(f"{self.state.addresses.http}, gRPC {self.state.addresses.grpc}")

    def _start_prometheus(self) -> None:
        with self._step("Prometheus") as told:
            found, alerts = start_prometheus(self._home, self.state, self._note_process)
            self._note(addresses=self.state.addresses.model_copy(update={"prometheus": found, "alertmanager": alerts}))
            told.append(f"{found}, alerts {alerts}")

    def _note_process(self, process: StartedProcess) -> None:
        self._note(processes=self.state.with_process(process).processes)

    def _find_door(self, host: str) -> None:
        # Of a cluster, where gateways come and go: what is told stays, such as a load balancer or a Service.
        if self._settings.url is not None and not self.state.owns_ray:
            told = urlsplit(self._settings.url)
            found = {"http": self._settings.url.rstrip("/"), "grpc": f"{told.hostname}:{self._options.grpc_port}"}
        else:
            found = {"http": f"{self._scheme}://{host}:{self._options.http_port}", "grpc": f"{host}:{self._options.grpc_port}"}
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
