"""Headrace's folder and settings: the one place that reads the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import BadInput

_PASSWORD = re.compile(r"(?<=://)([^:/@]*):.*@")


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that holds everything of one local Headrace: `.headrace/`, or HEADRACE_HOME."""

    root: Path

    @property
    def store(self) -> Path:
        """The SQLite file with versions, rollouts and feeds."""
        return self.root / "store.db"

    @property
    def artifacts(self) -> Path:
        """Packaged versions, one folder a digest."""
        return self.root / "artifacts"

    @property
    def logs(self) -> Path:
        """What the processes that `up` started have printed."""
        return self.root / "logs"

    @property
    def driver_log(self) -> Path:
        """What Ray has written of itself into our own commands."""
        return self.logs / "driver.log"

    @property
    def broker(self) -> Path:
        """The local broker's program, settings and data."""
        return self.root / "broker"

    @property
    def run_file(self) -> Path:
        """What `up` started: see `headrace.local.run_state`."""
        return self.root / "run.json"

    @property
    def declared_file(self) -> Path:
        """Policies that `up` keeps to until they are declared otherwise: see `headrace.local.declared`."""
        return self.root / "declared.json"

    @property
    def lock_file(self) -> Path:
        """Held while `up` or `down` works, so that two never meet."""
        return self.root / "run.lock"

    @property
    def ray_token(self) -> Path:
        """What the processes of this home's Ray know each other by: see `headrace.local.ray.token`."""
        return self.root / "ray-token"

    @property
    def key(self) -> Path:
        """What commands on what runs here are known by: see `headrace.local.home_key`."""
        return self.root / "key"

    @property
    def keys(self) -> Path:
        """Key-encryption keys of this machine: see `deployments.keys`."""
        return self.root / "keys"

    @property
    def audit_key(self) -> Path:
        """What signs the audit: see `headrace.audit.key`."""
        return self.root / "audit-key"

    @property
    def supervisor_file(self) -> Path:
        """Held by `up --supervise`, so that there is one."""
        return self.root / "supervisor.lock"

    def make(self) -> None:
        """Makes the folders that are missing, and closes the outermost to other users: what is in it is customers' data and
        models. Safe to repeat. Raises BadInput where that can't be done."""
        for folder in (self.root, self.artifacts, self.logs, self.broker):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if folder == self.root and folder.stat().st_mode & 0o077:
                    folder.chmod(0o700)
            except OSError as error:
                raise BadInput(
                    f"can't be made: {error.strerror}", where=str(folder), remedy="set HEADRACE_HOME to a folder of your own"
                ) from error


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says. Options of a command come before these.

    `url` is the gateway's address (HEADRACE_URL). `ray_address` is a running cluster to join
    (HEADRACE_RAY_ADDRESS, else RAY_ADDRESS), `bootstrap_servers` a running broker to use (KAFKA_BOOTSTRAP_SERVERS). `store_url`
    is any SQLAlchemy URL (HEADRACE_STORE_URL) and defaults to the home's SQLite file; `store_told`: it was said. `debug` shows
    tracebacks (HEADRACE_DEBUG=1). `token` is a key or token to call with (HEADRACE_TOKEN), `token_file` a file that has one
    (HEADRACE_TOKEN_FILE).

    `audit_places` are where checkpoints of the audit are kept (HEADRACE_AUDIT_CHECKPOINTS, by blanks): folders, URIs, topics.

    Of a gateway that is called over TLS, `ca_file` names whom to trust (HEADRACE_CA_FILE), and `client_cert` with `client_key` is
    what to show it (HEADRACE_CLIENT_CERT, HEADRACE_CLIENT_KEY): files in PEM.
    """

    home: Home
    url: str | None
    ray_address: str | None
    bootstrap_servers: str | None
    store_url: str
    debug: bool
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    audit_places: tuple[str, ...] = ()
    store_told: bool = False


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return _PASSWORD.sub(r"\1:***@", url)


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Reads the environment. An empty variable counts as one that is not set; touches no file."""
    seen = os.environ if environment is None else environment
    home = Home(Path(os.path.expanduser(seen.get("HEADRACE_HOME") or ".headrace")).absolute())
    return Settings(
        home=home,
        url=seen.get("HEADRACE_URL") or None,
        ray_address=seen.get("HEADRACE_RAY_ADDRESS") or seen.get("RAY_ADDRESS") or None,
        bootstrap_servers=seen.get("KAFKA_BOOTSTRAP_SERVERS") or None,
        store_url=seen.get("HEADRACE_STORE_URL") or f"sqlite:///{home.store}",
        debug=seen.get("HEADRACE_DEBUG", "") not in ("", "0"),
        token=seen.get("HEADRACE_TOKEN", "").strip() or None,
        token_file=Path(seen["HEADRACE_TOKEN_FILE"]) if seen.get("HEADRACE_TOKEN_FILE") else None,
        ca_file=seen.get("HEADRACE_CA_FILE") or None,
        client_cert=seen.get("HEADRACE_CLIENT_CERT") or None,
        client_key=seen.get("HEADRACE_CLIENT_KEY") or None,
        store_told=bool(seen.get("HEADRACE_STORE_URL")),
        audit_places=tuple(seen.get("HEADRACE_AUDIT_CHECKPOINTS", "").split()),
    )
