"""What each command asks of its caller: a role over each model that it is about. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.access.callers import SEE_YOURS, Caller, Role
from cluster.errors import Forbidden, HeadraceError, NotFound, Unauthenticated
from cluster.state import State, feed_key


@dataclass(frozen=True, slots=True)
class RoleAsked:
    """Any one of these roles over that model; `unknown` is how a caller is told who may not even know that it is there."""

    roles: tuple[Role, ...]
    model: str
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class AdminAsked:
    """To be an admin."""


@dataclass(frozen=True, slots=True)
class ClusterAsked:
    """To be a process of the cluster: no caller from outside is one."""


Asks = tuple[RoleAsked | AdminAsked | ClusterAsked, ...]


def of_model(*roles: Role) -> Any:
    """What a command asks that names one model in its field `model`."""

    def asks(_: State, request: Any) -> Asks:
        return (RoleAsked(roles, request.model),)

    return asks


def of_feed(*roles: Role) -> Any:
    """What a command asks that names a stream or batch: the roles over the model that this scores with."""

    def asks(state: State, request: Any) -> Asks:
        feed = state.feeds.get(feed_key(request.kind, request.name))
        unknown = f"there is no {request.kind} {request.name!r}"
        return (RoleAsked(roles, feed.spec.model if feed is not None else "", unknown),)

    return asks


def anybodys(_: State, __: Any) -> Asks:
    """What a command asks whose answer holds only what its caller may see."""
    return ()


def admins(_: State, __: Any) -> Asks:
    """What a command asks that says who may do what."""
    return (AdminAsked(),)


def the_clusters(_: State, __: Any) -> Asks:
    """What a command asks that the cluster's own processes alone run."""
    return (ClusterAsked(),)


def refusal(caller: Caller, command: str, asks: Asks) -> HeadraceError | None:
    """Why the caller may not run it; None where he may."""
    for ask in asks:
        if isinstance(ask, ClusterAsked):
            return _refused(caller, f"{command} is for the cluster's own processes", "it is not run by hand")
        if isinstance(ask, AdminAsked):
            if not caller.is_admin:
                return _refused(caller, f"{command} is for admins", "ask somebody who may make keys")
        elif not any(caller.may(role, ask.model) for role in ask.roles):
            if not caller.anonymous and not caller.sees(ask.model):
                return NotFound(ask.unknown or f"there is no model {ask.model!r}", where=command, remedy=SEE_YOURS)
            wanted = " or ".join(ask.roles)
            return _refused(caller, f"{command} needs the role {wanted} over the model", "ask an admin for it")
    return None


def _refused(caller: Caller, what: str, remedy: str) -> HeadraceError:
    if not caller.anonymous:
        return Forbidden(f"{what}; {caller.name} has not got it", where="access", remedy=remedy)
    return Unauthenticated(
        f"{what}, and nobody said who he is",
        where="access",
        remedy="set HEADRACE_TOKEN to a key, or run it where `headrace up` was run, with its HEADRACE_HOME",
    )
