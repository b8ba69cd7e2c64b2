"""Judges what nodes reach: each other, shared paths, brokers, and the ports of a door. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from headrace.doctor.problem import Problem, fault, warning
from headrace.doctor.seen import ClusterSeen, CopiesSeen, MachineSeen, MemberSeen

ELSEWHERE = "s3://BUCKET/artifacts"
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
            yield from _addresses(names, seen.listeners, member, member.machine)
            yield from _paths(seen, member, member.machine)
            yield from _door(member, member.machine)
    for brokers, copies in seen.copies.items():
        yield from _copies(brokers, copies)
    yield from _store(seen)


def _addresses(
    names: Mapping[str, str], listeners: Mapping[str, tuple[str, ...]], member: MemberSeen, machine: MachineSeen
) -> Iterator[Problem]:
    """`names` are those of Ray's own addresses; any other is a broker's: `listeners` as in `ClusterSeen`."""
    for address, why in machine.reaches.items():
        if not why:
            continue
        if address in names:
            remedy = (
                "open the ports between all nodes, in both directions: `ray start` can pin them (--node-manager-port and so on)"
            )
            yield fault("ports", member.address, f"it does not reach the {names[address]} at {address}: {why}", remedy)
        elif _spared(address, listeners, machine):
            what = f"it does not reach {address}, which its streams are told to begin with; others of that Kafka answer"
            remedy = "start the broker there again, or take it off the list (spec.brokers, KAFKA_BOOTSTRAP_SERVERS)"
            yield warning("Kafka", member.address, what, f"{remedy}. Streams go on, with one address less to begin with")
        else:
            remedy = (
                "check the address, and what is between: a firewall, a policy of the network, a name that this node does not know"
            )
            yield fault("Kafka", member.address, f"it does not reach the broker {address}: {why}", remedy)


def _spared(address: str, listeners: Mapping[str, tuple[str, ...]], machine: MachineSeen) -> bool:
    """Whether it is only one of the addresses that a Kafka is looked for at, no Kafka counts a broker there, and that one has
    another address that was reached. A broker that is counted leads partitions, which the node can't read."""
    if any(address in told for told in listeners.values()):
        return False
    tried = {brokers: [one.strip() for one in brokers.split(",")] for brokers in listeners}
    return any(
        address in begins and any(machine.reaches.get(one) == "" for one in (*begins, *listeners[brokers]))
        for brokers, begins in tried.items()
    )


def _paths(seen: ClusterSeen, member: MemberSeen, machine: MachineSeen) -> Iterator[Problem]:
    for path, there in machine.visible.items():
        if there:
            continue
        if path == seen.marker:
            what = f"it does not see {seen.home}, where `headrace build` puts versions"
            remedy = f"put HEADRACE_HOME on a disk that all nodes mount at that path, or build with --output {ELSEWHERE}"
            yield warning("shared paths", member.address, what, remedy)
        else:
            what = f"it does not see {path}, {seen.files.get(path, 'which it needs')}"
            remedy = (
                f"mount the disk that has it, at that path, on all nodes; or build it into an object store, --output {ELSEWHERE}"
            )
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
