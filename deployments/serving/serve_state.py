"""What Serve says of an app, as the brain's words. Pure."""

from __future__ import annotations

import re

from ray.serve.schema import ApplicationStatus

from cluster.error_wire import KINDS
from cluster.errors import HeadraceError
from cluster.ports import AppState, AppStatus
from cluster.rollout.blame import TRANSIENT
from deployments.serving.serve_controller import RUNNING, SeenApp

_OURS = "|".join(KINDS)
_REASON = re.compile(rf"^\s*((?:[A-Za-z_][\w.]*\.)?)(\w*(?:Error|Exception|{_OURS})): (.+)$", re.M)
_OUR_ERRORS = f"{HeadraceError.__module__}."
_LONGEST = 2000


def app_state(name: str, app: SeenApp, deployment: str) -> AppState:
    """The state of an app with one deployment.

    An app is READY as long as any replica serves: one that lost some replicas, or is being scaled, must not lose its traffic.
    """
    details = app.deployments.get(deployment)
    # Either may have the reason; the app's may only say that the deployment failed.
    message = "\n".join(told for told in (app.message, details.message if details is not None else "") if told)
    if details is None:
        return AppState(name, _WITHOUT_REPLICAS[app.status], 0, 0, reason(message), is_transient(message))
    running = sum(replica.state == RUNNING for replica in details.replicas)
    target = details.target_num_replicas or 0
    status = _status(app.status, details.status, running, target)
    if running >= target and status is AppStatus.READY:
        return AppState(name, status, running, target)
    return AppState(name, status, running, target, reason(message), is_transient(message))


_WITHOUT_REPLICAS = {
    ApplicationStatus.NOT_STARTED: AppStatus.STARTING,
    ApplicationStatus.DEPLOYING: AppStatus.STARTING,
    ApplicationStatus.DEPLOY_FAILED: AppStatus.FAILED,
    ApplicationStatus.RUNNING: AppStatus.STARTING,
    ApplicationStatus.UNHEALTHY: AppStatus.UNHEALTHY,
    ApplicationStatus.DELETING: AppStatus.STOPPING,
}


def _status(app: ApplicationStatus, deployment: str, running: int, target: int) -> AppStatus:
    if app is ApplicationStatus.DELETING:
        return AppStatus.STOPPING
    if app is ApplicationStatus.DEPLOY_FAILED or deployment == "DEPLOY_FAILED":
        return AppStatus.FAILED
    if deployment == "UPDATING":
        return AppStatus.STARTING
    if running > 0 or target == 0:
        return AppStatus.READY
    return AppStatus.UNHEALTHY if deployment == "UNHEALTHY" else AppStatus.STARTING


def reason(message: str) -> str:
    """The last error that a traceback in Serve's message names; the message itself where it names none."""
    _, _, words = _last_error(message)
    return words.strip()[:_LONGEST]


def is_transient(message: str) -> bool:
    """Whether that error is one of ours that says nothing of the version: what it lacked may be there at the next try."""
    module, kind, _ = _last_error(message)
    return module == _OUR_ERRORS and issubclass(KINDS.get(kind, HeadraceError), TRANSIENT)


def _last_error(message: str) -> tuple[str, str, str]:
    """Its module with a dot, its kind and its words; the whole message is words where it names no error."""
    found: list[tuple[str, str, str]] = _REASON.findall(message)
    return found[-1] if found else ("", "", message)
