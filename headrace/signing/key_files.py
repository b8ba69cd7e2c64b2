"""The keys that sign versions, as files of a home: `signing/NAME.key`, which only its user may read, and `signing/NAME.pub`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.errors import BadInput, Conflict, NotFound
from cluster.versions import check_name
from deployments.keys.references import PEM, PRIVATE, PUBLIC
from deployments.keys.secret_file import read_secret, write_once
from deployments.signing.keys import PrivateSigningKey, TrustedKey, new_signing_key, signing_key, trusted_key
from headrace.local.home import Home

WHAT = "the signing key"


@dataclass(frozen=True, slots=True)
class SigningKeyFiles:
    """A key of a home. `private` is there where this machine may sign with it."""

    name: str
    private: Path
    public: Path

    @property
    def trusted(self) -> TrustedKey:
        """What it signs is known by. Raises BadInput, NotFound."""
        return trusted_key_in(self.public)


def signing_folder(home: Home) -> Path:
    """Where the home's signing keys are."""
    return home.root / "signing"


def make_signing_key(home: Home, name: str) -> SigningKeyFiles:
    """Makes a key of that name. Raises BadInput for a name that is none, Conflict where there is one: nothing is written over."""
    check_name(name, what="signing key")
    files = _files(home, name)
    home.make()
    files.private.parent.mkdir(mode=0o700, exist_ok=True)
    if files.private.exists() or files.public.exists():
        raise Conflict("there is such a key", where=str(files.public), remedy="take another name: what it signed must stay known")
    private, public = new_signing_key()
    write_once(files.private, private.decode())
    files.public.write_bytes(public)
    return files


def signing_keys(home: Home) -> list[SigningKeyFiles]:
    """All keys of the home, by name."""
    return [_files(home, file.stem) for file in sorted(signing_folder(home).glob(f"*{PUBLIC}"))]


def signing_key_named(home: Home, named: str, base: Path) -> PrivateSigningKey:
    """The key of that name, or in the file of that path from `base`.

    Raises NotFound where there is none, Conflict where others may read it, BadInput where it can't sign versions.
    """
    if PEM in named:  # not told again, in a log of CI for one
        raise BadInput("a key itself stands where one should be named", where="a signing key's name", remedy="put it in a file")
    is_path = "/" in named or Path(named).suffix != ""
    file = base / named if is_path else _files(home, named).private
    remedy = f"chmod 600 {file}, and make it your own"
    try:
        return signing_key(read_secret(file, what=WHAT, remedy=remedy).encode(), str(file))
    except FileNotFoundError as error:
        known = ", ".join(one.name for one in signing_keys(home)) or "none yet: `headrace signing new NAME` makes one"
        raise NotFound("there is no such signing key", where=str(file), remedy=f"keys of this home: {known}") from error
    except OSError as error:
        raise NotFound(f"the signing key can't be read: {error.strerror}", where=str(file), remedy="name a file") from error


def trusted_key_in(file: Path) -> TrustedKey:
    """The public key in a file, called by the file's name. Raises NotFound, BadInput."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise NotFound("the public key can't be read", where=str(file), remedy="name a PEM, e.g. signing/NAME.pub") from error
    return trusted_key(content, file.stem, str(file))


def _files(home: Home, name: str) -> SigningKeyFiles:
    folder = signing_folder(home)
    return SigningKeyFiles(name, folder / f"{name}{PRIVATE}", folder / f"{name}{PUBLIC}")
