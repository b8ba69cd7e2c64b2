"""Before a door opens to the network: somebody must have said who may come in, and nobody on the way may listen."""

from __future__ import annotations

from pathlib import Path

from cluster.commands.documents import Apply
from cluster.errors import BadInput
from cluster.store.sql import SqlStore
from headrace.local.home import Settings
from headrace.local.options import UpOptions


def access_in(file: Path) -> Apply:
    """What applies the Access document in a project file, once: given again at the next start, it undoes nothing that was applied
    since. Raises BadInput where there is none, or another document beside it."""
    from headrace.project.documents import load_project  # it knows all kinds of documents, and so takes half a second

    project = load_project([file])
    if project.access is None or project.models or project.feeds or project.name:
        raise BadInput("one Access document is wanted here, alone", where=f"--access {file}", remedy="apply the others later")
    return project.apply().model_copy(update={"standing": True})


def check_network(options: UpOptions, settings: Settings, access: Apply | None) -> None:
    """Raises BadInput where a door would open to the network in clear, or with no Access document, given or applied before, that
    says who may come in. Raises what the store raises."""
    if options.on_loopback or options.insecure:
        return
    where = f"--host {options.host}"
    if access is None and not has_document(settings):
        raise BadInput(
            "the network would reach it, and no Access document says who may do what",
            where=where,
            remedy="give one with --access FILE (docs/access.md), or say --insecure: whoever reaches it may score and see then",
        )
    if options.tls is None:
        raise BadInput(
            "keys and rows would cross the network in clear",
            where=where,
            remedy="give --tls-cert and --tls-key, or say --insecure where something before it speaks TLS",
        )


def has_document(settings: Settings) -> bool:
    """Whether an Access document was ever applied. Raises what the store raises."""
    store = SqlStore(settings.store_url)
    try:
        return store.load().access is not None
    finally:
        store.close()
