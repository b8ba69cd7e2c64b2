"""`headrace build FILE`: a Model's build section becomes a version, or says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from cluster.commands.versions import RegisterVersion
from cluster.errors import BadInput, HeadraceError
from deployments.artifacts.roots import local_path
from deployments.builder.page import page
from deployments.builder.pipeline import Built, build
from deployments.builder.report import Report
from deployments.builder.spec import BuildSpec
from deployments.keys.references import path_in
from headrace.cli.screens.output import AS_WRITTEN, AsJson, answers, print_json, remark
from headrace.cli.screens.report import report_table
from headrace.client import ControlClient
from headrace.local.home import Home, read_settings
from headrace.local.run_state import load_run
from headrace.project.documents import ModelFile, load_project
from headrace.signing.key_files import signing_key_named
from headrace.signing.looking import must_be_signed

app = typer.Typer(help="Make a version from a trained model.")


@app.command("build")
def build_command(
    file: Annotated[Path, typer.Argument(help="A project file with a Model that has a build section.")],
    model: Annotated[str | None, typer.Option(help="Which Model, where the file has several.")] = None,
    output: Annotated[str | None, typer.Option(help="Only package, into this folder or URI; register nothing.")] = None,
    register: Annotated[
        bool, typer.Option("--register", help="With --output: register it too, by that place, which all nodes must read.")
    ] = False,
    seal: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Encrypt the version for who holds this key; again for more. Instead of build.seal."),
    ] = None,
    sign: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Sign it: a key of `headrace signing new`, or a file in PEM; instead of build.sign."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import, check, evaluate and package a trained model, and register it as the next version.

    Reads FILE's build section: source, inputs, evaluate, gate. A version that breaks its gate is not registered, and the
    exit code is 1.

    A sealed version (`headrace sealing new` makes a key) has every file encrypted, report and sample rows too: no page is
    written beside it, and `headrace model show --html FILE` reads that one.

    For a cluster of several machines: `headrace build model.yaml --output s3://BUCKET/artifacts --register`.

    Example: `headrace build model.yaml`; `headrace build model.yaml --seal prod`
    """
    screen = Console(**AS_WRITTEN, stderr=True, quiet=as_json)
    found = _with_build(file, model)
    spec = found.build
    if not isinstance(spec, BuildSpec):
        raise BadInput("has no build section", where=str(file), remedy="add `build:` with a source")
    if seal:
        spec = spec.model_copy(update={"seal": tuple(_in_this_folder(one) for one in seal)})
    settings = read_settings()
    home = settings.home
    home.make()
    key = sign or spec.sign
    signing = signing_key_named(home, key, Path.cwd() if sign else found.source.file.parent) if key else None
    registers = output is None or register
    if signing is None and registers and must_be_signed(found.document.name, settings):
        raise BadInput(
            "the signing policy takes no version that is not signed, and this one would not be",
            where=f"{file}, {found.document.name}",
            remedy="name a key with --sign, or as `sign` in the build section; `headrace signing ls` shows those that are here",
        )
    log = home.logs / f"build-{found.document.name}.log"
    root = output or str(home.artifacts)
    if registers and (path := local_path(root)) is not None and not _runs_here(home):
        remark(
            f"WARNING: the version will be registered by {path}, which every node that serves it must see; "
            "else build it with --output s3://BUCKET/artifacts --register"
        )
    client = ControlClient.from_environment() if registers else None
    with screen.status("build") as status:

        def progress(step: str) -> None:
            status.update(Text(step))
            screen.print(f"  {step}")

        built = build(
            spec,
            model=found.document.name,
            base=found.source.file.parent,
            root=root,
            log=log,
            progress=progress,
            keys=home.keys,
            signing=signing,
        )
    answer: dict[str, Any] = built.report.model_dump(mode="json")
    report_page = home.logs / f"build-{found.document.name}.html"
    if spec.seal:
        report_page.unlink(missing_ok=True)  # an earlier build's, which was not sealed
    else:
        report_page.write_text(page(built.report), encoding="utf-8")
        answer["page"] = str(report_page)
    if built.artifact:
        answer |= {"artifact_uri": built.artifact.uri, "digest": built.artifact.digest}
        if client:
            with client:
                answer["version"] = _register(client, built, found.document.name)
    if as_json:
        print_json(answer)
    else:
        _print(answers(), built.report, answer)
    if built.broken:
        raise HeadraceError(
            "the version breaks its gate: " + "; ".join(built.broken),
            where=str(file),
            remedy="nothing was registered; change model or gate",
        )


def _runs_here(home: Home) -> bool:
    """Whether what is registered with is this home's own Ray, on this machine; a cluster that was joined has other machines."""
    run = load_run(home)
    return run is not None and run.owns_ray


def _in_this_folder(key: str) -> str:
    """An option's path is relative to where the command runs, and a document's to the document."""
    return f"file:{path_in(key).absolute()}" if key.startswith("file:") else key


def _with_build(file: Path, model: str | None) -> ModelFile:
    project = load_project([file])
    if model:
        return project.model(model)
    models = [one for one in project.models if one.build is not None]
    if len(models) != 1:
        names = ", ".join(one.document.name for one in models) or "none"
        raise BadInput(f"{len(models)} Models have a build section: {names}", where=str(file), remedy="name one with --model")
    return models[0]


def _register(client: ControlClient, built: Built, model: str) -> int:
    artifact = built.artifact
    if artifact is None:
        raise ValueError("nothing was packaged")
    request = RegisterVersion(
        model=model,
        artifact_uri=artifact.uri,
        digest=artifact.digest,
        engine=artifact.manifest.engine,
        signature=artifact.manifest.signature,
        quality=built.report.built_quality,
    )
    return client.register_version(request).version


def _print(screen: Console, report: Report, answer: dict[str, Any]) -> None:
    screen.print(report_table(report))
    if "artifact_uri" in answer:
        made = f"version {answer['version']}" if "version" in answer else "not registered"
        screen.print(f"{report.model}: {made}, {answer['artifact_uri']}", soft_wrap=True)
    if "page" in answer:
        screen.print(f"report: {answer['page']}", soft_wrap=True)
