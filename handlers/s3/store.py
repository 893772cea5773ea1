"""Bytes by key in a bucket, through boto3. It knows no runs; the mirror chooses contents and order.

The server verifies and stores a SHA-256 of each object (x-amz-checksum-sha256; per part in a multipart upload). The
complete body's digest is in the metadata as `sha256`, if known before the upload.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from botocore.exceptions import ClientError

from handlers.contract import Delivery, ReadableFile, Unavailable
from handlers.mirror.download import IncomingFile
from handlers.mirror.names import is_inline_safe
from handlers.mirror.store import MAX_DOCUMENT, ObjectTarget, Stored
from handlers.s3.options import S3Options, tag_value
from handlers.support import templating
from handlers.support.aws import call_limits, error_code, make_client, translated_errors
from handlers.support.deadline import Deadline

# Maximum bytes of a body written in one request with its SHA-256; larger ones are streamed.
SMALL = 1024 * 1024
# Part size of a larger body: 10,000 parts, S3's limit, are 80 GB. Parts in memory, of all bodies together.
PART = 8 * 1024 * 1024
_PARTS_IN_MEMORY = 5
_THREADS = 4
# Bytes per read of an object.
_CHUNK = 256 << 10
_DELETED_AT_ONCE = 1000  # S3's maximum
_RIGHTS = "s3:ListBucket, GetObject, PutObject and AbortMultipartUpload are"
_PRECONDITION_FAILED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"})


class S3Store:
    """The Store protocol over a bucket. Thread-safe; opens nothing before its first call."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._name = options.bucket
        self._call_limit = sum(call_limits(options.timeout))  # maximum seconds of one call
        self._lock = threading.Lock()
        self._made: Any = None
        self._transfers: Any = None
        self._tags = {
            name: templating.compile(source, name=f"tags.{name}", finalize=tag_value, max_length=1024)
            for name, source in options.tags.items()
        }

    def close(self) -> None:
        """Close connections and let idle threads end."""
        with self._lock:
            if self._transfers is not None:
                self._transfers.shutdown(cancel=True)
            if self._made is not None:
                self._made.close()
            self._transfers = self._made = None

    def check(self) -> str:
        """Check that the bucket exists and access is allowed. Raises Unavailable."""
        try:
            with self._errors():
                self.client().head_bucket(Bucket=self._name)
        except Unavailable as error:  # a HEAD response has no body with an error code
            words = {"404": "there is no such bucket", "403": "access is denied; s3:ListBucket is needed to ask"}
            code = next((code for code in words if f"answered {code}" in str(error)), "")
            raise (Unavailable(f"bucket {self._name}: {words[code]}") if code else error) from None
        return f"the bucket {self._name} is there, and lets us in"

    def list_directory(self, directory: str, deadline: Deadline) -> Mapping[str, int]:
        """See Store. Reads all pages."""
        sizes: dict[str, int] = {}
        deadline.remaining(self._call_limit)
        with self._errors():
            for page in self.client().get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=directory):
                sizes |= {each["Key"].removeprefix(directory): int(each["Size"]) for each in page.get("Contents", ())}
                deadline.remaining(self._call_limit)
        return sizes

    def identify(self, key: str, size: int, deadline: Deadline) -> tuple[str, str] | None:
        """See Store. None when the object's metadata has no digest, or the object another size."""
        with self._errors():
            head = self._read_or_none("head_object", key, deadline)
        sha256 = head.get("Metadata", {}).get("sha256") if head else None
        if not head or not sha256 or head.get("ContentLength") != size:
            return None
        return str(sha256), str(head.get("ContentEncoding") or "")

    def read(self, key: str, deadline: Deadline) -> Stored | None:
        """See Store. The version is the ETag."""
        with self._errors():
            answer = self._read_or_none("get_object", key, deadline)
            if answer is None:
                return None
            with answer["Body"] as body:
                return Stored(body.read(MAX_DOCUMENT), str(answer["ETag"]))

    def find_file(self, key: str, deadline: Deadline) -> ReadableFile | None:
        """See Store. The version is the ETag."""
        with self._errors():
            head = self._read_or_none("head_object", key, deadline)
        if head is None:
            return None
        version = str(head["ETag"])
        return ReadableFile(
            int(head["ContentLength"]),
            version,
            str(head.get("ContentEncoding") or ""),
            lambda *part: self._part(key, version, *part),
        )

    def _part(self, key: str, version: str, start: int, end: int) -> Iterator[bytes]:
        """Yield an object's bytes from `start` to `end`. Raises Unavailable when its version has changed."""
        if start == end:
            return
        with self._errors():
            answer = self.client().get_object(
                Bucket=self._name, Key=key, IfMatch=version, Range=f"bytes={start}-{end - 1}"
            )
            with answer["Body"] as body:
                while chunk := body.read(_CHUNK):
                    yield chunk

    def put(self, target: ObjectTarget, body: bytes) -> None:
        """See Store."""
        with self._errors():
            self._put(target, body)

    def put_stream(self, target: ObjectTarget, incoming: IncomingFile) -> None:
        """See Store. Longer bodies go through boto3's transfer manager, which aborts the upload when reading fails."""
        encoding = {"ContentEncoding": incoming.content_encoding} if incoming.content_encoding else {}
        chunks = iter(incoming)
        head = bytearray()
        for chunk in chunks:
            head += chunk
            if len(head) > SMALL:
                break
        else:
            with self._errors():
                self._put(target, bytes(head), **encoding)
            return
        arguments: dict[str, Any] = {**self._settings(target), **encoding}
        if incoming.artifact.sha256:
            arguments["Metadata"] = {"sha256": incoming.artifact.sha256}
        if self._options.checksums:
            arguments["ChecksumAlgorithm"] = "SHA256"
        with self._errors():
            if target.delivery.attempt > 1:
                self._abort_uploads(target.key)
            self._transfer_manager().upload(_Body(head, chunks), self._name, target.key, arguments).result()

    def _abort_uploads(self, key: str) -> None:
        """Abort uploads left by killed attempts: their parts cost money and are not listed."""
        listing = self.client().list_multipart_uploads(Bucket=self._name, Prefix=key)
        for upload in listing.get("Uploads", ()):
            if upload["Key"] == key:
                self.client().abort_multipart_upload(Bucket=self._name, Key=key, UploadId=upload["UploadId"])

    def compare_and_swap(self, target: ObjectTarget, body: bytes, version: str | None) -> bool:
        """See Store. If the server lacks conditional writes, compares with the version just read."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with self._errors():
            try:
                self._put(target, body, **condition)
            except ClientError as error:
                code, status = error_code(error)
                if code in _PRECONDITION_FAILED or status in (409, 412):
                    return False
                if code != "NotImplemented":
                    raise
                self._put(target, body)
        return True

    def delete(self, keys: Sequence[str], deadline: Deadline) -> None:
        """See Store. Lists versions if the bucket reports that it keeps them."""
        left = [{"Key": key} for key in keys]
        while left:
            deadline.remaining()
            some, left = left[:_DELETED_AT_ONCE], left[_DELETED_AT_ONCE:]
            with self._errors():
                answer = self.client().delete_objects(Bucket=self._name, Delete={"Objects": some})
                for error in answer.get("Errors", ()):
                    raise Unavailable(f"bucket {self._name}: {error['Key']} is not deleted: {error.get('Code')}")
                for each in answer.get("Deleted", ()):
                    if each.get("DeleteMarker") and not each.get("VersionId"):
                        left += self._versions(each["Key"])

    def _versions(self, key: str) -> list[dict[str, str]]:
        pages = self.client().get_paginator("list_object_versions").paginate(Bucket=self._name, Prefix=key)
        kept = [each for page in pages for name in ("Versions", "DeleteMarkers") for each in page.get(name, ())]
        return [{"Key": key, "VersionId": each["VersionId"]} for each in kept if each["Key"] == key]

    def location(self, key: str) -> str:
        """Return the s3:// URI of `key`."""
        return f"s3://{self._name}/{key}"

    def url(self, key: str, /) -> str:
        """Return the HTTPS URL of `key`, at Amazon or at `endpoint_url`."""
        path, name = quote(key), self._name
        if self._options.endpoint_url is None:
            region = self.client().meta.region_name or "us-east-1"
            dotted = "." in name
            host = f"s3.{region}.amazonaws.com/{name}" if dotted else f"{name}.s3.{region}.amazonaws.com"
            return f"https://{host}/{path}"
        if self._path_style:
            return f"{self._options.endpoint_url}/{name}/{path}"
        parts = urlsplit(self._options.endpoint_url)
        return f"{parts.scheme}://{name}.{parts.netloc}{parts.path}/{path}"

    def _errors(self) -> AbstractContextManager[None]:
        return translated_errors(f"bucket {self._name}", _RIGHTS)

    def _read_or_none(self, method: str, key: str, deadline: Deadline) -> dict[str, Any] | None:
        """Return boto3's response for the object; None if missing."""
        deadline.remaining(self._call_limit)
        try:
            answer: dict[str, Any] = getattr(self.client(), method)(Bucket=self._name, Key=key)
        except ClientError as error:
            code, status = error_code(error)
            if status == 404 and code in ("NoSuchKey", "404", "NotFound"):  # the object is missing, not the bucket
                return None
            raise
        return answer

    def _put(self, target: ObjectTarget, body: bytes, **more: Any) -> None:
        target.deadline.remaining(self._call_limit)
        digest = hashlib.sha256(body)
        if self._options.checksums:
            more["ChecksumSHA256"] = base64.b64encode(digest.digest()).decode()
        self.client().put_object(
            Bucket=self._name,
            Key=target.key,
            Body=body,
            Metadata={"sha256": digest.hexdigest()},
            **self._settings(target),
            **more,
        )

    def _settings(self, target: ObjectTarget) -> dict[str, Any]:
        options = self._options
        settings = {
            "ContentType": target.content_type,
            "CacheControl": "no-cache" if target.mutable else None,
            "ContentDisposition": None if is_inline_safe(target.content_type) else "attachment",
            "StorageClass": options.storage_class,
            "ServerSideEncryption": options.sse,
            "SSEKMSKeyId": options.sse_kms_key_id,
            "Tagging": self._tagging(target.delivery) if self._tags else None,
        }
        return {name: value for name, value in settings.items() if value}

    def _tagging(self, delivery: Delivery) -> str:
        context = templating.context_of(delivery)
        return urlencode({name: template.render(context)[:256] for name, template in self._tags.items()})

    @property
    def _path_style(self) -> bool:
        return self._options.endpoint_url is not None if self._options.path_style is None else self._options.path_style

    def client(self) -> Any:
        """Return boto3's client, created at the first call."""
        with self._lock:
            if self._made is None:
                with self._errors():
                    self._made = self._make()
            return self._made

    def _transfer_manager(self) -> Any:
        """Return the transfer manager, shared by all uploads to bound their memory."""
        from boto3.s3.transfer import TransferConfig, create_transfer_manager

        client = self.client()
        with self._lock:
            if self._transfers is None:
                config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=_THREADS)
                config.max_in_memory_upload_chunks = _PARTS_IN_MEMORY
                self._transfers = create_transfer_manager(client, config)
            return self._transfers

    def _make(self) -> Any:
        options = self._options
        config = {
            "max_pool_connections": 100,
            "request_checksum_calculation": "when_required",  # passed explicitly with each call
            "response_checksum_validation": "when_required",
            "tcp_keepalive": True,
            "s3": {"addressing_style": "path" if self._path_style else "auto"},
        }
        return make_client(
            "s3",
            options.timeout,
            profile=options.profile,
            config=config,
            region_name=options.region or ("us-east-1" if options.endpoint_url else None),
            endpoint_url=options.endpoint_url,
            aws_access_key_id=options.access_key_id,
            aws_secret_access_key=options.secret_access_key,
            aws_session_token=options.session_token,
        )


class _Body:
    """A body that the transfer manager reads. Read errors reach the caller."""

    def __init__(self, head: bytearray, chunks: Iterator[bytes]) -> None:
        self._buffer = head
        self._chunks = chunks

    def read(self, size: int = sys.maxsize) -> bytes:
        """Return the next `size` bytes, fewer at the end."""
        while len(self._buffer) < size and (chunk := next(self._chunks, None)) is not None:
            self._buffer += chunk
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return data
