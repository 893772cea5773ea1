"""boto3's clients for S3, SQS and SNS; maps their errors to Refused and Unavailable. Their messages are hidden: some
contain keys.

Nearly every error is Unavailable, also those that need an operator (a wrong key, no such bucket): a misconfiguration
must not kill thousands of deliveries. Refused is for errors caused by the delivery.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from botocore import exceptions as boto
from pydantic import SecretStr

from handlers.contract import Refused, Unavailable
from handlers.support.retry_after import retry_after

# By error code, without prefixes and the suffix Exception.
_REFUSED: Final[Mapping[str, str]] = {
    "KeyTooLongError": "the key is too long",
    "InvalidObjectName": "the server does not take this key",
    "XMinioInvalidObjectName": "the server does not take this key",
    "EntityTooLarge": "the object is too large for the server",
    "MetadataTooLarge": "the object's metadata is too large",
    "InvalidMessageContents": "the message has characters that the server does not take",
    "MessageTooLong": "the message is too long",
    "BatchRequestTooLong": "the message is too long",
}
_UNAVAILABLE: Final[Mapping[str, str]] = {
    "NoSuchBucket": "there is no such bucket",
    "QueueDoesNotExist": "there is no such queue",
    "NonExistentQueue": "there is no such queue",
    "NotFound": "there is no such topic",
    "AllAccessDisabled": "access is disabled",
    "AccountProblem": "the account has a problem",
    "InvalidAccessKeyId": "the access key is not known",
    "InvalidClientTokenId": "the access key is not known",
    "UnrecognizedClient": "the access key is not known",
    "SignatureDoesNotMatch": "the secret access key is wrong, or the clock is off",
    "RequestTimeTooSkewed": "this machine's clock is off",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is wrong",
    "PermanentRedirect": "the bucket is in another region, or wants another address style",
    "AuthorizationHeaderMalformed": "the region is wrong",
    "IllegalLocationConstraint": "the region is wrong",
    "InvalidStorageClass": "the server does not know the storage class",
    "InvalidTag": "the server does not take the tags",
    "NotImplemented": "the server can't do what was asked; some know no checksums (checksums: false)",
    "KMS.Disabled": "the encryption key is disabled",
    "KMS.NotFound": "there is no such encryption key",
    "QuotaExceeded": "the quota is used up",
    "InsufficientStorage": "the server's disk is full",
    "XMinioStorageFull": "the server's disk is full",
}
_DENIED: Final = frozenset({"AccessDenied", "AuthorizationError"})


def call_limits(timeout: float) -> tuple[float, float]:
    """Return the connect and read timeouts of one call, for a send of `timeout` seconds.

    boto3 cannot limit a whole send, so start a call only with more than their sum left.
    """
    return min(5.0, timeout / 6), min(60.0, timeout / 3)


def make_client(
    service: str, timeout: float, *, profile: str | None = None, config: Mapping[str, Any], **options: Any
) -> Any:
    """Return boto3's client of a service, without retries.

    Raises botocore's errors. `timeout`: seconds of a send; see `call_limits`. `config`: extra botocore settings.
    `options`: of boto3's client, may be secrets; empty ones use boto3's defaults.
    """
    import boto3  # takes 0.1 s, so only processes that send import it
    from botocore.config import Config

    limits = dict(zip(("connect_timeout", "read_timeout"), call_limits(timeout), strict=True))
    retries = {"total_max_attempts": 1, "mode": "standard"}
    given = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in options.items()
        if value is not None
    }
    # A new session, since boto3's default one is not thread-safe.
    session = boto3.session.Session(profile_name=profile)
    settings = Config(retries=retries, user_agent_extra="runhook", **limits, **config)
    return session.client(service, config=settings, **given)


def error_code(error: boto.ClientError) -> tuple[str, int]:
    """Return the service's error code, and the HTTP status."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code.rpartition("#")[2].removeprefix("AWS.SimpleQueueService.").removesuffix("Exception"), int(status)


def refusal(code: str) -> str:
    """Return why this error code is permanent, or ""."""
    return _REFUSED.get(code, "")


@contextmanager
def translated_errors(where: str, rights: str) -> Iterator[None]:
    """Raise Refused or Unavailable for service and network errors inside.

    `where`: prefix of messages, such as "bucket runs". `rights`: permissions that the access key needs.
    """
    try:
        yield
    except boto.ClientError as error:
        code, status = error_code(error)
        if reason := refusal(code):
            raise Refused(f"{where}: {reason}") from None
        if code == "NoSuchUpload":
            why = f"{where}: another worker stores the same file"
            raise Unavailable(why, retry_after=2.0, dependency=True) from None
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        words = _UNAVAILABLE.get(code) or f"the server answered {status} {code[:60] if code.isprintable() else ''}"
        words = f"access is denied: {rights} needed" if code in _DENIED else words.rstrip()
        raise Unavailable(f"{where}: {words}", retry_after=retry_after(headers, time.time())) from None
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.ProfileNotFound):
        raise Unavailable(f"{where}: no credentials found; set access_key_id, or AWS's variables") from None
    except boto.NoRegionError:
        raise Unavailable(f"{where}: region unknown; set region") from None
    except (boto.ConnectTimeoutError, boto.ReadTimeoutError):
        raise Unavailable(f"{where}: the server did not respond in time") from None
    except boto.EndpointConnectionError:
        raise Unavailable(f"{where}: the server can't be reached") from None
    except boto.ParamValidationError:
        raise Refused(f"{where}: invalid key or value") from None
    except (boto.BotoCoreError, OSError) as error:
        raise Unavailable(f"{where}: {type(error).__name__}") from None
