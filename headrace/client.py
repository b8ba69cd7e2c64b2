"""Talks to the controller through the gateway: what the command line and scripts use. Needs no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from cluster.commands import audit, documents, feeds, keys, labels, models, rollouts, status, versions
from cluster.commands.audit import RolloutHistory
from cluster.commands.batches import runs
from cluster.commands.batches.runs import BatchName
from cluster.commands.command import ModelName, Nothing
from cluster.commands.documents import Applied, Apply
from cluster.commands.feeds import FeedName, FeedView, MoveFeed
from cluster.commands.keys import CreateKey, KeyView, RevokeKey, RotateKey
from cluster.commands.labels import LabelsTold, TellLabels
from cluster.commands.models import DeleteModel, ModelView, ScaleModel
from cluster.commands.privacy import subjects
from cluster.commands.privacy.subjects import ReplaceSubjectKeys, SubjectKeysAsked, SubjectKeysView
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
from cluster.rollout.plan import NamedPlan, Plan
from headrace.asking_why import ExplainedRows, explain_path, read_explained
from headrace.control_calls import ControlCalls


class ControlClient(ControlCalls):
    """The control API, one method a command, each of which raises what `ControlCalls` says."""

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
        """The keys of data subjects, sealed."""
        return self.call(subjects.SHOW, SubjectKeysAsked(name=name))

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
