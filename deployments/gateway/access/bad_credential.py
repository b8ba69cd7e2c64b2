"""A credential that is not believed."""

from __future__ import annotations

from enum import StrEnum


class CredentialFault(StrEnum):
    """Why a credential is not believed: for counters and logs, never for who sent it."""

    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    """Not what it claims to be: no JWT, broken base64, odd JSON, claims of the wrong kind; no X.509."""
    CRITICAL_EXTENSION = "critical_extension"
    WRONG_TYPE = "wrong_type"
    """A token for another purpose, by its `typ`."""
    LACKS_CLAIM = "lacks_claim"
    UNKNOWN_ISSUER = "unknown_issuer"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_ALGORITHM = "wrong_algorithm"
    """Not one of the issuer's, or not one of the key's."""
    NO_KEYS = "no_keys"
    """None of the issuer's keys are here yet: what was sent may be good. Try again later."""
    UNKNOWN_KEY = "unknown_key"
    """The issuer may have a newer one, which is asked for now: what was sent may be good."""
    AMBIGUOUS_KEY = "ambiguous_key"
    BAD_SIGNATURE = "bad_signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    TOO_MANY_CLAIMS = "too_many_claims"
    NOTHING = "nothing"
    """Nothing was sent, and there is nothing that anybody may do."""
    NO_SUCH_KEY = "no_such_key"
    """No API key that lives, or a wrong secret."""
    NO_NAME = "no_name"
    """A certificate that names nobody."""


class BadCredential(Exception):
    """Its text is the same for all: who guesses learns nothing. `reason` is for counters and logs."""

    def __init__(self, reason: CredentialFault) -> None:
        super().__init__("the credential is not accepted")
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadCredential], tuple[CredentialFault]]:
        # BaseException would be made anew from its text.
        return (BadCredential, (self.reason,))
