"""A key-encryption key that HashiCorp Vault (or OpenBao) holds in its transit engine, and never gives away. Needs the extra
`vault`.

The address and who asks are Vault's own settings: VAULT_ADDR, VAULT_TOKEN or ~/.vault-token, VAULT_NAMESPACE, VAULT_CACERT.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import hvac
import requests
from hvac import exceptions as refusals

from cluster.errors import BadInput, Forbidden, NotFound, Unreachable
from deployments.keys.port import WrapAlgorithm, WrappedKey

TIMEOUT_S = 10.0
_HERE = ("localhost", "127.0.0.1", "::1")
_REFUSED = (refusals.Forbidden, refusals.Unauthorized)
_NEW_KEY_MADE = "give whoever seals `update` on transit/encrypt alone: with `create` a name that is mistyped makes a new key"


class VaultKey:
    """Implements `KeyHolder`. Asks anew each time: a token that Vault's agent renews is read when it is needed."""

    def __init__(self, mount: str, name: str, environment: Mapping[str, str]) -> None:
        """Raises BadInput where its token would go over a network in clear, or its address is none."""
        self._mount, self._name = mount, name
        self._address = environment.get("VAULT_ADDR") or "http://localhost:8200"
        self._namespace = environment.get("VAULT_NAMESPACE") or None
        try:
            parts = urlsplit(self._address)
        except ValueError as error:
            raise BadInput("is no address", where="VAULT_ADDR", remedy="write https://HOST:PORT") from error
        if parts.scheme != "https" and parts.hostname not in _HERE:
            raise BadInput("speaks in clear", where=f"VAULT_ADDR={self._address}", remedy="use https://")

    @property
    def key_id(self) -> str:
        """Its mount and name."""
        return f"vault:{self._mount}/{self._name}"

    @property
    def where(self) -> str:
        """See `KeyHolder.where`."""
        return f"{self.key_id} at {self._address}"

    @property
    def opens(self) -> bool:
        """Vault decides."""
        return True

    def wrap(self, data_key: bytes, info: bytes) -> WrappedKey:
        """See `KeyHolder.wrap`."""
        with self._telling("does not wrap"):
            answer = self._transit().encrypt_data(
                self._name, plaintext=_text(data_key), associated_data=_text(info), mount_point=self._mount
            )
            wrapped = str(answer["data"]["ciphertext"]).encode()
        return WrappedKey(key=self.key_id, algorithm=WrapAlgorithm.VAULT, wrapped=wrapped)

    def unwrap(self, wrapped: WrappedKey, info: bytes) -> bytes:
        """See `KeyHolder.unwrap`."""
        if wrapped.algorithm is not WrapAlgorithm.VAULT:
            raise Forbidden(f"the wrap is of another kind, {wrapped.algorithm}", where=self.where)
        with self._telling("does not open it"):
            answer = self._transit().decrypt_data(
                self._name,
                ciphertext=wrapped.wrapped.decode("ascii", errors="replace"),
                associated_data=_text(info),
                mount_point=self._mount,
            )
            return base64.b64decode(answer["data"]["plaintext"], validate=True)

    def _transit(self) -> Any:
        client = hvac.Client(url=self._address, namespace=self._namespace, timeout=TIMEOUT_S)
        return client.secrets.transit

    @contextmanager
    def _telling(self, refusal: str) -> Iterator[None]:
        try:
            yield
        except _REFUSED as error:
            raise Forbidden(
                "Vault refuses this process", where=self.where, remedy=f"see its token and policy; {_NEW_KEY_MADE}"
            ) from error
        except refusals.InvalidPath as error:
            raise NotFound("Vault has no such key or mount", where=self.where, remedy="name it MOUNT/NAME") from error
        except refusals.InvalidRequest as error:
            raise Forbidden(f"this key {refusal}, or its wrap was changed", where=self.where) from error
        except (refusals.VaultError, requests.RequestException) as error:
            remedy = "see VAULT_ADDR where this runs, and retry"
            raise Unreachable(f"Vault does not answer: {type(error).__name__}", where=self.where, remedy=remedy) from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            remedy = "see that VAULT_ADDR is Vault's own address"
            raise Unreachable("what answers is not Vault: it makes no sense", where=self.where, remedy=remedy) from error


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def vault_key(place: str, environment: Mapping[str, str] | None = None) -> VaultKey:
    """The key at MOUNT/NAME. Raises BadInput."""
    mount, _, name = place.rpartition("/")
    if not mount or not name:
        raise BadInput(
            "names no key of Vault's", where=f"vault:{place}", remedy="write vault:MOUNT/NAME, e.g. vault:transit/prod"
        )
    return VaultKey(mount, name, os.environ if environment is None else environment)
