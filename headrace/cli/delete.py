"""`headrace delete KIND NAME`: removes a model, a stream or a batch, and waits until it is gone."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import typer
from rich.text import Text

from cluster.commands.feeds import FeedName
from cluster.errors import BadInput, NoCapacity, NotFound
from headrace.cli.screens.output import AsJson, notes, print_json
from headrace.client import ControlClient
from headrace.project.explain import did_you_mean

app = typer.Typer()

POLL_S = 0.3
Kind = Literal["model", "stream", "batch"]
KINDS: tuple[Kind, ...] = ("model", "stream", "batch")


@app.command()
def delete(
    kind: Annotated[str, typer.Argument(help="model, stream or batch; or both words as model/NAME.")],
    name: Annotated[str | None, typer.Argument(help="Its name.")] = None,
    artifacts: Annotated[bool, typer.Option("--artifacts", help="Delete the files of a model's versions too.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is gone.")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="How long to wait, in seconds.")] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Remove a model, a stream or a batch.

    A stream commits what it has taken and stops; its topics and its consumer group stay, so that it goes on from there when it is
    applied again. A batch's scheduled job is stopped (a run begun by hand goes on); what it wrote stays. A model's rollout ends,
    its replicas drain, and its versions are forgotten; their files stay, unless --artifacts is given. It is refused while a
    stream or batch scores with it. What was done to a model stays in the audit, and its next versions get new numbers.

    Example: `headrace delete stream digits`, then `headrace delete model digits`
    """
    kind_, name_ = _target(kind, name)
    if artifacts and kind_ != "model":
        raise BadInput(f"a {kind_} has no artifacts", where="--artifacts", remedy="leave it out")
    with ControlClient.from_environment() as client:
        if kind_ == "model":
            client.delete_model(name_, artifacts=artifacts)
        else:
            client.delete_feed(FeedName(kind=kind_, name=name_))
        if wait:
            _wait(client, kind_, name_, timeout_s)
    if as_json:
        print_json({"kind": kind_, "name": name_, "gone": wait})
    else:
        notes().print(f"{kind_} {name_} is removed" if wait else f"{kind_} {name_} is being removed: see `headrace status`")


def _target(kind: str, name: str | None) -> tuple[Kind, str]:
    """Raises BadInput where the two say no kind and name."""
    word = kind
    if name is None:
        word, _, name = kind.partition("/")
    found = next((one for one in KINDS if one == word), None)
    if found is None:
        raise BadInput(f"there is no kind {word!r}", where="delete", remedy=did_you_mean(word, list(KINDS)))
    if not name:
        raise BadInput(f"which {found} was not said", where="delete", remedy=f"`headrace delete {found} NAME`")
    return found, name


def _wait(client: ControlClient, kind: Kind, name: str, timeout_s: float) -> None:
    """Until it is gone, or is there anew. Raises NoCapacity where that takes longer."""
    until_s = time.monotonic() + timeout_s
    with notes().status("draining") as spinner:
        while why := _removing(client, kind, name):
            if time.monotonic() > until_s:
                raise NoCapacity(
                    f"not gone after {timeout_s:g} s: {why}",
                    where=f"{kind} {name}",
                    remedy="it goes on without you: follow it with `headrace status --watch`",
                )
            spinner.update(Text(f"{kind} {name}: {why}"))
            time.sleep(POLL_S)  # the gateway has no call that waits for a change


def _removing(client: ControlClient, kind: Kind, name: str) -> str:
    try:
        return client.model(name).removing if kind == "model" else client.feed(FeedName(kind=kind, name=name)).removing
    except NotFound:
        return ""
