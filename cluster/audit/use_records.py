"""Uses as records of the audit: by caller and model, each report once; and what is told where counts are missing. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.audit.kinds import CREDENTIAL_REFUSED, FIRST_USE, GAP, GAP_CLOSED, LOOKED_AT, USED
from cluster.audit.uses import OTHERS, CallerOf, SeenCallers, Teller, Used, UseKind, UseReport
from cluster.state import CONTROLLER, AuditEvent, State
from cluster.watch.catalogue import RequestOutcome

SILENT_S = 60.0  # processes that stay are heard of every few seconds
EVERY_S = 60.0  # and tell their uses so often
FORGOTTEN_S = 3600.0  # nobody sends a report again after so long
GONE_S = 86_400.0  # nor does one that does not stay: where it was killed, nobody says that it has ended
CUT_OFF_S = 7 * 86_400.0  # one that fell silent may be back, and have nothing to tell for long
SEEN_FOR_S = 400 * 86_400.0  # who used a model within that is remembered: what runs once a year is no stranger
SEEN_AGAIN_S = 86_400.0  # so exact is when it was last: a row a day for each caller of a model, not one a minute
TOLD_APART = 20  # versions, doors and outcomes of one caller and model in one record


@dataclass(frozen=True, slots=True)
class UsesTold:
    """The state with a report counted, its records, and the callers that are to be remembered."""

    state: State
    events: tuple[AuditEvent, ...] = ()
    seen: SeenCallers | None = None


def callers_in(report: UseReport) -> frozenset[CallerOf]:
    """Who has used which model, of those that are counted apart. Who was refused has not used it."""
    return frozenset(_callers(report))


def record_uses(state: State, report: UseReport, known: Mapping[CallerOf, float], now_s: float) -> UsesTold:
    """Counts a report, once: one that was counted before changes nothing. `known` is when each of its callers was seen last, as
    far as it is remembered."""
    teller = state.tellers.get(report.source)
    if teller is not None and report.sequence <= teller.sequence:
        return UsesTold(state)
    events = _of_what_is_missing(teller, report, now_s)
    seen, new = _seen(report, known, now_s)
    events += new
    events += _records(report, now_s)
    tellers = {source: teller for source, teller in state.tellers.items() if _may_send_again(teller, now_s)}
    stays = report.stays and not report.last
    tellers[report.source] = Teller(report.sequence, report.where, report.ended_s, stays, report.last)
    return UsesTold(replace(state, tellers=tellers), tuple(events), seen)


def record_gaps(state: State, heard: Mapping[str, float], told: Mapping[str, float], since_s: float, now_s: float) -> UsesTold:
    """Tells of processes that have fallen silent without their last counts. `heard` is when each last told metrics, and
    `told` when uses, since the controller began at `since_s`."""
    silent = {
        source: teller
        for source, teller in state.tellers.items()
        if teller.stays and not teller.ended and now_s - max(heard.get(source, since_s), told.get(source, since_s)) > SILENT_S
    }
    if not silent:
        return UsesTold(state)
    events = []
    for source, teller in silent.items():
        # What it had counted a minute before it was heard of last, it had told.
        from_s = max(teller.until_s, heard.get(source, teller.until_s) - EVERY_S)
        events.append(_gap(now_s, teller.where, "it fell silent before it told its last counts", from_s))
    ended = {source: replace(teller, ended=True) for source, teller in silent.items()}
    return UsesTold(replace(state, tellers={**state.tellers, **ended}), tuple(events))


def _may_send_again(teller: Teller, now_s: float) -> bool:
    if teller.stays:
        return not teller.ended or now_s - teller.until_s < CUT_OFF_S
    return now_s - teller.until_s < (FORGOTTEN_S if teller.ended else GONE_S)


def _of_what_is_missing(known: Teller | None, report: UseReport, now_s: float) -> list[AuditEvent]:
    if known is None and report.sequence > 1:
        missing = report.sequence - 1
        from_s = report.began_s - EVERY_S * missing  # each of them was of a minute, or longer
        return [_gap(now_s, report.where, f"this store knows nothing of its first {missing} reports", from_s)]
    if known is None:
        return []
    if report.sequence > known.sequence + 1:
        missing = report.sequence - known.sequence - 1
        return [_gap(now_s, report.where, f"{missing} of its reports are not in this store", known.until_s)]
    if known.ended:
        return [AuditEvent(now_s, "", None, GAP_CLOSED, CONTROLLER, {"process": report.where, "from_s": known.until_s})]
    return []


def _gap(now_s: float, where: str, why: str, from_s: float) -> AuditEvent:
    return AuditEvent(now_s, "", None, GAP, CONTROLLER, {"process": where, "why": why, "from_s": from_s, "to_s": now_s})


def _callers(report: UseReport) -> Iterator[CallerOf]:
    for use in report.uses:
        if use.model and not use.reason and not use.what and use.principal != OTHERS and use.outcome != RequestOutcome.REFUSED:
            yield CallerOf(use.model, use.principal)


def _seen(report: UseReport, known: Mapping[CallerOf, float], now_s: float) -> tuple[SeenCallers | None, list[AuditEvent]]:
    """Whom to remember from now on, and the first uses that this report tells of; None where nothing is to be written."""
    forget_s = now_s - SEEN_FOR_S
    new, again = list[CallerOf](), dict[CallerOf, float]()
    for caller in sorted(callers_in(report)):
        last_s = known.get(caller, forget_s)
        if last_s <= forget_s:
            new.append(caller)
        if now_s - last_s >= SEEN_AGAIN_S:
            again[caller] = now_s
    events = [AuditEvent(now_s, one.model, None, FIRST_USE, one.principal, {"process": report.where}) for one in new]
    return SeenCallers(again, forget_s) if again else None, events


def _records(report: UseReport, now_s: float) -> list[AuditEvent]:
    """One of each caller and model, one of each address and reason of what was refused, and one of each caller and of what he
    looked at."""
    span = {"from_s": report.began_s, "to_s": report.ended_s, "process": report.where}
    events, together = list[AuditEvent](), defaultdict[tuple[str, str], list[tuple[UseKind, Used]]](list)
    for use, used in report.uses.items():
        if use.reason:
            detail = {"reason": use.reason, "times": used.calls, **span}
            events.append(AuditEvent(now_s, "", None, CREDENTIAL_REFUSED, use.principal, detail, use.door, use.address))
        elif use.what:
            detail = {"what": use.what, "times": used.calls, "rows": used.rows, **span}
            events.append(AuditEvent(now_s, use.model, None, LOOKED_AT, use.principal, detail, use.door))
        else:
            together[use.principal, use.model].append((use, used))
    for (principal, model), counted in together.items():
        calls, rows = (sum(part) for part in zip(*(used for _, used in counted), strict=True))
        detail = {"calls": calls, "rows": rows, **span, "uses": _apart(counted)}
        doors = {use.door for use, _ in counted}
        events.append(AuditEvent(now_s, model, None, USED, principal, detail, doors.pop() if len(doors) == 1 else ""))
    return events


def _apart(counted: list[tuple[UseKind, Used]]) -> list[dict[str, Any]]:
    """The most used first; what is beyond so many is summed up."""
    ordered = sorted(counted, key=lambda one: -one[1].calls)
    told = [
        {"version": use.version, "door": use.door, "outcome": use.outcome, "calls": used.calls, "rows": used.rows}
        for use, used in ordered[:TOLD_APART]
    ]
    rest = [used for _, used in ordered[TOLD_APART:]]
    if rest:
        more = {"calls": sum(used.calls for used in rest), "rows": sum(used.rows for used in rest)}
        told.append({"version": "", "door": "", "outcome": OTHERS, **more})
    return told
