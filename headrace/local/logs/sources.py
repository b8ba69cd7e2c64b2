"""Whose log a file on a node is, by its name. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cluster.versions import VersionId

# Serve's: replica_{application}_{deployment}_{replica}.log. A model's name may hold an underscore, a deployment's does not.
_REPLICA = re.compile(r"(?:serve/)?replica_(?P<app>.+)_(?P<deployment>[A-Za-z]+)_(?P<replica>[a-z0-9]+)\.log")
GATEWAY_APP = "gateway"
STREAM_PREFIX = "stream--"


class LogKind(StrEnum):
    """What kind of process wrote it."""

    CONTROLLER = "controller"
    GATEWAY = "gateway"
    REPLICA = "replica"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class LogSource:
    """One log. `name` is the stream's or model's, with its `version`; `replica` is Serve's name of the process. It is read by its
    `file` on `node`, or as what the actor `actor` writes."""

    kind: LogKind
    node: str
    name: str = ""
    version: int | None = None
    replica: str = ""
    file: str = ""
    actor: str = ""

    @property
    def label(self) -> str:
        """As it stands before each line."""
        of = {LogKind.REPLICA: f"{self.name} version {self.version}", LogKind.STREAM: f"stream {self.name}"}.get(
            self.kind, self.kind
        )
        return f"{of} {self.replica}".rstrip()


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which are wanted; with nothing set, all. `model` wants its replicas, and the streams of `its_streams`."""

    model: str = ""
    version: int | None = None
    its_streams: frozenset[str] = frozenset()
    stream: str = ""
    gateway: bool = False
    controller: bool = False

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return not (self.model or self.stream or self.gateway or self.controller)

    def wants(self, source: LogSource) -> bool:
        """Whether it is one of those."""
        if self.everything:
            return True
        match source.kind:
            case LogKind.CONTROLLER:
                return self.controller
            case LogKind.GATEWAY:
                return self.gateway
            case LogKind.STREAM:
                return source.name == self.stream or (source.name in self.its_streams and self.version is None)
        return bool(self.model) and source.name == self.model and self.version in (None, source.version)


def source_of(file: str, node: str) -> LogSource | None:
    """Whose log that file is; None where it is none of ours."""
    found = _REPLICA.fullmatch(file)
    if found is None:
        return None
    app, replica = found["app"], found["replica"]
    if app == GATEWAY_APP:
        return LogSource(LogKind.GATEWAY, node, replica=replica, file=file)
    if app.startswith(STREAM_PREFIX):
        return LogSource(LogKind.STREAM, node, app.removeprefix(STREAM_PREFIX), replica=replica, file=file)
    version = VersionId.of_app(app)
    if version is None:
        return None
    return LogSource(LogKind.REPLICA, node, version.model, version.number, replica, file)


def sources_of(files: Mapping[str, Iterable[str]]) -> list[LogSource]:
    """All of ours among the files of each node."""
    return [found for node, names in files.items() for name in sorted(names) if (found := source_of(name, node)) is not None]
