"""Takes renewed certificates up while HAProxy runs: no connection ends for them, and new ones meet the new. Part of the keeper.

What does not hold is not taken: the old goes on. The two files of a pair are written one after the other, and so do not belong
together for a moment: what still does not hold at the next look is logged, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import BadInput
from deployments.gateway.door.certificates import looks_of, read_certificate, read_client_ca
from deployments.gateway.door.configuration import ADMIN, CERTIFICATE, CLIENT_CA
from deployments.gateway.door.settings import DoorTls

# What is not taken up, in words, for whoever looks after the door: there only while it is so.
REFUSED = "not-taken-up.txt"
LOOK_S = 1.0
ANSWERS_WITHIN_S = 5.0
SUCCESS = "Success!"

Log = Callable[[str], None]


@dataclass(slots=True)
class _Kept:
    """One file of HAProxy's, `name` in the door's folder, made of files of the operator's. `kind` is HAProxy's word for it;
    `used` is what HAProxy surely has, and `seen` what the files looked like then."""

    name: str
    kind: str
    sources: tuple[Path, ...]
    read: Callable[[], str]
    used: str = ""
    seen: tuple[object, ...] = ()
    trouble: str = ""
    logged: bool = False

    def looks_as(self) -> tuple[object, ...]:
        """Changes with whatever is done to the files."""
        return tuple(looks_of(path) for path in self.sources)


class Renewals:
    """Of one door. `starts` says how often HAProxy was started. Used on one event loop, but for `prepare`."""

    def __init__(self, tls: DoorTls, folder: Path, starts: Callable[[], int], log: Log) -> None:
        self._folder = folder
        self._starts = starts
        self._log = log
        pair = (Path(tls.certificate), Path(tls.key))
        self._kept = [_Kept(CERTIFICATE, "cert", pair, lambda: read_certificate(*pair).pem)]
        if tls.client_ca is not None:
            authorities = Path(tls.client_ca)
            self._kept.append(_Kept(CLIENT_CA, "ca-file", (authorities,), lambda: read_client_ca(authorities)))

    def prepare(self) -> None:
        """Writes what HAProxy starts with. Where the files do not hold, and a keeper before this one has left what did, that goes
        on; else BadInput is raised."""
        for kept in self._kept:
            looks, path = kept.looks_as(), self._folder / kept.name
            try:
                write_secret(path, kept.read())
            except BadInput as error:
                if not path.exists():
                    raise
                kept.trouble, kept.logged = _refusal(kept, error), True
                self._log(kept.trouble)
            else:
                kept.seen = looks
            kept.used = path.read_text(encoding="ascii")
        self._note()

    async def keep(self) -> None:
        """Looks each second, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)  # the files may lie on any file system: not all of them tell of changes
            for kept in self._kept:
                await self._look(kept)

    async def _look(self, kept: _Kept) -> None:
        looks = kept.looks_as()
        if looks == kept.seen:
            return
        try:
            pem = kept.read()  # here: between fork and exec of HAProxy there may be no other thread
            if pem != kept.used:
                await self._take_up(kept, pem)
                self._log(f"{_named(kept)} taken up: new connections meet what is new")
        except Exception as error:  # noqa: BLE001 (whatever is wrong with a file, the looks go on, and it is told)
            self._refuse(kept, error)
        else:
            kept.seen, kept.trouble, kept.logged = looks, "", False
            self._note()

    def _refuse(self, kept: _Kept, error: Exception) -> None:
        """Logs what was so at the last look too."""
        trouble = _refusal(kept, error)
        if trouble != kept.trouble:
            kept.trouble, kept.logged = trouble, False
        elif not kept.logged:
            kept.logged = True
            self._log(trouble)
            self._note()

    def _note(self) -> None:
        told = [kept.trouble for kept in self._kept if kept.logged]
        with contextlib.suppress(OSError):  # as of the log: a full disk keeps nobody from working
            if told:
                write_secret(self._folder / REFUSED, "\n".join(told))
            else:
                (self._folder / REFUSED).unlink(missing_ok=True)

    async def _take_up(self, kept: _Kept, pem: str) -> None:
        """Tells HAProxy, and writes what the next one starts with. Raises OSError or TimeoutError where it can't be told, and
        BadInput where it refuses."""
        path, starts = self._folder / kept.name, self._starts()
        kept.used = ""
        try:
            await self._tell(f"set ssl {kept.kind} {path} <<\n{pem}\n", "ransaction created")
            await self._tell(f"commit ssl {kept.kind} {path}\n", SUCCESS)
        except BadInput:
            await self._ask(f"abort ssl {kept.kind} {path}\n")
            raise
        write_secret(path, pem)
        if self._starts() != starts:
            raise OSError("HAProxy was started again meanwhile")  # maybe with the old: the next look tells it once more
        kept.used = pem

    async def _tell(self, command: str, wanted: str) -> None:
        said = await self._ask(command)
        if wanted not in said:
            raise BadInput(f"HAProxy does not take it: {' '.join(said.split())}", remedy="look at how it was made")

    async def _ask(self, command: str) -> str:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(self._folder / ADMIN)
            try:
                writer.write(command.encode("ascii"))
                return (await reader.read()).decode(errors="replace")
            finally:
                writer.close()


def write_secret(path: Path, text: str) -> None:
    """Replaces a file in one step; only this user can read it."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


def _named(kept: _Kept) -> str:
    return " and ".join(str(path) for path in kept.sources)


def _refusal(kept: _Kept, error: Exception) -> str:
    return f"{_named(kept)} not taken up, the old goes on: {str(error) or repr(error)}"
