"""What was seen of a cluster, as values; judged elsewhere."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Seen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DiskSeen(_Seen):
    """The file system below `path`. `trouble` says why nothing could be written there; empty where it could."""

    path: str
    total_bytes: int = 0
    free_bytes: int = 0
    trouble: str = ""


class GpuSeen(_Seen):
    """A GPU as its driver tells of it."""

    name: str
    driver: str
    memory_mib: int


class MachineSeen(_Seen):
    """What one node says of itself.

    `packages` are versions of installed packages, `variables` those of Ray's that all nodes must agree on; None: not there.
    `gpus` is None where there is no driver. `visible` says of paths whether they are there, `reaches` of addresses why they were
    not reached (empty: they were), `taken` of ports whether something listens there.
    """

    python: str
    packages: dict[str, str | None] = Field(default_factory=dict)
    variables: dict[str, str | None] = Field(default_factory=dict)
    disks: tuple[DiskSeen, ...] = ()
    gpus: tuple[GpuSeen, ...] | None = None
    visible: dict[str, bool] = Field(default_factory=dict)
    reaches: dict[str, str] = Field(default_factory=dict)
    taken: dict[int, bool] = Field(default_factory=dict)


class ClockSeen(_Seen):
    """How far a node's clock is ahead of this machine's, give or take `error_s`."""

    ahead_s: float
    error_s: float


class MemberSeen(_Seen):
    """One node of the cluster: as Ray counts it, and as it says itself; `machine` is None where it did not answer, and
    `silent` says why. `object_store_bytes` is what Ray wants of /dev/shm there."""

    id: str
    address: str
    is_head: bool
    gpus: float = 0.0
    object_store_bytes: int = 0
    ports: dict[str, int] = Field(default_factory=dict)
    clock: ClockSeen | None = None
    machine: MachineSeen | None = None
    silent: str = ""


class TroubleSeen(_Seen):
    """Why something did not work, in words, and what to do."""

    where: str
    what: str
    remedy: str


class CopiesSeen(_Seen):
    """Of one Kafka's partitions: as `consumers.stream.kafka.check_up.PartitionCopies`."""

    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)

    partitions: int = 0
    lack: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    away: tuple[int, ...] = ()


class ClusterSeen(_Seen):
    """All that was seen.

    `ray` is its address, empty where none runs; then one of `members` is there, with no id: this machine. `here` has the versions
    of this command's own Python. `files` are files of versions that every node must see, by path, with what each is; `marker` is
    a file that was put beside the home's versions, in `home`. `store` is the store's URL without its password. Of `brokers`
    the nodes were asked to reach each; by how they are reached, `listeners` are those that each Kafka itself counts, `leaders`
    those of them that lead partitions or may, and `copies` are of what they keep. `troubles` are what store, Ray, controller and
    brokers themselves said.
    """

    ray: str
    here: MachineSeen
    members: tuple[MemberSeen, ...]
    store: str
    store_is_file: bool
    files: dict[str, str] = Field(default_factory=dict)
    home: str = ""
    marker: str = ""
    brokers: tuple[str, ...] = ()
    listeners: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    leaders: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    copies: dict[str, CopiesSeen] = Field(default_factory=dict)
    troubles: tuple[TroubleSeen, ...] = ()
