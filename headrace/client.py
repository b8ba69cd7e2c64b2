"""Talks to the controller through the gateway: what the command line and scripts use. Needs no Ray."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import ValidationError

from cluster import errors
from cluster.commands import audit, documents, feeds, keys, labels, models, rollouts, status, versions
from cluster.commands.audit import RolloutHistory
from cluster.commands.batches import runs
from cluster.commands.batches.runs import BatchName
from cluster.commands.command import Command, CommandEntry, Message, ModelName, Nothing
from cluster.commands.documents import Applied, Apply
from cluster.commands.feeds import FeedName, FeedView, MoveFeed
from cluster.commands.keys import CreateKey, KeyView, RevokeKey, RotateKey
from cluster.commands.labels import LabelsTold, TellLabels
from cluster.commands.models import DeleteModel, ModelView, ScaleModel
from cluster.commands.privacy import subjects
from cluster.commands.privacy.subjects import (
    ReplaceSubjectKeys,
    SubjectBranches,
    SubjectBranchesAsked,
    SubjectKeysAsked,
    SubjectKeysView,
)
from cluster.commands.rollouts import MoveRollout, RolloutView, StartRollout
from cluster.commands.status import StatusView
from cluster.commands.versions import RegisterVersion, Resolve, ResolvedVersion, VersionView
from cluster.commands.watch import drift, history, metrics, whole_audit
from cluster.commands.watch import quality as live_quality
from cluster.commands.watch.drift import ClearDrift, DriftAsked, DriftCleared, DriftView
from cluster.commands.watch.history import HistoryView
from cluster.commands.watch.metrics import MetricsView
from cluster.commands.watch.quality import ClearAlarm, QualityView
from cluster.commands.watch.whole_audit import AuditCheckpoint, AuditPruned, AuditRecords, PruneAudit, RecordsAsked
from cluster.error_wire import from_wire
from cluster.findings import first_finding
from cluster.rollout.plan import NamedPlan, Plan
from deployments.gateway.door.configuration import NOT_DELIVERED
from headrace.asking_why import ExplainedRows, explain_path, read_explained
from headrace.local.home import Home, Settings, read_settings
from headrace.local.home_key import home_key, key_in
from headrace.local.run_state import load_run
from headrace.patience import Patience, Waiting
from headrace.transport import remedy_for, transport_to

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

AWAY = frozenset({httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT})


class ControlClient:
    """The control API, `POST /control/{command}`, one method a command. Blocks; not for several threads at once.

    Every method raises the HeadraceError that the controller raised, of the same class, or Unreachable where nothing
    answers within `timeout_s`. With `patience`, a gateway that is away is asked again for so long: by what only looks always, by
    what changes something only where it certainly was not delivered. `actor` is who asks, for the audit, where a request does not
    say. `token` is a key, or an issuer's token, that it is known by; BadInput where it can be neither.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
        patience: Patience | None = None,
        actor: str = "",
        token: str | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s, self._patience, self._actor = timeout_s, patience, actor
        # trust_env off: a proxy set for the web must not swallow calls to a local gateway.
        self._http = httpx.Client(base_url=self.base_url, timeout=timeout_s, transport=transport, trust_env=False)
        if token is not None:
            if not token.isascii() or not token.isprintable() or " " in token:  # httpx would tell all of it in its own refusal
                what = "it has blanks, or characters that no key or token has"
                raise errors.BadInput(what, where="the key or token", remedy="set HEADRACE_TOKEN to it alone, as it was shown")
            self._http.headers["authorization"] = f"Bearer {token}"

    @classmethod
    def from_environment(cls, settings: Settings | None = None, *, patient: bool = True) -> Self:
        """Finds the gateway: HEADRACE_URL, else what `headrace up` wrote in run.json. Raises Unreachable where neither says.

        It is known by HEADRACE_TOKEN, or by what is in HEADRACE_TOKEN_FILE; else by the home's key, where the gateway is the
        home's.

        It has patience, as long as what `headrace up` started still runs, unless told to have none.
        """
        known = settings or read_settings()
        run = load_run(known.home) if not known.url or known.home.run_file.exists() else None
        own = run.addresses.http if run is not None and run.holds_its_ports() else None
        if known.url:
            token = token_of(known, own=known.url.rstrip("/") == own)
            secured = transport_to(known.url, known)
            return cls(known.url, transport=secured, patience=Patience() if patient else None, actor=current_user(), token=token)
        if run is None or run.addresses.http is None:
            raise errors.Unreachable(
                "nothing is running",
                where=str(known.home.root),
                remedy="start it with `headrace up`, or set HEADRACE_URL to a gateway's address",
            )
        url, patience = run.addresses.http, Patience(partial(may_answer, known.home)) if patient else None
        secured, token = transport_to(url, known), token_of(known, own=own is not None)
        return cls(url, transport=secured, patience=patience, actor=current_user(), token=token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Safe to repeat."""
        self._http.close()

    def call(self, entry: CommandEntry[Q, A], request: Q) -> A:
        """Runs one of `cluster.commands.registry.COMMANDS` and returns its answer."""
        command, looks = entry.name, entry.looks
        waiting = Waiting(self._patience, self.base_url, self._timeout_s)
        body = request.model_dump(mode="json")
        if isinstance(request, Command):
            body["actor"] = request.actor or self._actor
        while True:
            left_s = max(waiting.left_s, 0.1)
            # What changes something is not cut short because the gateway was away before it.
            limit = httpx.Timeout(left_s if looks else self._timeout_s, connect=left_s)
            try:
                response = self._http.post(f"/control/{command}", json=body, timeout=limit)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise errors.BadInput(
                    str(error), where=self.base_url, remedy="HEADRACE_URL is like http://127.0.0.1:8000"
                ) from error
            except httpx.TransportError as error:
                lost = _is_nowhere(error) or remedy_for(error) is not None
                again = not lost and (looks or isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)))
                if not (again and waiting.goes_on(str(error))):
                    raise self._unanswered(command, error) from error
            else:
                away = response.status_code in AWAY and (looks or NOT_DELIVERED in response.headers)
                if not (away and waiting.goes_on(f"HTTP {response.status_code}")):
                    return self._read(command, response, entry.answer)

    def _unanswered(self, command: str, error: httpx.TransportError) -> errors.Unreachable:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return errors.Unreachable(
                f"no answer to {command} in time", where=self.base_url, remedy="see `headrace status`, then try again"
            )
        return errors.Unreachable(
            f"the gateway does not answer: {error}",
            where=self.base_url,
            remedy=remedy_for(error) or "start it with `headrace up`",
        )

    def _read(self, command: str, response: httpx.Response, answer: type[A]) -> A:
        where = f"{self.base_url}/control/{command}"
        try:
            data = response.json()
        except ValueError:
            data = None
        if response.is_success and isinstance(data, dict):
            try:
                return answer.model_validate(data)
            except ValidationError as error:
                raise errors.HeadraceError(
                    f"the answer is not what this version of headrace knows: {first_finding(error).words}",
                    where=where,
                    remedy="run the same version of headrace here and there",
                ) from error
        raise _error_in(data) or _error_of_status(response.status_code, where)

    def status(self) -> StatusView:
        """Everything at a glance."""
        return self.call(status.STATUS, Nothing())

    def console_link(self) -> str:
        """The console's address; where this client has a key, with a code that logs in whoever opens it first, within ten
        minutes, as who has that key."""
        try:
            answer = self._http.post("/console/link", timeout=self._timeout_s)
        except httpx.TransportError as error:
            raise self._unanswered("console", error) from error
        path = answer.json()["path"] if answer.is_success else "/console/"
        return f"{self.base_url}{path}"

    def drift(self, model: str = "") -> DriftView:
        """Whether the rows of a model, or of all, still look like their profiles."""
        return self.call(drift.STATUS, DriftAsked(model=model))

    def clear_drift(self, request: ClearDrift) -> DriftCleared:
        """Clears alarms of drift."""
        return self.call(drift.CLEAR, request)

    def metrics(self) -> MetricsView:
        """Every metric, summed over the cluster."""
        return self.call(metrics.METRICS, Nothing())

    def audit_records(self, first: int) -> AuditRecords:
        """Some of the audit's records, as they were stored, from that number on; none at the end."""
        return self.call(whole_audit.RECORDS, RecordsAsked(first=first))

    def audit_checkpoint(self) -> AuditCheckpoint:
        """How long the audit is, and its root, signed."""
        return self.call(whole_audit.CHECKPOINT, Nothing())

    def prune_audit(self, request: PruneAudit) -> AuditPruned:
        """Deletes the oldest records, which were exported."""
        return self.call(whole_audit.PRUNE, request)

    def history(self) -> HistoryView:
        """How the last hour and the last day went."""
        return self.call(history.HISTORY, history.AskHistory())

    def apply(self, asked: Apply) -> Applied:
        """Makes the documents so: all of them, or none."""
        return self.call(documents.APPLY, asked)

    def register_version(self, version: RegisterVersion) -> VersionView:
        """Makes a packaged artifact the next version of its model; the same digest again returns the version it has."""
        return self.call(versions.REGISTER, version)

    def resolve_version(self, model: str, version: int | None = None) -> ResolvedVersion:
        """One version; without a number, the stable one."""
        return self.call(versions.RESOLVE, Resolve(model=model, version=version))

    def remove_version(self, model: str, version: int) -> None:
        """Forgets a version that nothing uses."""
        self.call(versions.REMOVE, Resolve(model=model, version=version))

    def model(self, model: str) -> ModelView:
        """One model with its versions, replicas and rollout."""
        return self.call(models.SHOW, ModelName(model=model))

    def delete_model(self, model: str, *, artifacts: bool = False) -> ModelView:
        """Begins to remove a model, and its artifacts where asked. Again, it changes nothing."""
        return self.call(models.DELETE, DeleteModel(model=model, artifacts=artifacts))

    def scale(self, model: str, replicas: int) -> None:
        """Sets the replicas of a model that is scaled by hand."""
        self.call(models.SCALE, ScaleModel(model=model, replicas=replicas))

    def start_rollout(
        self,
        model: str,
        version: int | None = None,
        *,
        plan: Plan | NamedPlan | None = None,
        supersede: bool = False,
        compatible: bool = False,
        actor: str = "",
    ) -> RolloutView:
        """Starts a rollout of `version`, or of the newest."""
        request = StartRollout(model=model, version=version, plan=plan, supersede=supersede, compatible=compatible, actor=actor)
        return self.call(rollouts.START, request)

    def rollout(self, model: str) -> RolloutView | None:
        """The rollout under way, or the last one; None where there was none."""
        return self.call(rollouts.STATUS, ModelName(model=model)).rollout

    def rollout_history(self, model: str) -> RolloutHistory:
        """All rollouts of a model and their audit."""
        return self.call(audit.HISTORY, ModelName(model=model))

    def pause_rollout(self, model: str, *, actor: str = "") -> RolloutView:
        """Stops the rollout where it is."""
        return self.call(rollouts.PAUSE, MoveRollout(model=model, actor=actor))

    def resume_rollout(self, model: str, *, actor: str = "") -> RolloutView:
        """Lets a paused rollout go on."""
        return self.call(rollouts.RESUME, MoveRollout(model=model, actor=actor))

    def promote(self, model: str, *, actor: str = "") -> RolloutView:
        """Makes the candidate stable now, whatever its gates say."""
        return self.call(rollouts.PROMOTE, MoveRollout(model=model, actor=actor))

    def abort(self, model: str, *, actor: str = "") -> RolloutView:
        """Takes the candidate back now."""
        return self.call(rollouts.ABORT, MoveRollout(model=model, actor=actor))

    def quality(self, model: str) -> QualityView:
        """How right the model's versions are, by late labels."""
        return self.call(live_quality.SHOW, ModelName(model=model))

    def clear_quality_alarm(self, model: str, version: int | None = None) -> QualityView:
        """Clears the alarm of a version, or of all."""
        return self.call(live_quality.CLEAR, ClearAlarm(model=model, version=version))

    def tell_labels(self, told: TellLabels) -> LabelsTold:
        """Labels of answers already given."""
        return self.call(labels.LABEL, told)

    def create_key(self, key: CreateKey) -> KeyView:
        """Makes a key known that was drawn here: see `cluster.access.keys.new_key`."""
        return self.call(keys.CREATE, key)

    def rotate_key(self, key: RotateKey) -> KeyView:
        """Puts a key that was drawn here in place of the newest of its name, which lives on for a while."""
        return self.call(keys.ROTATE, key)

    def revoke_keys(self, which: RevokeKey) -> tuple[KeyView, ...]:
        """Ends keys at once."""
        return self.call(keys.REVOKE, which).keys

    def keys(self) -> tuple[KeyView, ...]:
        """All keys, without their secrets."""
        return self.call(keys.LIST, Nothing()).keys

    def subject_keys(self, name: str) -> SubjectKeysView:
        """The keys of data subjects, sealed: the root of their tree."""
        return self.call(subjects.SHOW, SubjectKeysAsked(name=name))

    def subject_branches(self, asked: SubjectBranchesAsked) -> SubjectBranches:
        """Branches of their tree, sealed."""
        return self.call(subjects.BRANCHES, asked)

    def replace_subject_keys(self, keys: ReplaceSubjectKeys) -> SubjectKeysView:
        """Puts others in their place."""
        return self.call(subjects.REPLACE, keys)

    def explain(
        self,
        model: str,
        instances: Sequence[Any],
        *,
        version: int | None = None,
        routing_key: str = "",
        timeout_s: float = 30.0,
        **options: Any,
    ) -> ExplainedRows:
        """Why rows are answered as they are, by the version that is given, or that serves the key, or stable.

        A row is nested lists, or an object by input. `options` are those of docs/explain.md: method, output, label, groups,
        evaluations and so on. What is not computed within `timeout_s` is cut, and says so.
        """
        path, parameters = explain_path(model, version), {name: value for name, value in options.items() if value is not None}
        headers = {"x-timeout-ms": str(max(round(1000 * timeout_s), 1))} | ({"x-routing-key": routing_key} if routing_key else {})
        body = {"instances": list(instances), "parameters": parameters}
        try:
            response = self._http.post(path, json=body, headers=headers, timeout=timeout_s + self._timeout_s)
        except httpx.TransportError as error:
            raise self._unanswered("explain", error) from error
        return read_explained(response, f"{self.base_url}{path}")

    def feeds(self) -> tuple[FeedView, ...]:
        """All streams and batches."""
        return self.call(feeds.LIST, Nothing()).feeds

    def feed(self, name: FeedName) -> FeedView:
        """One stream or batch."""
        return self.call(feeds.SHOW, name)

    def pause_feed(self, name: FeedName) -> FeedView:
        """Drains and stops a stream until it is resumed."""
        return self.call(feeds.PAUSE, MoveFeed(kind=name.kind, name=name.name))

    def resume_feed(self, name: FeedName) -> FeedView:
        """Starts a paused stream where it stopped."""
        return self.call(feeds.RESUME, MoveFeed(kind=name.kind, name=name.name))

    def cancel_batch(self, name: str) -> FeedView:
        """Ends what the cluster runs of a batch. Raises Conflict where it runs nothing of it."""
        return self.call(runs.CANCEL, BatchName(name=name))

    def delete_feed(self, name: FeedName) -> FeedView:
        """Begins to remove a stream or batch. Again, it changes nothing."""
        return self.call(feeds.DELETE, name)


def token_of(settings: Settings, *, own: bool) -> str | None:
    """What to call a gateway with: what the environment says, else the home's key for its `own` gateway, and for no other. Raises
    Conflict where others could read it, BadInput where the file that was named is not there."""
    if settings.token is not None:
        return settings.token
    if settings.token_file is not None:
        try:
            return key_in(settings.token_file)
        except OSError as error:
            what = f"it can't be read: {error.strerror}"
            raise errors.BadInput(what, where="HEADRACE_TOKEN_FILE", remedy="name a file with a key, or none") from error
    return home_key(settings.home) if own else None


def may_answer(home: Home) -> bool:
    """Whether what `headrace up` started may still come to answer: its Ray runs, or is not ours to know of."""
    run = load_run(home)
    return run is not None and run.ray_lives()


def _is_nowhere(error: BaseException) -> bool:
    """Whether the address has no machine behind it, which no waiting mends."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, socket.gaierror):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _error_in(data: Any) -> errors.HeadraceError | None:
    """The error that the body holds, of its own class; None where it holds none."""
    return from_wire(data.get("error")) if isinstance(data, dict) else None


def _error_of_status(status: int, where: str) -> errors.HeadraceError:
    """For an answer that no gateway of ours has written, such as one of a proxy in between."""
    if status == httpx.codes.NOT_FOUND:
        return errors.Unreachable("this is not a headrace gateway", where=where, remedy="check HEADRACE_URL and the port")
    if status in AWAY:
        return errors.Unreachable(f"the gateway answers HTTP {status}", where=where, remedy="it may be starting: try again")
    return errors.HeadraceError(f"HTTP {status} without a reason", where=where, remedy="look in the gateway's log")


def current_user() -> str:
    """Who runs this process, for the audit. In a container that may be a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        return f"user {os.getuid()}"
