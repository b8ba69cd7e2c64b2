"""`headrace up`, `down` and `status`."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cluster.errors import BadInput, Unreachable
from deployments.gateway.door.settings import ClientCertificates
from deployments.observe.logs.settings import FORM_VARIABLE, LEVEL_VARIABLE, LogForm, LogLevel
from deployments.observe.traces.settings import RATIO_VARIABLE, URL_VARIABLE, USUAL_RATIO
from deployments.signing.node_policy import POLICY_VARIABLE
from headrace.cli.exits import ExitCode
from headrace.cli.screens.output import AsJson, answers, notes, print_json, watch
from headrace.local.home import Settings, read_settings

app = typer.Typer()

DrainTimeout = Annotated[
    float, typer.Option("--drain-timeout", min=0, help="How long streams and calls may take to finish, in seconds.")
]
PORTS = {"min": 1, "max": 65535}
GATEWAYS_MOST = 64


@app.command()
def up(
    context: typer.Context,
    broker: Annotated[bool, typer.Option("--broker", help="Start a local Kafka too (needs headrace[broker]).")] = False,
    host: Annotated[str, typer.Option(help="Where the gateway listens; 0.0.0.0 opens it to the network.")] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name, beside this machine's, by which commands may reach the gateway.")
    ] = None,
    http_port: Annotated[int, typer.Option(**PORTS, help="The gateway's HTTP port.")] = 8000,
    grpc_port: Annotated[int, typer.Option(**PORTS, help="The gateway's gRPC port.")] = 9000,
    gateways: Annotated[str, typer.Option(metavar="MIN[:MAX]", help="How many gateways; up to MAX by load.")] = "1",
    gateways_on: Annotated[
        str, typer.Option(metavar="RESOURCE", help="Only on nodes that have this resource of Ray's, one a unit of it.")
    ] = "",
    dashboard_port: Annotated[int, typer.Option(**PORTS, help="The Ray dashboard's port.")] = 8265,
    broker_port: Annotated[int, typer.Option(**PORTS, help="The local Kafka's port.")] = 9092,
    num_cpus: Annotated[int | None, typer.Option(min=1, help="CPUs that Ray hands out to replicas; the machine's own.")] = None,
    access: Annotated[
        Path | None, typer.Option("--access", help="An Access document: who may do what. Applied before the gateway opens.")
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Open to the network in clear, and, without an Access document, for anybody to score and see; or join the "
            "cluster of RAY_ADDRESS though there is no token for it.",
        ),
    ] = False,
    tls_cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="Speak TLS: the door's certificate and its chain, in PEM.")
    ] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="Its key, in PEM; only you may read the file.")] = None,
    client_ca: Annotated[
        str | None, typer.Option(metavar="FILE", help="Know callers by certificates of this authority, in PEM.")
    ] = None,
    client_certs: Annotated[
        ClientCertificates | None, typer.Option(help="Whether each caller must have one; optional, unless told otherwise.")
    ] = None,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Run Prometheus and Alertmanager too, with our rules, where they are installed.")
    ] = False,
    signing: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            envvar=POLICY_VARIABLE,
            help="A signing policy: which versions must be signed, by whom. It stays declared; `none` ends that.",
        ),
    ] = "",
    traces: Annotated[
        str,
        typer.Option(metavar="URL", envvar=URL_VARIABLE, help="Send traces there, OTLP over HTTP (needs headrace[traces])."),
    ] = "",
    trace_ratio: Annotated[
        float,
        typer.Option(min=0, max=1, envvar=RATIO_VARIABLE, help="How much of what brings no trace context is traced."),
    ] = USUAL_RATIO,
    log_form: Annotated[
        LogForm, typer.Option(envvar=FORM_VARIABLE, help="How all processes write their logs: for eyes, or a JSON object a line.")
    ] = LogForm.TEXT,
    log_level: Annotated[
        LogLevel, typer.Option(envvar=LEVEL_VARIABLE, help="What they write, from there on.")
    ] = LogLevel.WARNING,
    supervise: Annotated[
        bool, typer.Option("--supervise", help="Stay, and bring back whatever ends; SIGTERM drains as `down` does.")
    ] = False,
    join: Annotated[
        bool,
        typer.Option(
            "--join", help="Stay beside a Ray that somebody else runs, and bring back what is away; SIGTERM ends this alone."
        ),
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take the store, this once, though another cluster's controller has it and lives.")
    ] = False,
    models: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="With --supervise: register and serve the versions that an image brings."),
    ] = None,
    drain_timeout_s: DrainTimeout = 40.0,
    as_json: AsJson = False,
) -> None:
    """Start a local Ray with its dashboard, the controller, the gateway and, with --broker, Apache Kafka.

    Started again, it says what runs, and brings back what is away, each part alone: what serves is never ended for it. Only
    where Ray itself has died it is started afresh; versions, rollouts and topics stay. With RAY_ADDRESS set, it joins that
    cluster instead of starting one, with the cluster's token in RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN; with
    KAFKA_BOOTSTRAP_SERVERS set, it uses that broker.

    The console, a page that shows all of it live, is at the gateway's /console; the address printed here logs in who opens it
    first, with everything that you may do.

    On loopback, to score and to see needs no key. What changes anything needs the home's own, in its file `key`, which this
    command line reads by itself. With --host, an Access document must say who may do what (--access, or one applied before), and
    TLS must be on, unless --insecure is given; what the document does not grant nobody may. `headrace key create` makes keys for
    callers.

    Who has Ray's token runs code as you: a Ray that is started here takes none but who can read the home's file `ray-token`. Its
    dashboard asks for it in the browser.

    With --tls-cert and --tls-key, HTTP and gRPC are spoken over TLS 1.2 or later. Renewed files are taken up within seconds, and
    no connection ends for it. The paths are those of each node that has a door.

    With --prometheus it also runs Prometheus and Alertmanager, on free ports of loopback, with their data in the home's folder
    `prometheus` and our rules; whom to tell of alerts is yours to write into its alertmanager.yml. `headrace status` shows their
    addresses; whoever is on this machine may read there what is measured.

    With --signing, every process here registers and opens only versions that are signed as the file says (docs/signing.md). The
    policy is kept in the home and holds for each later `up`, as do the places of HEADRACE_AUDIT_CHECKPOINTS, until another one,
    or `none`, is given.

    After a crash, options that are left out are those that the run was started with; `headrace down` ends that. An Access
    document that was given before, and is the same, is not applied again: what was applied since stays.

    With --traces, a request or record whose trace context says that it is sampled is one trace up to its answer, and so is the
    ratio of those that bring none (docs/traces.md).

    With --supervise it stays in the foreground and does so each second, one line an event, until SIGTERM or Ctrl-C: that drains
    and ends all, and a second one ends it at once.

    With --join it does so beside the Ray of RAY_ADDRESS, or of this machine: it waits until that is there, has everything run on
    it, and again where another Ray has taken its place, as after the death of a head. SIGTERM ends this command alone, and what
    serves goes on. HEADRACE_URL names where all gateways are reached, such as a load balancer. For containers, beside the head
    (docs/kubernetes.md).

    A store is for one cluster. Where the controller of another one has it and lives, `up` says so and ends, and with --join it
    waits for that one's end; with --take-over it takes it, and the other controller decides nothing more.

    Example: `headrace up --broker --http-port 8001`
    """
    from headrace.client import ControlClient
    from headrace.local.declared.as_it_was import as_it_was
    from headrace.local.network_access import access_in
    from headrace.local.options import NO_POLICY, UpOptions, not_taken_up
    from headrace.local.repairs.join import stay_joined
    from headrace.local.repairs.supervise import supervise as run_supervised
    from headrace.local.run_state import load_run
    from headrace.local.up import bring_up

    begun = time.monotonic()
    least, most = gateway_bounds(gateways)
    options = UpOptions(
        host=host,
        hosts=tuple(allow_host or ()),
        http_port=http_port,
        grpc_port=grpc_port,
        gateways=least,
        most_gateways=most,
        gateways_on=gateways_on,
        dashboard_port=dashboard_port,
        broker=broker,
        broker_port=broker_port,
        prometheus=prometheus,
        signing=signing if signing == NO_POLICY else _absolute(signing or None) or "",
        traces=traces,
        trace_ratio=trace_ratio,
        log_form=log_form,
        log_level=log_level,
        num_cpus=num_cpus,
        insecure=insecure,
        tls_cert=_absolute(tls_cert),
        tls_key=_absolute(tls_key),
        client_ca=_absolute(client_ca),
        client_certs=client_certs,
        access="" if access is None else str(access.absolute()),
        models="" if models is None else str(models.absolute()),
        take_over=take_over,
    )
    if models is not None and not (supervise or join):
        raise BadInput("goes with --supervise", where="--models", remedy="give --supervise too, or use `headrace apply`")
    if join:
        if supervise:
            raise BadInput("they are two ways to stay", where="--join --supervise", remedy="give one of them")
        stay_joined(options, read_settings(), _log)
        return
    if supervise:
        if not run_supervised(options, read_settings(), _log, drain_timeout_s=drain_timeout_s):
            raise typer.Exit(ExitCode.FAILED)
        return
    settings = read_settings()
    # What stays in the foreground is told all of it each time; who types `up` again after a crash wants back what there was.
    options, kept = as_it_was(options, _given(context), load_run(settings.home), owns_ray=settings.ray_address is None)
    brought = bring_up(options, settings, _progress)
    state, fresh = brought.state, brought.started
    if access is not None and not fresh:
        with ControlClient.from_environment() as client:
            for change in client.apply(access_in(access)).changes:
                if change.note:
                    notes().print(f"  access     {change.note}", soft_wrap=True)
    if as_json:
        print_json({"started": fresh, "repaired": brought.repaired, "addresses": state.addresses.model_dump()})
        return
    seconds = time.monotonic() - begun
    repaired = f"was up; brought back {', '.join(brought.repaired)} in {seconds:.1f} s" if brought.repaired else "already up"
    answers().print(
        f"{f'up after {seconds:.1f} s' if fresh else repaired}; `headrace status` shows what runs, `headrace down` ends it"
    )
    for name, address in state.addresses.model_dump().items():
        if address:
            spoken = " (TLS)" if name == "grpc" and (state.addresses.http or "").startswith("https:") else ""
            answers().print(f"  {name:<13}{address}{spoken}")
    answers().print(f"  {'console':<13}{_console()}", soft_wrap=True)
    if kept and fresh:
        answers().print(f"{', '.join(kept)}: as it was started before; `headrace down`, then `up`, starts it otherwise")
    if left := () if fresh else not_taken_up(options, state.options):
        answers().print(f"{', '.join(left)}: it goes on as it was started; `headrace down`, then `up`, changes that")
    if state.owns_ray:
        answers().print(f"Ray's dashboard asks for the token in {read_settings().home.ray_token}; who has it runs code as you")


@app.command()
def down(
    drain_timeout_s: DrainTimeout = 40.0,
    as_json: AsJson = False,
) -> None:
    """Drain streams and gateway, then end everything that `headrace up` started. Safe to repeat, and after any kill.

    Models, versions, rollouts and topics stay on disk for the next `headrace up`. A Ray or broker that was joined is left
    running.

    Example: `headrace down`
    """
    from headrace.local.down import take_down

    ended = take_down(read_settings(), _progress, drain_timeout_s=drain_timeout_s)
    if as_json:
        print_json({"was_running": ended.was_running, "drained": ended.drained})
    else:
        answers().print("down" if ended.was_running else "nothing was running")


@app.command()
def status(
    follow: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew every second, until Ctrl-C.")] = False,
    went: Annotated[bool, typer.Option("--history", help="Show how the last hour and day went instead.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Show each model, version and feed, however many there are; --json always does.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show addresses, nodes, models with their versions, replicas and rollout, and streams.

    Of more than a hundred versions, those that are idle are counted alone, and then models that rest: what is wrong or under way
    is shown.

    With --history: requests, rows, errors, the 99th percentile of time, lag, and what is known of a candidate, over the last hour
    by ten seconds and the day before by five minutes, as the controller remembers it since it began.

    Example: `headrace status --watch`
    """
    from headrace.cli.screens.status import shown
    from headrace.local.status import look

    settings = read_settings()
    if went:
        _print_history(settings, follow=follow, as_json=as_json)
    elif as_json:
        print_json(look(settings))
    elif follow:
        watch(lambda: (shown(look(settings), everything=everything), False), every_s=1.0)
    else:
        answers().print(shown(look(settings), everything=everything))


def _console() -> str:
    """Where the console is, with a code that logs in who opens it."""
    from headrace.client import ControlClient

    with ControlClient.from_environment() as client:
        try:
            link = client.console_link()
        except Unreachable:  # that it is up was seen a moment ago: what is wrong now is for `status`
            return f"{client.base_url}/console/"
    return f"{link} (logs you in, once, within ten minutes)" if "#" in link else link


def _print_history(settings: Settings, *, follow: bool, as_json: bool) -> None:
    from cluster.watch.history import FINE_S
    from headrace.cli.watch.lines import shown_history
    from headrace.client import ControlClient

    with ControlClient.from_environment(settings) as client:
        if as_json:
            print_json(client.history().model_dump(mode="json"))
        elif follow:
            watch(lambda: (shown_history(client.history()), False), every_s=FINE_S)
        else:
            answers().print(shown_history(client.history()))


def _given(context: typer.Context) -> frozenset[str]:
    """The fields of UpOptions that were said, on the command line or by a variable."""
    said = {name for name in context.params if (source := context.get_parameter_source(name)) and source.name != "DEFAULT"}
    return frozenset(said | ({"hosts"} if "allow_host" in said else set()) | ({"most_gateways"} if "gateways" in said else set()))


def _absolute(path: str | None) -> str | None:
    """A door has no folder that it works in."""
    return None if path is None else os.path.abspath(os.path.expanduser(path))


def _log(line: str) -> None:
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    notes().print(f"{at} {line}", soft_wrap=True)


def gateway_bounds(text: str) -> tuple[int, int]:
    """What `--gateways` says. Raises BadInput. Pure."""
    least, colon, most = text.partition(":")
    if not least.isdecimal() or (colon and not most.isdecimal()) or len(text) > 9:
        raise _no_bounds(text)
    bounds = int(least), int(most if colon else least)
    if not 1 <= bounds[0] <= bounds[1] <= GATEWAYS_MOST:
        raise _no_bounds(text)
    return bounds


def _no_bounds(text: str) -> BadInput:
    return BadInput(
        f"{text!r} is no number of gateways",
        where="--gateways",
        remedy=f"write MIN or MIN:MAX, e.g. 2:8; at most {GATEWAYS_MOST}",
    )


def _progress(step: str, detail: str, seconds: float) -> None:
    notes().print(Text.assemble(f"  {step:<11}{detail}  ", (f"{seconds:.1f} s", "dim")), soft_wrap=True)
