"""Who calls: from what he brings, by what the controller has published. What each may do is asked where it is done."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from cluster.access.callers import ADDRESS_MOST, STRANGER, VISITOR, Caller
from cluster.access.keys import PREFIX, find_key
from cluster.access.policy import AccessPolicy
from cluster.access.quotas import Bucket
from cluster.errors import OverQuota, Unauthenticated, Unreachable
from cluster.routing.routes import RouteTable
from cluster.watch.catalogue import REFUSED_CREDENTIALS
from deployments.gateway.access.bad_credential import BadCredential, CredentialFault
from deployments.gateway.access.certificates import names_of
from deployments.gateway.access.credential import NOTHING, Credential, secret_of
from deployments.gateway.access.key_sets import KeySets
from deployments.gateway.access.tokens import verify_token
from deployments.observe.meters import Meters

KNOWN_S = 60.0  # so long somebody is known before he is looked up again; what ends him earlier is a newer table
KNOWN_MOST = 4096
# Of one address: so many wrong credentials at once, then one a second. Who is known already does not notice.
WRONG_PER_S, ADDRESSES_MOST = 1.0, 10_000
WRONG_AT_ONCE = 10.0
TELL_EVERY_S = 10.0
FOREIGN_PAGE = "foreign_page"

_log = logging.getLogger(__name__)


class Tables(Protocol):
    """Where the newest table is."""

    @property
    def table(self) -> RouteTable:
        """The newest table it has seen."""


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    until_s: float
    policy: int  # which one it comes of


class Guard:
    """Used on one event loop."""

    def __init__(
        self, tables: Tables, *, visitors: bool, clock: Callable[[], float] = time.time, meters: Meters | None = None
    ) -> None:
        """`visitors`: where no Access document was applied, who brings nothing may score and see."""
        self.behind_door = False
        self.refused: Counter[CredentialFault] = Counter()
        self._tables, self._visitors, self._clock, self._meters = tables, visitors, clock, meters or Meters()
        self._policy: AccessPolicy | None = None
        self._policies = 0  # seen so far
        self._nobody = STRANGER
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._wrong: OrderedDict[bytes, Bucket] = OrderedDict()
        self._told_s = 0.0
        self._untold = 0
        self._key_sets = KeySets()

    @property
    def policy(self) -> AccessPolicy:
        """What the controller has published last."""
        return self._tables.table.access

    def start(self, *, behind_door: bool) -> None:
        """Begins to ask issuers for their keys, on the running event loop. `behind_door`: what the door says of a caller is
        believed from now on, for nobody else reaches this gateway."""
        self.behind_door = behind_door
        self._key_sets.start()

    async def close(self) -> None:
        """Asks no more. Safe to repeat."""
        await self._key_sets.close()

    def admitted(self, credential: Credential, address: bytes = b"") -> Caller:
        """Who calls. Raises Unauthenticated where he brings nothing and so may do nothing, or what he brings is no good;
        OverQuota where too much of that came from his address."""
        policy = self._tables.table.access
        if policy is not self._policy:
            self._take_up(policy)
        if credential is NOTHING or credential == NOTHING:
            if self._tables.table.number == 0:
                raise _not_yet()
            if not self._nobody.grants:
                raise self._refuse(CredentialFault.NOTHING, address)
            return self._nobody
        brought = b"\0".join(credential) if credential.certificate else credential.authorization
        mark = hashlib.sha256(brought).digest()
        known, now_s = self._known.get(mark), self._clock()
        if known is not None and now_s < known.until_s and known.policy == self._policies:
            return known.caller
        # Who was good is not made to wait for others' wrong keys: whoever shares a proxy's address could lock him out.
        self._known.pop(mark, None)
        self._known[mark] = known = self._look_up(policy, credential, address, now_s, seen=known is not None)
        while len(self._known) > KNOWN_MOST:
            self._known.popitem(last=False)
        return known.caller

    def _take_up(self, policy: AccessPolicy) -> None:
        self._policy, self._policies = policy, self._policies + 1
        self._key_sets.follow(policy.issuers)
        if policy.document is not None:
            self._nobody = policy.of_nobody()
        else:
            self._nobody = VISITOR if self._visitors else STRANGER

    def _look_up(self, policy: AccessPolicy, credential: Credential, address: bytes, now_s: float, *, seen: bool) -> _Known:
        """`seen`: he was good before."""
        wrong = None if seen else self._wrong.get(address)
        if wrong is not None and wrong.fill(now_s) <= 0:
            raise OverQuota("too many wrong keys came from this address", where="Authorization", remedy="retry in a second")
        try:
            return self._found(policy, credential, now_s)
        except BadCredential as error:
            if self._tables.table.number == 0 or error.reason is CredentialFault.NO_KEYS:
                raise _not_yet() from None
            if address and not seen and error.reason is not CredentialFault.UNKNOWN_KEY:  # which may be a new one
                self._note_wrong(address, now_s)
            raise self._refuse(error.reason, address) from None

    def _found(self, policy: AccessPolicy, credential: Credential, now_s: float) -> _Known:
        """Raises BadCredential."""
        if not credential.authorization:
            try:
                der = base64.b64decode(credential.certificate, validate=True)
            except binascii.Error:
                raise BadCredential(CredentialFault.MALFORMED) from None
            named = names_of(der, now_s)
            caller = policy.of_certificate(named.names)
            if policy.document is None:  # it says nothing of him yet: he is let in as who brings nothing
                caller = replace(caller, grants=self._nobody.grants)
            return _Known(caller, min(now_s + KNOWN_S, named.until_s), self._policies)
        secret = secret_of(credential.authorization)
        if secret is None:
            raise BadCredential(CredentialFault.MALFORMED)
        if secret.startswith(PREFIX):
            key = find_key(policy.keys, secret, now_s)
            if key is None:
                raise BadCredential(CredentialFault.NO_SUCH_KEY)
            until_s = now_s + KNOWN_S if key.expires_s is None else min(now_s + KNOWN_S, key.expires_s)
            return _Known(policy.of_key(key), until_s, self._policies)
        token = verify_token(secret, self._key_sets, now_s)
        return _Known(
            policy.of_token(token.issuer, token.subject, token.claims), min(now_s + KNOWN_S, token.until_s), self._policies
        )

    def _note_wrong(self, address: bytes, now_s: float) -> None:
        bucket = self._wrong.setdefault(address, Bucket.full(WRONG_PER_S, now_s, WRONG_AT_ONCE))
        bucket.take(1)
        while len(self._wrong) > ADDRESSES_MOST:
            self._wrong.popitem(last=False)

    def foreign_page(self, address: bytes) -> None:
        """Counts, for the audit, a command that a page of another site wanted to give."""
        self._tell_audit(FOREIGN_PAGE, address)

    def _tell_audit(self, reason: str, address: bytes) -> None:
        self._meters.uses.refused(reason, address[:ADDRESS_MOST].decode("latin-1"), "")

    def _refuse(self, reason: CredentialFault, address: bytes) -> Unauthenticated:
        """Counted by reason, and for the audit by address; told to the caller without a reason, who could learn from it."""
        self.refused[reason] += 1
        self._meters.add(REFUSED_CREDENTIALS, 1, reason)
        self._tell_audit(reason, address)
        self._untold += 1
        now_s = self._clock()
        if now_s - self._told_s >= TELL_EVERY_S:
            counted = ", ".join(f"{reason} {times}" for reason, times in self.refused.most_common())
            _log.warning("%d callers refused since this was said last; in all: %s", self._untold, counted)
            self._told_s, self._untold = now_s, 0
        return Unauthenticated(
            "this needs a key or token, and none that is good here came with it",
            where="Authorization",
            remedy="send `Authorization: Bearer KEY`; `headrace key create` makes keys",
        )


def _not_yet() -> Unreachable:
    return Unreachable("who may call is not known yet", where="gateway", remedy="retry in a second")
