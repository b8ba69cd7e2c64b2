"""What is wrong with a model, stream or batch, in words, each with what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cluster.commands.watch.glances import AppGlance, FeedGlance, ModelGlance, RolloutGlance, Severity, WrongView
from cluster.drift.alarms import DriftAlarm
from cluster.ports import AppStatus
from cluster.rollout.record import RolloutState
from cluster.schedule.fires import FireState

ILL = (AppStatus.FAILED.value, AppStatus.UNHEALTHY.value)
FAILING_SHARE = 0.01
LATE_S = 60.0
TOLD_FOR_S = 86_400.0  # so long a rollout that was taken back is told of


def wrong_with_model(model: ModelGlance, fault: str, alarms: Sequence[DriftAlarm], now_s: float) -> tuple[WrongView, ...]:
    """`fault` is a mistake of ours that stops it; "" where there is none. `alarms` are all of the model's of drift that stand."""
    return (*_of_model(model, fault, now_s), *_of_quality(model), *_of_alarms(model.name, alarms))


def wrong_with_feed(feed: FeedGlance, fault: str) -> tuple[WrongView, ...]:
    """Likewise of a stream or batch."""
    return tuple(_of_feed(feed, fault))


def _broken(words: str, remedy: str, until_s: float | None = None) -> WrongView:
    return WrongView(severity=Severity.BROKEN, words=words, remedy=remedy, until_s=until_s)


def _of_model(model: ModelGlance, fault: str, now_s: float) -> Iterator[WrongView]:
    if fault:
        yield _broken(f"a mistake of ours stops it: {fault}", "`headrace logs --controller` tells more; please report it")
    rollout = model.rollout
    active = rollout is not None and rollout.rollout.ended_s is None
    if model.versions and model.stable is None and not active:
        yield _broken(
            "no version serves", f"`headrace rollout start {model.name}` once its newest version is good, or build another"
        )
    for app in model.apps:
        yield from _of_app(model.name, app)
    asked, failed = model.figures.get("requests_s", 0.0), model.figures.get("failed_requests_s", 0.0)
    if asked and failed / asked >= FAILING_SHARE:
        yield _broken(f"{100 * failed / asked:.2g} % of requests fail", f"`headrace logs --model {model.name}` says why")
    if rollout is not None:
        yield from _of_rollout(model.name, rollout, now_s)


def _of_quality(model: ModelGlance) -> Iterator[WrongView]:
    for one in model.worse:
        yield WrongView(
            severity=Severity.WAITING,
            words=f"answers of version {one.version} are proven worse than at build: {one.words}",
            remedy=f"`headrace quality status {model.name}` tells more; once you know why, `headrace quality clear {model.name}`",
            since_s=one.since_s,
        )


def _of_alarms(model: str, alarms: Sequence[DriftAlarm]) -> Iterator[WrongView]:
    """The largest, and how many there are beside it."""
    if not alarms:
        return
    worst = max(alarms, key=lambda alarm: alarm.js)
    side = "output" if worst.answer else "input"
    more = f"; and {len(alarms) - 1} more" if len(alarms) > 1 else ""
    yield WrongView(
        severity=Severity.WAITING,
        words=f"rows of version {worst.version.number} have changed: {side} {worst.feature}: {worst.words}{more}",
        remedy=f"`headrace drift status {model}` shows how far; once you know why, `headrace drift clear {model}`",
        since_s=min(alarm.since_s for alarm in alarms),
    )


def _of_app(model: str, app: AppGlance) -> Iterator[WrongView]:
    why = f": {app.message}" if app.message else ""
    if app.status in ILL:
        yield _broken(
            f"version {app.version} ({app.role}) is {app.status}{why}",
            f"`headrace logs --model {model}:{app.version}` has its replicas' last words",
            app.next_try_s,
        )
    elif app.status == AppStatus.READY and app.replicas < app.target_replicas:
        yield _broken(
            f"version {app.version} ({app.role}) has {app.replicas} of {app.target_replicas} replicas{why}",
            "`headrace status` shows whether the nodes have room for more",
        )


def _of_rollout(model: str, glance: RolloutGlance, now_s: float) -> Iterator[WrongView]:
    rollout = glance.rollout
    name = f"the rollout to version {rollout.candidate}"
    if rollout.waits_since_s is not None and not rollout.paused:
        remedy = "it goes on by itself once that is there; else abort it"
        words = f"{name} waits for {glance.waits_for}"
        yield WrongView(severity=Severity.WAITING, words=words, remedy=remedy, since_s=rollout.waits_since_s)
    elif glance.held:
        remedy = "promote it or abort it; more traffic, or a longer deadline in its plan, would let it decide by itself"
        yield WrongView(severity=Severity.WAITING, words=f"{name} waits for a person: {rollout.reason}", remedy=remedy)
    elif rollout.paused:
        words = f"{name} is paused at {rollout.weight:g} % of traffic: {rollout.reason}"
        yield WrongView(severity=Severity.WAITING, words=words, remedy="resume it, promote it or abort it")
    elif rollout.state == RolloutState.ROLLED_BACK and rollout.ended_s is not None and now_s - rollout.ended_s < TOLD_FOR_S:
        yield WrongView(
            severity=Severity.NOTE,
            words=f"version {rollout.candidate} was taken back: {rollout.reason}",
            remedy=f"`headrace rollout history {model}` has the evidence; build a better one",
            since_s=rollout.ended_s,
        )


def _of_feed(feed: FeedGlance, fault: str) -> Iterator[WrongView]:
    if fault:
        yield _broken(f"a mistake of ours stops it: {fault}", "`headrace logs --controller` tells more; please report it")
    why = f": {feed.message}" if feed.message else ""
    if feed.status in ILL or (feed.kind == "stream" and feed.status == "stopped" and feed.wanted == "running"):
        yield _broken(
            f"it is {feed.status}{why}", f"`headrace logs --stream {feed.name}` has its workers' last words", feed.next_try_s
        )
    oldest_s, rate = feed.figures.get("oldest_s", 0.0), feed.figures.get("records_s", 0.0)
    if feed.wanted == "running" and oldest_s >= LATE_S:
        yield _broken(
            f"it is behind: its oldest record has waited {oldest_s:.0f} s, {feed.figures.get('lag_records', 0):.0f} are in wait",
            "give it more workers in its document" if rate else f"nothing moves: `headrace stream status {feed.name}` says why",
        )
    last = feed.last
    if last is not None and last.state == FireState.FAILED:
        yield WrongView(
            severity=Severity.BROKEN,
            words=f"its last run failed{f': {last.reason}' if last.reason else ''}",
            remedy=f"mend what it says, then `headrace batch run {feed.name} --or-resume`",
            since_s=last.ended_s,
        )
