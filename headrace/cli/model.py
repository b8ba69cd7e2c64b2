"""`headrace model show|profile|diff|rm|push|pull|sign|verify`: a version, what is known of it, where it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from cluster.commands.versions import VersionView
from cluster.commands.watch.by_hand import HandAct
from cluster.errors import BadInput, NotFound
from deployments.artifacts.fetch import localize, remove
from deployments.artifacts.manifest import PAGE
from deployments.artifacts.profile import read_profile
from deployments.artifacts.roots import is_in_registry
from deployments.artifacts.version_files import open_folder
from deployments.builder.report import read_report
from deployments.builder.sources.mlflow_models.resolve import push
from deployments.oci.references import place_of, reference_of
from headrace.by_hand import recorded
from headrace.cli.custody.versions import sign_command, verify_command
from headrace.cli.images.versions import pull_command, push_to_registry
from headrace.cli.models import day, version_of
from headrace.cli.screens.output import AsJson, answers, notes, print_json, remark
from headrace.cli.screens.profile import profile_json, shown_profile
from headrace.cli.screens.report import report_table
from headrace.client import ControlClient
from headrace.local.home import read_settings

app = typer.Typer(no_args_is_help=True)
app.command("pull")(pull_command)
app.command("sign")(sign_command)
app.command("verify")(verify_command)


@app.command("show")
def show(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[int | None, typer.Argument(help="The version; the newest where left out.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write the page of its report to this file, of a sealed one in clear.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a version: its signature, source, steps and report. Checks its files on the way.

    Example: `headrace model show digits 2`; `headrace model show digits 2 --html report.html`
    """
    with ControlClient.from_environment() as client:
        one = version_of(client.model(model), version)
    files = open_folder(localize(one.artifact_uri, one.digest), one.digest)
    report, sealed = read_report(files), files.manifest.seal is not None
    if html is not None:
        if not files.has(PAGE):
            raise NotFound("has no page", where=f"{model} version {one.version}", remedy="`headrace build` makes one")
        if sealed:
            with recorded(HandAct.SHOW_SEALED, remark, model=one.model, versions=(one.version,), digest=one.digest):
                html.write_bytes(files.read(PAGE))
        else:
            html.write_bytes(files.read(PAGE))
    if as_json:
        print_json(
            {**one.model_dump(mode="json"), "sealed": sealed, "report": report.model_dump(mode="json") if report else None}
        )
        return
    screen = answers()
    screen.print(f"{one.model} version {one.version} ({one.role}), engine {one.engine}, made {day(one.created_s)}")
    for side, specs in (("input", one.signature.inputs), ("output", one.signature.outputs)):
        for spec in specs:
            screen.print(f"  {side} {spec.name}: {spec.datatype} {list(spec.shape)}")
    screen.print(f"  {one.artifact_uri}", soft_wrap=True)
    if sealed:
        screen.print(f"  sealed: see `headrace sealing ls {one.model}`")
    screen.print("  steps: " + ", ".join(str(step["step"]) for step in files.provenance.steps))
    if report:
        screen.print(report_table(report))


@app.command("profile")
def profile(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[int | None, typer.Argument(help="The version; the newest where left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a version's inputs and outputs looked like on the rows that its build evaluated it on.

    A line a feature, the 12 that vary most of a wide input; all of them with --json.

    Example: `headrace model profile digits 2`
    """
    with ControlClient.from_environment() as client:
        one = version_of(client.model(model), version)
    found = read_profile(open_folder(localize(one.artifact_uri, one.digest), one.digest))
    if found is None:
        raise NotFound(
            "has no profile",
            where=f"{model} version {one.version}",
            remedy="build a version from a document with evaluate.data, and without `profile: false`",
        )
    if as_json:
        print_json({"model": one.model, "version": one.version, **profile_json(found)})
    else:
        answers().print(shown_profile(one.model, one.version, found))


@app.command("diff")
def diff(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    before: Annotated[int, typer.Argument(help="One version.")],
    after: Annotated[int, typer.Argument(help="The other.")],
    as_json: AsJson = False,
) -> None:
    """Show what differs between two versions: source, signature, size, quality, speed.

    Example: `headrace model diff digits 1 2`
    """
    with ControlClient.from_environment() as client:
        view = client.model(model)
    facts = [_facts(version_of(view, number)) for number in (before, after)]
    different = {
        key: (facts[0].get(key), facts[1].get(key)) for key in facts[0] | facts[1] if facts[0].get(key) != facts[1].get(key)
    }
    if as_json:
        print_json(
            {"model": model, "before": before, "after": after, "different": {key: list(two) for key, two in different.items()}}
        )
        return
    table = Table("", f"version {before}", f"version {after}")
    for key, (left, right) in different.items():
        table.add_row(key, _shown(left), _shown(right))
    answers().print(table)


@app.command("rm")
def rm(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[int, typer.Argument(help="The version to remove.")],
    as_json: AsJson = False,
) -> None:
    """Remove a version and its files. Refused while it serves, is a candidate or is kept warm.

    Files in a registry stay, and so do those that another version has too. A batch run that has pinned it, or will, can't go on
    without it.

    Example: `headrace model rm digits 1`
    """
    with ControlClient.from_environment() as client:
        one = version_of(client.model(model), version)
        also = [other for view in client.status().models for other in view.versions if _is_another_of(other, one)]
        # The controller decides whether it may go; only then its files go too.
        client.remove_version(model, version)
    if not also:
        remove(one.artifact_uri)
    stays = bool(also) or is_in_registry(one.artifact_uri)
    if as_json:
        print_json({"model": model, "version": version, "removed": None if stays else one.artifact_uri})
    else:
        what = "stays in its registry" if stays else "too"
        if also:
            what = f"stays: {also[0].model} version {also[0].version} has the same files"
        notes().print(f"{model} version {version} is removed, {one.artifact_uri} {what}", soft_wrap=True)


@app.command("push")
def push_command(
    model: Annotated[str, typer.Argument(metavar="MODEL[:N]", help="The model, and its version; the newest without N.")],
    place: Annotated[
        str, typer.Argument(metavar="[HOST/NAME[:TAG]]", help="Where in a registry; with --to, the version may stand here.")
    ] = "",
    to: Annotated[str, typer.Option(help="MLflow's registered model instead, as models:/NAME; made where there is none.")] = "",
    base: Annotated[
        str | None,
        typer.Option(metavar="oci:DIR[:TAG]", help="In a registry: an image to put the files on."),
    ] = None,
    tracking_uri: Annotated[str, typer.Option(help="MLflow's server or store; MLFLOW_TRACKING_URI where left out.")] = "",
    as_json: AsJson = False,
) -> None:
    """Send a version to a registry as an OCI artifact, or hand it to MLflow.

    In a registry it is one index: a ModelPack manifest and images with the files below /models (KServe's ModelCar, Kubernetes'
    image volumes), over the same layers. KServe's sidecar wants a shell in them: --base brings one. What the registry has
    already is not sent again. Its tag is the version's number where left out; `headrace model pull` brings it to another
    controller. Logins are those of `skopeo login`, `podman login` or `docker login`; loopback is spoken to in clear, every other
    host over TLS.

    Example: `headrace model push digits:3 registry.example.com/team/digits`, or for MLflow
    `headrace model push churn:3 --to models:/churn --tracking-uri sqlite:////data/mlflow.db`
    """
    name, number = _asked(model, place)
    if not to:
        if not place or place.isdecimal():
            raise BadInput(
                "say where it goes",
                where="headrace model push",
                remedy="name HOST/NAME[:TAG], or say --to models:/NAME for MLflow",
            )
        reference_of(place, where="to", default_tag="latest")
        stands_on = None if base is None else place_of(base, option="--base", default_tag="latest")
        with ControlClient.from_environment() as client:
            one = version_of(client.model(name), number)
        push_to_registry(one, place, stands_on, as_json=as_json)
        return
    registered = to.removeprefix("models:/")
    if not registered or registered == to or set(registered) & set("/@:"):
        raise BadInput("is no registered model", where=to, remedy="say --to models:/NAME")
    with ControlClient.from_environment() as client:
        one = version_of(client.model(name), number)
    folder = localize(one.artifact_uri, one.digest)
    home = read_settings().home
    home.make()
    called = f"{name} {one.version}"
    with recorded(HandAct.PUSH, remark, model=name, versions=(one.version,), digest=one.digest, to=to):
        told = push(folder, called, registered, tracking_uri=tracking_uri, base=Path.cwd(), log=home.logs / "push.log")
    if as_json:
        print_json(told)
    else:
        answers().print(f"{called} is models:/{told['name']}/{told['version']}, run {told['run_id']}", soft_wrap=True)


def _asked(model: str, place: str) -> tuple[str, int | None]:
    """The model, and its version: after its name, or as the next word. Raises BadInput. Pure."""
    name, colon, number = model.partition(":")
    if colon and not number.isdecimal():
        raise BadInput("is no version", where=model, remedy="write MODEL or MODEL:N, e.g. digits:2")
    if place.isdecimal():
        if colon and number != place:
            raise BadInput("names two versions", where=f"{model} {place}", remedy=f"write {name}:{place}")
        number = place
    return name, int(number) if number else None


def _is_another_of(other: VersionView, one: VersionView) -> bool:
    """Whether it has the same files, under another name or number."""
    return other.digest == one.digest and (other.model, other.version) != (one.model, one.version)


def _facts(version: VersionView) -> dict[str, Any]:
    """What can differ between two versions, flat."""
    files = open_folder(localize(version.artifact_uri, version.digest), version.digest)
    made, report = files.provenance, read_report(files)
    facts: dict[str, Any] = {f"source {key}": value for key, value in made.source.items()}
    facts |= {
        "engine": version.engine,
        "inputs": [spec.model_dump(mode="json") for spec in version.signature.inputs],
        "outputs": [spec.model_dump(mode="json") for spec in version.signature.outputs],
        "steps": [step["step"] for step in made.steps],
        "sealed": files.manifest.seal is not None,
    }
    if report and report.chosen:
        kept = report.variant(report.chosen)
        facts |= {"variant": kept.name, "size_bytes": kept.size_bytes, "memory_bytes": kept.peak_bytes}
        facts |= kept.quality.model_dump() if kept.quality else {}
        facts |= {f"rows/s at {batch}": round(speed.rows_per_s) for batch, speed in kept.speed.items()}
    return facts


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else orjson.dumps(value).decode()
