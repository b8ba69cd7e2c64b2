"""The state as rows: one table a kind, a key and a JSON document a row. Fields added later have defaults, so old rows open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cluster.access.keys import StoredKey
from cluster.access.policy import Access
from cluster.audit.uses import Teller
from cluster.drift.alarms import DriftAlarm
from cluster.errors import BadInput
from cluster.findings import first_finding
from cluster.rollout.evidence import Counts, Evidence, EvidenceKey
from cluster.rollout.record import Rollout
from cluster.state import Feed, Model, State, StoredSubjectKeys
from cluster.store.holder import Holder
from cluster.versions import Version, Versions

Rows = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Observed:
    """One row of evidence."""

    key: EvidenceKey
    counts: Counts


@dataclass(frozen=True, slots=True)
class Control:
    """The state's single values, in one row."""

    last_rollout: int = 0
    table: int = 0
    table_digest: str = ""
    access: Access | None = None
    audit_key: str = ""
    access_standing: str = ""
    brought: tuple[str, ...] = ()
    checkpoints_away: Mapping[str, str] = field(default_factory=dict)


_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    "versions": TypeAdapter(Version),
    "models": TypeAdapter(Model),
    "rollouts": TypeAdapter(Rollout),
    "feeds": TypeAdapter(Feed),
    "evidence": TypeAdapter(Observed),
    "scorers": TypeAdapter(int),
    "keys": TypeAdapter(StoredKey),
    "alarms": TypeAdapter(DriftAlarm),
    "subjects": TypeAdapter(StoredSubjectKeys),
    "tellers": TypeAdapter(Teller),
    "control": TypeAdapter(Control),
}
TABLES = tuple(_ADAPTERS)
# A row beside the state's single values: an older Headrace reads past it.
HOLDER = "holder"
_HOLDER = TypeAdapter(Holder)


def _values(state: State) -> dict[str, tuple[Mapping[Any, Any], Callable[[Any], str]]]:
    """By table: the entries and how their keys are written."""
    return {
        "versions": (state.versions, lambda key: key.app),
        "models": (state.models, str),
        "rollouts": (state.rollouts, str),
        "feeds": (state.feeds, str),
        "evidence": (state.evidence, _evidence_name),
        "scorers": (state.scorers, str),
        "keys": (state.keys, str),
        "alarms": (state.alarms, str),
        "subjects": (state.subjects, str),
        "tellers": (state.tellers, str),
        "control": (
            {
                "state": Control(
                    state.last_rollout,
                    state.table,
                    state.table_digest,
                    state.access,
                    state.audit_key,
                    state.access_standing,
                    state.brought,
                    state.checkpoints_away,
                )
            },
            str,
        ),
    }


def _evidence_name(key: EvidenceKey) -> str:
    whole = f"{key.model}/{key.stage}/{key.version}"
    return f"{whole}/{key.caller}" if key.caller else whole


def _document(table: str, key: Any, value: Any) -> str:
    entry = Observed(key, value) if table == "evidence" else value
    return _ADAPTERS[table].dump_json(entry).decode()


def to_rows(state: State) -> Rows:
    """Every row of the state."""
    return {
        table: {name(key): _document(table, key, value) for key, value in entries.items()}
        for table, (entries, name) in _values(state).items()
    }


def changes(before: State, after: State) -> tuple[Rows, dict[str, list[str]]]:
    """The rows to write and the keys to delete, by table. What is the same object or equal is left out."""
    written: Rows = {}
    deleted: dict[str, list[str]] = {}
    old_values = _values(before)
    for table, (new, name) in _values(after).items():
        old = old_values[table][0]
        if old is new:
            continue
        changed, gone = _differences(old, new)
        if changed:
            written[table] = {name(key): _document(table, key, value) for key, value in changed.items()}
        if gone:
            deleted[table] = [name(key) for key in gone]
    return written, deleted


def _differences(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], list[Any]]:
    """What is new or other, and the keys that are gone."""
    if isinstance(old, Evidence) and isinstance(new, Evidence):
        return new.since(old)
    changed = {key: value for key, value in new.items() if key not in old or (old[key] is not value and old[key] != value)}
    return changed, [key for key in old if key not in new]


def _read(table: str, key: str, document: str, adapter: TypeAdapter[Any]) -> Any:
    try:
        return adapter.validate_json(document)
    except ValidationError as error:
        raise BadInput(
            f"the store holds what this Headrace can't read: {first_finding(error)}",
            where=f"{table} {key}",
            remedy="use the Headrace that wrote it, or mend this row of the store",
        ) from error


def holder_row(holder: Holder) -> str:
    """The document of the row HOLDER of `control`."""
    return _HOLDER.dump_json(holder).decode()


def holder_in(document: str) -> Holder:
    """The holder in such a document. Raises BadInput where it can't be read."""
    holder: Holder = _read("control", HOLDER, document, _HOLDER)
    return holder


def from_rows(rows: Mapping[str, Mapping[str, str]]) -> State:
    """The state that these rows were made from. Raises BadInput for a row that can't be read."""
    read = {
        table: {key: _read(table, key, text, adapter) for key, text in rows.get(table, {}).items()}
        for table, adapter in _ADAPTERS.items()
    }
    control: Control = read["control"].get("state", Control())
    return State(
        versions=Versions(read["versions"].values()),
        models=read["models"],
        rollouts={rollout.id: rollout for rollout in read["rollouts"].values()},
        feeds=read["feeds"],
        evidence=Evidence({row.key: row.counts for row in read["evidence"].values()}),
        scorers=read["scorers"],
        keys=read["keys"],
        alarms=read["alarms"],
        subjects=read["subjects"],
        tellers=read["tellers"],
        access=control.access,
        audit_key=control.audit_key,
        access_standing=control.access_standing,
        brought=control.brought,
        checkpoints_away=control.checkpoints_away,
        last_rollout=control.last_rollout,
        table=control.table,
        table_digest=control.table_digest,
    )
