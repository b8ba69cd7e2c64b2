"""What is wrong, then how much there is: the first lines of `headrace status`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from cluster.commands.feeds import FeedView
from cluster.commands.models import ModelView
from cluster.versions import VersionId
from deployments.gateway.door.certificates import ENDS_SOON, utc
from headrace.cli.screens.output import many
from headrace.cli.screens.quality import alarm_told
from headrace.local.ray.where import ALIVE, LEFT
from headrace.local.status import Overview

QUIET_S = 15.0  # a controller with nothing to do looks every other second
ILL = ("failed", "unhealthy")


def wrong(seen: Overview, now_s: float) -> tuple[str, ...]:
    """Each line names one thing, and why where that is known."""
    return (*_of_the_house(seen, now_s), *(line for model in seen.models for line in wrong_with(model)), *_of_feeds(seen.feeds))


def counts(seen: Overview) -> str:
    """One line, e.g. `2 models, 3 of 4 replicas, 1 rollout under way, 1 stream`."""
    apps = [app for model in seen.models for app in model.apps]
    parts = [many(len(seen.models), "model")]
    if apps:
        parts.append(f"{sum(app.replicas for app in apps)} of {many(sum(app.target_replicas for app in apps), 'replica')}")
    under_way = sum(model.rollout is not None and model.rollout.ended_s is None for model in seen.models)
    if under_way:
        parts.append(f"{many(under_way, 'rollout')} under way")
    for kind, several in (("stream", "streams"), ("batch", "batches")):
        number = sum(feed.kind == kind for feed in seen.feeds)
        if number:
            parts.append(f"{number} {kind if number == 1 else several}")
    if here := [node for node in seen.nodes or () if node.state != LEFT]:
        parts.append(many(len(here), "node"))
    return ", ".join(parts)


def _of_the_house(seen: Overview, now_s: float) -> Iterator[str]:
    for door in seen.doors:
        if not door.is_open:
            yield f"the door at {door.http} is closed"
        elif door.gateways == 0:
            yield f"no gateway is up behind the door at {door.http}"
        ends_s = door.certificate_ends_s
        if ends_s is not None and ends_s - now_s < ENDS_SOON.total_seconds():
            word = "ended" if ends_s <= now_s else "ends"
            yield f"the certificate of the door at {door.http} {word} at {utc(datetime.fromtimestamp(ends_s, UTC))}: renew it"
        yield from (f"the door at {door.http}: {line}" for line in door.trouble.splitlines())
    yield from (f"left out: {one}" for one in seen.left_out)
    if seen.token_refused:
        yield f"the Ray dashboard at {seen.addresses.dashboard} refuses the token: set RAY_AUTH_TOKEN_PATH to the cluster's"
    elif seen.addresses.dashboard and seen.nodes is None:
        yield f"the Ray dashboard at {seen.addresses.dashboard} does not answer"
    for node in seen.nodes or ():
        if node.state not in (ALIVE, LEFT):
            yield f"node {node.address} is {node.state}"
    if now_s - seen.tick_s > QUIET_S:
        yield f"the controller has not looked for {now_s - seen.tick_s:.0f} s"


def wrong_with(model: ModelView) -> Iterator[str]:
    """Each line names one thing of it, and why where that is known."""
    if model.fault:
        yield f"{model.name}: {model.fault}"
    if model.versions and model.stable is None:
        yield f"{model.name}: no version serves"
    if model.drift_alarms:
        yield f"{model.name}: {many(model.drift_alarms, 'feature')} changed: `headrace drift status {model.name}`"
    if model.quality is not None and model.quality.labels is not None:
        for one in model.quality.versions:
            told = alarm_told(one, model.quality.labels)
            if told:
                yield f"{model.name}: {told}; see `headrace quality status {model.name}`"
    for app in model.apps:
        why = f": {app.message}" if app.message else ""
        if app.status in ILL:
            yield f"{app.app}: {app.status}{why}"
        elif app.status == "ready" and app.replicas < app.target_replicas:
            yield f"{app.app}: {app.replicas} of {app.target_replicas} replicas{why}"


def rests(model: ModelView) -> bool:
    """Whether there is nothing to see: a version serves as it should, and nothing is under way."""
    ready = {app.app for app in model.apps if app.status == "ready"}
    if model.stable is None or model.candidate is not None or model.removing:
        return False
    if VersionId(model.name, model.stable).app not in ready:
        return False
    return len(ready) == len(model.apps) and next(wrong_with(model), None) is None


def _of_feeds(feeds: tuple[FeedView, ...]) -> Iterator[str]:
    for feed in feeds:
        if feed.status in ILL or (feed.status == "stopped" and feed.wanted == "running"):
            yield f"{feed.kind} {feed.name}: {feed.status}{f': {feed.message}' if feed.message else ''}"
