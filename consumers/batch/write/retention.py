"""How long runs are kept: the folders of old ones go, and what `only_new` must know of them stays."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pydantic import TypeAdapter, ValidationError

from cluster.errors import Conflict
from consumers.batch.read.dataset import Mark
from consumers.batch.spec import BatchOutput
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.publish import read_manifest
from consumers.batch.write.records import RunPhase
from consumers.batch.write.runs import RunHistory

_log = logging.getLogger(__name__)

_Marks = dict[str, list[Mark]]
_SCORED = TypeAdapter(_Marks)
_SET_ASIDE = ("replaced-data", "replaced-quarantine")


def scored_before(runs: RunHistory) -> _Marks:
    """What published runs have scored, by path, as the files were then; also the runs whose folders are gone.

    Raises Conflict where a record of it is not one that this version of Headrace can read.
    """
    found = _remembered(runs)
    for run in runs.all():
        if run.phase() is RunPhase.PUBLISHED:
            _add(found, run)
    return found


def retire_old(runs: RunHistory, output: BatchOutput) -> None:
    """Removes the folders of all but the `keep_runs` newest runs, and what all but the `keep` newest published ones replaced.

    What readers see lies elsewhere and stays: published rows and published quarantines. Safe to repeat after a crash at any
    point. Call it under the lock of the output.
    """
    _remove_oldest(runs, max(output.keep_runs, output.keep))
    published = [run for run in runs.all() if run.phase() is RunPhase.PUBLISHED]
    for run in published[: max(len(published) - output.keep, 0)]:
        for name in _SET_ASIDE:
            (run.place / name).remove()


def _remove_oldest(runs: RunHistory, keep: int) -> None:
    oldest_kept = next((run.run_id for run in runs.all()[-keep:]), "")
    # Also folders without a record: of a run that was killed as it began, or of a removal that was.
    old = [run for run in runs.folders() if run.run_id < oldest_kept]
    for run in _remember(runs, old) if old else ():
        run.remove()


def _remember(runs: RunHistory, old: Iterable[Ledger]) -> list[Ledger]:
    """Writes down what these runs have scored; those of which it is known, and may go."""
    found, known = _remembered(runs), []
    for run in old:
        try:
            if run.phase() is RunPhase.PUBLISHED:
                _add(found, run)
        except Conflict as error:
            _log.warning("an old run is kept, since nobody can tell what it has scored: %s", error)
        else:
            known.append(run)
    (runs.home / "scored.json").write(_SCORED.dump_json(found))
    return known


def _remembered(runs: RunHistory) -> _Marks:
    place = runs.home / "scored.json"
    if not place.exists():
        return {}
    try:
        return _SCORED.validate_json(place.read())
    except ValidationError as error:
        raise Conflict(
            "this is not a list of scored files that this version of headrace can read",
            where=place.path,
            remedy="restore it; without it, input.only_new scores files again that runs before the kept ones have scored",
        ) from error


def _add(found: _Marks, run: Ledger) -> None:
    scored = {path for path, _ in read_manifest(run).inputs}
    for unit in run.units():
        for piece in unit.slices:
            if piece.path in scored:
                mark, known = Mark(piece.file_bytes, piece.modified_ns, piece.footer), found.setdefault(piece.path, [])
                if mark not in known:
                    known.append(mark)
