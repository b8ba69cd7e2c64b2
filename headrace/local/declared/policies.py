"""declared.json: policies that somebody has declared, which `up` keeps to until they are declared otherwise."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import Conflict
from headrace.local.home import Home, Settings, without_password
from headrace.local.options import NO_POLICY, UpOptions
from headrace.local.run_state import replace_file


class DeclaredPolicies(BaseModel):
    """The whole of declared.json: the file of the signing policy, and the places of the audit's checkpoints; empty: none. `store`
    is that which was said, without its password; empty: the home's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    signing: str = ""
    audit_places: tuple[str, ...] = ()
    store: str = ""


def declared_in(home: Home) -> DeclaredPolicies:
    """What was declared; nothing where there is no file. Raises Conflict where it can't be understood."""
    try:
        return DeclaredPolicies.model_validate_json(home.declared_file.read_bytes())
    except FileNotFoundError:
        return DeclaredPolicies()
    except ValidationError as error:
        raise Conflict(
            "it is not what this version of headrace has written",
            where=str(home.declared_file),
            remedy="say with `headrace up --signing` what holds, and delete the file",
        ) from error


def as_declared(options: UpOptions, settings: Settings) -> tuple[UpOptions, Settings, tuple[str, ...]]:
    """What holds now: what is said, else what was declared before; and a line for each of the latter.

    Raises Conflict where another store was declared, and none is said: who may do what, and everything else, is in that one.
    """
    kept, lines = declared_in(settings.home), list[str]()
    if kept.store and not settings.store_told:
        raise Conflict(
            f"what ran here last kept everything in {kept.store}, and nothing says so now",
            where="HEADRACE_STORE_URL",
            remedy=f"set it to that store; to begin with the home's own instead, set it to sqlite:///{settings.home.store}",
        )
    if not options.signing and kept.signing:
        options = replace(options, signing=kept.signing)
        lines.append(f"signing policy {kept.signing}, as it was declared; `headrace up --signing {NO_POLICY}` ends it")
    if not settings.audit_places and kept.audit_places:
        settings = replace(settings, audit_places=kept.audit_places)
        shown = " ".join(map(without_password, kept.audit_places))
        lines.append(f"checkpoints of the audit go to {shown}, as declared; HEADRACE_AUDIT_CHECKPOINTS={NO_POLICY} ends it")
    if options.signing == NO_POLICY:
        options = replace(options, signing="")
    if settings.audit_places == (NO_POLICY,):
        settings = replace(settings, audit_places=())
    return options, settings, tuple(lines)


def declare(options: UpOptions, settings: Settings) -> None:
    """Keeps what `as_declared` gave, for those who leave it out. Raises Conflict."""
    own = settings.store_url == f"sqlite:///{settings.home.store}"
    store = "" if own else without_password(settings.store_url)
    now = DeclaredPolicies(signing=options.signing, audit_places=settings.audit_places, store=store)
    if now != declared_in(settings.home):
        settings.home.make()
        replace_file(settings.home.declared_file, now.model_dump_json(indent=2).encode() + b"\n")
