"""A key-encryption key that AWS KMS holds, and never gives away. Needs the extra `aws`.

The region and who asks are AWS's own settings: AWS_REGION, AWS_PROFILE, the machine's role and so on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import boto3
import botocore.config
import botocore.exceptions

from cluster.errors import BadInput, Forbidden, HeadraceError, NotFound, Unreachable
from deployments.keys.port import WrapAlgorithm, WrappedKey

TIMEOUT_S = 10
# What KMS says where another key, another purpose or a changed wrap is at fault.
_WRONG = frozenset({"InvalidCiphertextException", "IncorrectKeyException", "InvalidKeyUsageException"})
_STATE = frozenset({"DisabledException", "KMSInvalidStateException"})
# AWS names refusals of who asks in many ways; what is none of these is not its answer to the question.
_AWAY = frozenset({"DependencyTimeoutException", "KMSInternalException", "KeyUnavailableException", "ThrottlingException"})


class AwsKmsKey:
    """Implements `KeyHolder`."""

    def __init__(self, key: str) -> None:
        """`key` is a key's id, ARN or alias (`alias/NAME`), as KMS takes it."""
        if not key:
            raise BadInput("names no key of AWS KMS", where="aws-kms:", remedy="write aws-kms:KEY, an id, ARN or alias/NAME")
        self._key = key

    @property
    def key_id(self) -> str:
        """As it was named."""
        return f"aws-kms:{self._key}"

    @property
    def where(self) -> str:
        """See `KeyHolder.where`."""
        return self.key_id

    @property
    def opens(self) -> bool:
        """KMS decides."""
        return True

    def wrap(self, data_key: bytes, info: bytes) -> WrappedKey:
        """See `KeyHolder.wrap`."""
        with self._telling("does not wrap"):
            answer = self._client.encrypt(KeyId=self._key, Plaintext=data_key, EncryptionContext=_context(info))
            return WrappedKey(key=self.key_id, algorithm=WrapAlgorithm.AWS_KMS, wrapped=answer["CiphertextBlob"])

    def unwrap(self, wrapped: WrappedKey, info: bytes) -> bytes:
        """See `KeyHolder.unwrap`."""
        if wrapped.algorithm is not WrapAlgorithm.AWS_KMS or not wrapped.wrapped:
            raise Forbidden(f"the wrap is of another kind, {wrapped.algorithm}", where=self.where)
        with self._telling("does not open it"):
            answer = self._client.decrypt(KeyId=self._key, CiphertextBlob=wrapped.wrapped, EncryptionContext=_context(info))
            return bytes(answer["Plaintext"])

    @cached_property
    def _client(self) -> Any:
        region = self._key.split(":")[3] if self._key.startswith("arn:") and self._key.count(":") >= 5 else None
        config = botocore.config.Config(
            connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries={"mode": "standard", "max_attempts": 3}
        )
        return boto3.session.Session().client("kms", region_name=region, config=config)

    @contextmanager
    def _telling(self, refusal: str) -> Iterator[None]:
        try:
            yield
        except botocore.exceptions.ClientError as error:
            raise self._told(error, refusal) from error
        except (botocore.exceptions.NoRegionError, botocore.exceptions.NoCredentialsError) as error:
            raise Forbidden(
                f"nothing says who asks AWS: {type(error).__name__}",
                where=self.where,
                remedy="set AWS_REGION, and a role or profile",
            ) from error
        except botocore.exceptions.BotoCoreError as error:
            raise Unreachable(f"AWS KMS does not answer: {type(error).__name__}", where=self.where, remedy="retry") from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            remedy = "see AWS_ENDPOINT_URL_KMS, where it is set"
            raise Unreachable("what answers is not AWS KMS: it makes no sense", where=self.where, remedy=remedy) from error

    def _told(self, error: botocore.exceptions.ClientError, refusal: str) -> HeadraceError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _WRONG:
            return Forbidden(f"this key {refusal}, or its wrap was changed", where=self.where)
        if code == "NotFoundException":
            return NotFound("AWS KMS has no such key", where=self.where, remedy="name its id, ARN or alias/NAME")
        if code in _AWAY or status >= 500:
            return Unreachable(f"AWS KMS does not answer: {code}", where=self.where, remedy="retry")
        remedy = "enable it" if code in _STATE else "see this process's role and the key's policy"
        return Forbidden(f"AWS KMS refuses: {code}", where=self.where, remedy=remedy)


def _context(info: bytes) -> dict[str, str]:
    # Stands in clear in AWS's own audit.
    return {"headrace": hashlib.sha256(info).hexdigest()}
