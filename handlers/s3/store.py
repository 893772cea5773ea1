"""Keys and bytes in a bucket, through boto3. It knows no run and no order of things: the mirror does.

Each object is checked by the server against a SHA-256 as it arrives and carries it (x-amz-checksum-sha256; that of its
parts for a multipart upload), and has the whole body's in its metadata as `sha256` where that was known before.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from botocore.exceptions import ClientError

from handlers.contract import Delivery
from handlers.mirror.content_types import may_be_shown
from handlers.mirror.download import Incoming
from handlers.mirror.store import FETCHING_THREADS, MAX_DOCUMENT, ObjectTarget, Stored
from handlers.s3.errors import code_of, is_missing, spoken
from handlers.s3.options import S3Options, tag_value
from handlers.s3.upload import BUFFERS, Buffers, Upload, b64_sha256
from handlers.support import templating
from handlers.support.daemon_pool import DaemonPool
from handlers.support.guarded_client import Deadline

SMALL = 1024 * 1024
"""Bytes up to which a body needs no buffer of the stock."""
_MOVED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"})


class Bucket:
    """A store in a bucket. Safe to use from many threads; opens nothing before its first call."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._name = options.bucket
        self._lock = threading.Lock()
        self._made: Any = None
        self._heeds: bool | None = None
        """Whether the server heeds If-None-Match; some ignore it without a word."""
        self._buffers = Buffers()
        self._pool = DaemonPool(BUFFERS, "part")
        self._tags = {
            name: templating.compile(source, name=f"tags.{name}", finalize=tag_value, max_length=1024)
            for name, source in options.tags.items()
        }

    def close(self) -> None:
        """Let go of threads and connections."""
        self._pool.close()
        with self._lock:
            if self._made is not None:
                self._made.close()
                self._made = None

    def survey(self, directory: str, deadline: Deadline) -> Mapping[str, int]:
        found: dict[str, int] = {}
        more: dict[str, str] = {}
        while True:
            deadline.left()
            with spoken(self._name):
                page = self._client().list_objects_v2(Bucket=self._name, Prefix=directory, **more)
            for entry in page.get("Contents", ()):
                found[entry["Key"].removeprefix(directory)] = int(entry["Size"])
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def digest(self, key: str, size: int, deadline: Deadline) -> str | None:
        deadline.left()
        with spoken(self._name):
            try:
                head = self._client().head_object(Bucket=self._name, Key=key)
            except ClientError as error:
                if is_missing(error):
                    return None
                raise
        sha256 = head.get("Metadata", {}).get("sha256")
        return str(sha256) if sha256 and head.get("ContentLength") == size else None

    def read(self, key: str, deadline: Deadline) -> Stored | None:
        deadline.left()
        with spoken(self._name):
            try:
                answer = self._client().get_object(Bucket=self._name, Key=key)
            except ClientError as error:
                if is_missing(error):
                    return None
                raise
            with answer["Body"] as body:
                return Stored(body.read(MAX_DOCUMENT), str(answer["ETag"]))

    def put(self, target: ObjectTarget, body: bytes) -> None:
        with spoken(self._name):
            self._put(target, body)

    def create(self, target: ObjectTarget, body: bytes) -> bool:
        if self._heeds is False:
            return False
        written = self._put_if(target, body, IfNoneMatch="*")
        if self._heeds is None:
            self._heeds = (self._put_if(target, body, IfNoneMatch="*") if written else written) is False
        return bool(written)

    def receive(self, target: ObjectTarget, incoming: Incoming) -> None:
        encoding = {"ContentEncoding": incoming.content_encoding} if incoming.content_encoding else {}
        promised = incoming.artifact.sha256
        create = {"Metadata": {"sha256": promised}} if promised else {}
        if self._options.checksums:
            create["ChecksumAlgorithm"] = "SHA256"  # type: ignore[assignment]
        chunks = iter(incoming)
        head = bytearray()
        for chunk in chunks:
            head += chunk
            if len(head) > SMALL:
                break
        else:
            with spoken(self._name):
                self._put(target, bytes(head), **encoding)
            return
        upload = Upload(
            self._client(),
            self._name,
            target.key,
            buffers=self._buffers,
            pool=self._pool,
            deadline=target.deadline,
            put=lambda body: self.put_with(target, body, encoding),
            create=lambda: {**self._settings(target), **encoding, **create},
            checksums=self._options.checksums,
        )
        with upload:
            upload.feed(head)
            del head
            for chunk in chunks:
                upload.feed(chunk)
            upload.finish()

    def put_with(self, target: ObjectTarget, body: bytes, more: Mapping[str, Any]) -> None:
        """`put`, with more arguments of PutObject."""
        with spoken(self._name):
            self._put(target, body, **more)

    def swap(self, target: ObjectTarget, body: bytes, version: str | None) -> bool:
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        written = self._put_if(target, body, **condition)
        if written is None:
            # A server without conditional writes: what was read a moment ago has to do.
            self.put(target, body)
        return written is not False

    def place(self, key: str) -> str:
        return f"s3://{self._name}/{key}"

    def url(self, key: str, /) -> str:
        path, name = quote(key), self._name
        if self._options.endpoint_url is None:
            region = self._client().meta.region_name or "us-east-1"
            dotted = "." in name
            host = f"s3.{region}.amazonaws.com/{name}" if dotted else f"{name}.s3.{region}.amazonaws.com"
            return f"https://{host}/{path}"
        if self._path_style:
            return f"{self._options.endpoint_url}/{name}/{path}"
        parts = urlsplit(self._options.endpoint_url)
        return f"{parts.scheme}://{name}.{parts.netloc}{parts.path}/{path}"

    def _put_if(self, target: ObjectTarget, body: bytes, **condition: str) -> bool | None:
        """Whether it was written; None when the server knows no conditional writes, and then it was not."""
        with spoken(self._name):
            try:
                self._put(target, body, **condition)
            except ClientError as error:
                code, status = code_of(error)
                if code in _MOVED or status in (409, 412):
                    return False
                if code != "NotImplemented":
                    raise
                return None
        return True

    def _put(self, target: ObjectTarget, body: bytes, **more: Any) -> None:
        target.deadline.left()
        digest = b64_sha256(body)
        if self._options.checksums:
            more["ChecksumSHA256"] = digest
        self._client().put_object(
            Bucket=self._name,
            Key=target.key,
            Body=body,
            Metadata={"sha256": base64.b64decode(digest).hex()},
            **self._settings(target),
            **more,
        )

    def _settings(self, target: ObjectTarget) -> dict[str, Any]:
        options = self._options
        settings = {
            "ContentType": target.content,
            "CacheControl": "no-cache" if target.moves else None,
            "ContentDisposition": None if may_be_shown(target.content) else "attachment",
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

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                with spoken(self._name):
                    self._made = self._make()
            return self._made

    def _make(self) -> Any:
        # boto3 takes a tenth of a second to load: it is paid by the process that sends, not by every command.
        import boto3
        from botocore.config import Config

        options = self._options
        config = Config(
            connect_timeout=min(10.0, options.timeout),
            read_timeout=min(60.0, options.timeout),
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=FETCHING_THREADS + BUFFERS + 64,
            request_checksum_calculation="when_required",  # the right ones are given with each call
            response_checksum_validation="when_required",
            tcp_keepalive=True,
            s3={"addressing_style": "path" if self._path_style else "auto"},
            user_agent_extra="runhook",
        )

        def plain(secret: Any) -> str | None:
            return secret.get_secret_value() if secret is not None else None

        session = boto3.session.Session(
            profile_name=options.profile, region_name=options.region or ("us-east-1" if options.endpoint_url else None)
        )
        return session.client(
            "s3",
            endpoint_url=options.endpoint_url,
            aws_access_key_id=plain(options.access_key_id),
            aws_secret_access_key=plain(options.secret_access_key),
            aws_session_token=plain(options.session_token),
            config=config,
        )
