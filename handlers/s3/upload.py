"""Upload a body of any length as one object, with a fixed amount of memory for all uploads together.

A body that fits one part is one PutObject. A longer one becomes a multipart upload whose parts are sent while the next
is filled. It is completed only when the body has ended well, and aborted otherwise, so no reader ever sees part of it.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from botocore.exceptions import BotoCoreError, ClientError

from handlers.contract import Unavailable
from handlers.s3.errors import error_code, translated_errors
from handlers.support.daemon_pool import DaemonPool
from handlers.support.deadline import Deadline

# Size of a part in bytes: 10,000 of them, S3's limit, are 80 GB.
PART = 8 * 1024 * 1024
# Parts in memory at once: one being filled and four being sent, or five runs that take turns.
BUFFERS = 5
_ABORT_WAIT = 5.0


class BufferPool:
    """A pool of BUFFERS reusable buffers of PART bytes, each made when first needed."""

    def __init__(self) -> None:
        self._slots = threading.BoundedSemaphore(BUFFERS)
        self._free: list[bytearray] = []

    def acquire(self, deadline: Deadline) -> bytearray:
        """Return a buffer with arbitrary contents. Raises Unavailable when none is free before the deadline."""
        if not self._slots.acquire(timeout=deadline.remaining()):
            # Not the bucket's fault as far as this delivery knows: whoever holds the buffers reports what is slow.
            raise Unavailable("too many large files at the same time", dependency=True)
        try:
            return self._free.pop()
        except IndexError:
            return bytearray(PART)

    def release(self, buffer: bytearray) -> None:
        """Put a buffer back into the pool."""
        self._free.append(buffer)
        self._slots.release()


def b64_sha256(body: bytes | bytearray) -> str:
    """Return the digest in the form of S3's x-amz-checksum-sha256."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def abort_leftovers(client: Any, bucket: str, key: str, before: float) -> None:
    """Abort uploads of an object that a crash has left: their parts cost money and nobody sees them.

    `before`: those that began before, in seconds since the epoch.
    """
    with suppress(ClientError):
        found = client.list_multipart_uploads(Bucket=bucket, Prefix=key)
        for upload in found.get("Uploads", ()):
            if upload.get("Key") == key and upload["Initiated"].timestamp() < before:
                client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload["UploadId"])


class Upload:
    """One object, written in pieces. Leaving the `with` without `finish` stores nothing.

    `put`: writes a short body as one object. `create`: returns the arguments of CreateMultipartUpload. `left_before`:
    uploads of the same object that began before (seconds since the epoch) are what a crash has left.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        key: str,
        *,
        buffers: BufferPool,
        pool: DaemonPool,
        deadline: Deadline,
        put: Callable[[bytes], None],
        create: Callable[[], Mapping[str, Any]],
        checksums: bool,
        left_before: float,
    ) -> None:
        self._client = client
        self._object = {"Bucket": bucket, "Key": key}
        self._buffers = buffers
        self._pool = pool
        self._deadline = deadline
        self._put = put
        self._create = create
        self._checksums = checksums
        self._left_before = left_before
        self._buffer: bytearray | None = None
        self._filled = 0
        self._upload_id = ""
        self._parts: dict[int, dict[str, Any]] = {}
        self._last_part = 0
        self._in_flight = 0
        self._error: Exception | None = None
        self._change = threading.Condition()

    def write(self, chunk: bytes | bytearray) -> None:
        """Append bytes; waits while all buffers are being sent. Raises what an earlier part failed with."""
        view = memoryview(chunk)
        while view:
            if self._filled == PART:
                self._send_buffer()
            if self._buffer is None:
                self._buffer = self._buffers.acquire(self._deadline)
            count = min(PART - self._filled, len(view))
            self._buffer[self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]

    def finish(self) -> None:
        """Store the object, since the body has ended well. Raises Refused or Unavailable."""
        if not self._upload_id:
            with translated_errors(self._object["Bucket"]):
                self._put(bytes(memoryview(self._buffer or b"")[: self._filled]))
            return
        self._send_buffer()
        self._wait(self._deadline)
        if self._error is not None:
            raise self._error
        parts = [self._parts[number] for number in sorted(self._parts)]
        with translated_errors(self._object["Bucket"]):
            self._client.complete_multipart_upload(
                **self._object, UploadId=self._upload_id, MultipartUpload={"Parts": parts}
            )
        self._upload_id = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._buffer is not None:
            self._buffers.release(self._buffer)
            self._buffer = None
        if self._upload_id:
            # Parts that arrive after the abort would remain stored and cost money.
            with suppress(Unavailable):
                self._wait(Deadline(_ABORT_WAIT))
            with suppress(ClientError, BotoCoreError, OSError):
                self._client.abort_multipart_upload(**self._object, UploadId=self._upload_id)

    def _send_buffer(self) -> None:
        """Hand the filled buffer to the thread pool as the next part."""
        if self._error is not None:
            raise self._error
        if not self._upload_id:
            with translated_errors(self._object["Bucket"]):
                abort_leftovers(self._client, self._object["Bucket"], self._object["Key"], self._left_before)
                answer = self._client.create_multipart_upload(**self._object, **self._create())
            self._upload_id = answer["UploadId"]
        buffer, filled = self._buffer, self._filled
        assert buffer is not None
        self._buffer, self._filled = None, 0
        self._last_part += 1
        number = self._last_part
        with self._change:
            self._in_flight += 1
        self._pool.submit(lambda: self._upload_part(number, buffer, filled))

    def _upload_part(self, number: int, buffer: bytearray, filled: int) -> None:
        error: Exception | None = None
        try:
            body = buffer if filled == PART else bytes(memoryview(buffer)[:filled])
            with translated_errors(self._object["Bucket"]):
                self._parts[number] = self._send_part(number, body)
        except Exception as caught:  # noqa: BLE001 - raised again by write or finish
            error = caught
        finally:
            self._buffers.release(buffer)
            with self._change:
                self._in_flight -= 1
                self._error = self._error or error
                self._change.notify_all()

    def _send_part(self, number: int, body: bytes | bytearray) -> dict[str, Any]:
        checksum = {"ChecksumSHA256": b64_sha256(body)} if self._checksums else {}
        again = True
        while True:
            self._deadline.remaining()
            try:
                answer = self._client.upload_part(
                    **self._object, UploadId=self._upload_id, PartNumber=number, Body=body, **checksum
                )
            except (ClientError, BotoCoreError) as error:
                # One immediate retry, since a whole gigabyte depends on it; after that the delivery's own retry policy.
                if not again or (isinstance(error, ClientError) and error_code(error)[1] < 500):
                    raise
                again = False
            else:
                return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

    def _wait(self, deadline: Deadline) -> None:
        with self._change:
            while self._in_flight:
                self._change.wait(deadline.remaining())
