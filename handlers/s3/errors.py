"""Translate errors of S3 and boto3 into Refused and Unavailable. None of their messages is passed on: some hold keys.

Nearly every error is Unavailable, also one that only an operator can fix (a wrong key, no such bucket): thousands of
deliveries must not die because of one misconfiguration. Refused is for what the delivery itself causes: a key that S3
rejects.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as boto

from handlers.contract import Refused, Unavailable
from handlers.support.retry_after import retry_after

_REFUSED = {
    "KeyTooLongError": "the key is too long",
    "InvalidObjectName": "the server does not take this key",
    "XMinioInvalidObjectName": "the server does not take this key",
    "EntityTooLarge": "the object is too large for the server",
    "MetadataTooLarge": "the object's metadata is too large",
}
_MESSAGES = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "access is denied: s3:ListBucket, GetObject, PutObject and AbortMultipartUpload are needed",
    "AllAccessDisabled": "access is disabled",
    "AccountProblem": "the account has a problem",
    "InvalidAccessKeyId": "the access key is not known",
    "SignatureDoesNotMatch": "the secret access key is wrong, or the clock is off",
    "RequestTimeTooSkewed": "this machine's clock is off",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is wrong",
    "PermanentRedirect": "the bucket is in another region, or wants another address style",
    "AuthorizationHeaderMalformed": "the region is wrong",
    "IllegalLocationConstraintException": "the region is wrong",
    "InvalidStorageClass": "the server does not know the storage class",
    "InvalidTag": "the server does not take the tags",
    "NotImplemented": "the server can't do what was asked; some know no checksums (checksums: false)",
    "KMS.DisabledException": "the encryption key is disabled",
    "KMS.NotFoundException": "there is no such encryption key",
    "QuotaExceeded": "the quota is used up",
    "InsufficientStorage": "the server's disk is full",
    "XMinioStorageFull": "the server's disk is full",
}


def error_code(error: boto.ClientError) -> tuple[str, int]:
    """Return S3's error code, and the HTTP status."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(error.response.get("Error", {}).get("Code", "")), int(status)


def is_missing(error: boto.ClientError) -> bool:
    """Whether the object, not the bucket, is missing. (A HEAD has no body with a code.)"""
    code, status = error_code(error)
    return code in ("NoSuchKey", "404", "NotFound") and status == 404


@contextmanager
def translated_errors(bucket: str) -> Iterator[None]:
    """Raise Refused or Unavailable for errors of S3 and the network inside."""
    where = f"bucket {bucket}"
    try:
        yield
    except boto.ClientError as error:
        code, status = error_code(error)
        if code in _REFUSED:
            raise Refused(f"{where}: {_REFUSED[code]}") from None
        if code == "NoSuchUpload":
            why = f"{where}: another worker stores the same file"
            raise Unavailable(why, retry_after=2.0, dependency=True) from None
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        words = _MESSAGES.get(code) or f"the server answered {status} {code[:60]}".rstrip()
        raise Unavailable(f"{where}: {words}", retry_after=retry_after(headers, time.time())) from None
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.ProfileNotFound):
        raise Unavailable(f"{where}: no credentials were found") from None
    except (boto.ConnectTimeoutError, boto.ReadTimeoutError):
        raise Unavailable(f"{where}: the server did not answer in time") from None
    except boto.EndpointConnectionError:
        raise Unavailable(f"{where}: the server can't be reached") from None
    except boto.ParamValidationError:
        raise Refused(f"{where}: a key or value that S3 can't take") from None
    except (boto.BotoCoreError, OSError) as error:
        raise Unavailable(f"{where}: {type(error).__name__}") from None
