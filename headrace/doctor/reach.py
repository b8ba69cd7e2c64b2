"""Judges what nodes reach: each other, shared paths, brokers, and the ports of a door. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from headrace.doctor.problem import Problem, fault, warning
from headrace.doctor.seen import ClusterSeen, CopiesSeen, MachineSeen, MemberSeen

ELSEWHERE = "--output s3://BUCKET/artifacts --register"
NAMES_MOST = 3


def judge_reach(seen: ClusterSeen) -> Iterator[Problem]:
    """Of every node that answered."""
    for trouble in seen.troubles:
        yield fault("services", trouble.where, trouble.what, trouble.remedy)
    names = {
        f"{other.address}:{port}": f"{name} of {other.address}" for other in seen.members for name, port in other.ports.items()
    }
    for member in seen.members:
        if member.machine is not None:
            yield from _addresses(names, seen, member, member.machine)
            yield from _paths(seen, member, member.machine)
            yield from _door(member, member.machine)
    for brokers, copies in seen.copies.items():
        yield from _copies(brokers, copies)
    yield from _store(seen)


def _addresses(names: Mapping[str, str], seen: ClusterSeen, member: MemberSeen, machine: MachineSeen) -> Iterator[Problem]:
    """`names` are those of Ray's own addresses; any other is a broker's."""
    for address, why in machine.reaches.items():
        if not why:
            continue
        if address in names:
            remedy = (
                "open the ports between all nodes, in both directions: `ray start` can pin them (--node-manager-port and so on)"
            )
            yield fault("ports", member.address, f"it does not reach the {names[address]} at {address}: {why}", remedy)
        elif _spared(address, seen, machine):
            counted = any(address in told for told in seen.listeners.values())
            which = "a broker that leads no partition now" if counted else "which its streams are told to begin with"
            what = f"it does not reach {address}, {which}; others of that Kafka answer"
            other = "open the way to it" if counted else "take it off the list (spec.brokers, KAFKA_BOOTSTRAP_SERVERS)"
            remedy = f"start the broker there again if it is down, or {other}. Streams go on, with one broker less"
            yield warning("Kafka", member.address, what, remedy)
        else:
            remedy = (
                "check the address, and what is between: a firewall, a policy of the network, a name that this node does not know"
            )
            yield fault("Kafka", member.address, f"it does not reach the broker {address}: {why}", remedy)


def _spared(address: str, seen: ClusterSeen, machine: MachineSeen) -> bool:
    """Whether no broker leads partitions there, which the node could not read, and another address of the same Kafka was
    reached."""
    if any(address in leading for leading in seen.leaders.values()):
        return False
    known = [{*(one.strip() for one in brokers.split(",")), *there} for brokers, there in seen.listeners.items()]
    return any(address in all_ and any(machine.reaches.get(one) == "" for one in all_) for all_ in known)


def _paths(seen: ClusterSeen, member: MemberSeen, machine: MachineSeen) -> Iterator[Problem]:
    for path, there in machine.visible.items():
        if there:
            continue
        if path == seen.marker:
            what = f"it does not see {seen.home}, where `headrace build` puts versions"
            remedy = f"put HEADRACE_HOME on a disk that all nodes mount at that path, or build with {ELSEWHERE}"
            yield warning("shared paths", member.address, what, remedy)
        else:
            what = f"it does not see {path}, {seen.files.get(path, 'which it needs')}"
            remedy = f"mount the disk that has it, at that path, on all nodes; or build it into an object store, {ELSEWHERE}"
            yield fault("shared paths", member.address, what, remedy)


def _door(member: MemberSeen, machine: MachineSeen) -> Iterator[Problem]:
    for port, taken in machine.taken.items():
        if taken:
            remedy = "end what has it, or choose others for all nodes with --http-port and --grpc-port"
            yield warning("ports", f"{member.address}:{port}", "something listens there: no door could open on this node", remedy)


def _copies(brokers: str, copies: CopiesSeen) -> Iterator[Problem]:
    if not copies.lack:
        return
    numbers = ", ".join(map(str, copies.away))
    who = f"of its brokers away: {numbers}" if copies.away else "no broker is away, but one lags behind"
    again = (
        f"start broker {numbers} again; its log says why it ended"
        if copies.away
        else "look at the load and the disks of its brokers"
    )
    if copies.stopped:
        what = f"{who}; {_few(copies.stopped, copies.partitions)} take no records: too few of their copies are in sync"
        yield fault("Kafka", brokers, what, f"{again}. Streams wait, lose nothing, and go on by themselves")
    else:
        what = f"{who}; {_few(copies.lack, copies.partitions)} are under-replicated: they lack a copy that should be in sync"
        yield warning("Kafka", brokers, what, f"{again}. Streams go on, but one more that is lost may stop them")


def _few(names: tuple[str, ...], of: int) -> str:
    more = ", ..." if len(names) > NAMES_MOST else ""
    return f"{len(names)} of {of} partitions ({', '.join(names[:NAMES_MOST])}{more})"


def _store(seen: ClusterSeen) -> Iterator[Problem]:
    if seen.store_is_file and len(seen.members) > 1:
        yield warning(
            "store",
            seen.store,
            "versions, rollouts and streams are in a file on the head's disk: when that is lost, all of it is",
            "set HEADRACE_STORE_URL to a PostgreSQL, e.g. postgresql+psycopg://headrace@HOST/headrace",
        )
