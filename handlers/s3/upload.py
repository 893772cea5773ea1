"""Bodies of any length into one object, with a fixed amount of memory for all uploads together.

What fits one part is one PutObject. More becomes a multipart upload whose parts travel while the next is being filled;
it is completed only when the body has ended well, and aborted otherwise, so no reader ever sees a part of it. Buffers
are lent from one small stock and used again.
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
from handlers.s3.errors import code_of, spoken
from handlers.support.daemon_pool import DaemonPool
from handlers.support.guarded_client import Deadline

PART = 8 * 1024 * 1024
"""Bytes of a part: 10,000 of them, S3's limit, are 80 GB."""
BUFFERS = 5
"""Parts in memory at one time: one that is filled and four that travel, or five runs that take turns."""
_ABORT_WAIT = 5.0


class Buffers:
    """A stock of buffers of PART bytes, made when first needed."""

    def __init__(self, count: int = BUFFERS) -> None:
        self._slots = threading.BoundedSemaphore(count)
        self._free: list[bytearray] = []

    def take(self, deadline: Deadline) -> bytearray:
        """A buffer with anything in it. Raises Unavailable when none comes free before the deadline."""
        if not self._slots.acquire(timeout=deadline.left()):
            # Whoever holds them for too long, the bucket or a server that trickles, is told of there.
            raise Unavailable("too many large files at the same time", dependency=True)
        try:
            return self._free.pop()
        except IndexError:
            return bytearray(PART)

    def give(self, buffer: bytearray) -> None:
        """Take a buffer back."""
        self._free.append(buffer)
        self._slots.release()


def b64_sha256(body: bytes | bytearray) -> str:
    """The digest in the form of S3's x-amz-checksum-sha256."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


class Upload:
    """One object, fed in pieces. Leaving the `with` without `finish` leaves nothing behind.

    `put`: writes a short body as one object. `create`: the arguments of CreateMultipartUpload, if there is to be one.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        key: str,
        *,
        buffers: Buffers,
        pool: DaemonPool,
        deadline: Deadline,
        put: Callable[[bytes], None],
        create: Callable[[], Mapping[str, Any]],
        checksums: bool,
    ) -> None:
        self._client = client
        self._object = {"Bucket": bucket, "Key": key}
        self._buffers = buffers
        self._pool = pool
        self._deadline = deadline
        self._put = put
        self._create = create
        self._checksums = checksums
        self._buffer: bytearray | None = None
        self._filled = 0
        self._upload_id = ""
        self._parts: dict[int, dict[str, Any]] = {}
        self._begun = 0
        self._travelling = 0
        self._error: Exception | None = None
        self._change = threading.Condition()

    def feed(self, chunk: bytes | bytearray) -> None:
        """Take the next bytes; waits while all buffers travel."""
        view = memoryview(chunk)
        while view:
            if self._filled == PART:
                self._depart()
            if self._buffer is None:
                self._buffer = self._buffers.take(self._deadline)
            count = min(PART - self._filled, len(view))
            self._buffer[self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]

    def finish(self) -> None:
        """The body has ended well: make the object appear."""
        if not self._upload_id:
            self._put(bytes(memoryview(self._buffer or b"")[: self._filled]))
            return
        self._depart()
        self._wait(self._deadline)
        if self._error is not None:
            raise self._error
        parts = [self._parts[number] for number in sorted(self._parts)]
        with spoken(self._object["Bucket"]):
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
            self._buffers.give(self._buffer)
            self._buffer = None
        if self._upload_id:
            # Parts that arrive after the abort would stay and cost money.
            with suppress(Unavailable):
                self._wait(Deadline(_ABORT_WAIT))
            with suppress(ClientError, BotoCoreError, OSError):
                self._client.abort_multipart_upload(**self._object, UploadId=self._upload_id)

    def _depart(self) -> None:
        """Send the buffer on its way."""
        if self._error is not None:
            raise self._error
        if not self._upload_id:
            with spoken(self._object["Bucket"]):
                self._abort_left_over()
                answer = self._client.create_multipart_upload(**self._object, **self._create())
            self._upload_id = answer["UploadId"]
        buffer, filled = self._buffer, self._filled
        assert buffer is not None
        self._buffer, self._filled = None, 0
        self._begun += 1
        number = self._begun
        with self._change:
            self._travelling += 1
        self._pool.submit(lambda: self._travel(number, buffer, filled))

    def _travel(self, number: int, buffer: bytearray, filled: int) -> None:
        error: Exception | None = None
        try:
            body = buffer if filled == PART else bytes(memoryview(buffer)[:filled])
            with spoken(self._object["Bucket"]):
                self._parts[number] = self._send_part(number, body)
        except Exception as caught:  # noqa: BLE001 - raised again by whoever feeds
            error = caught
        finally:
            self._buffers.give(buffer)
            with self._change:
                self._travelling -= 1
                self._error = self._error or error
                self._change.notify_all()

    def _send_part(self, number: int, body: bytes | bytearray) -> dict[str, Any]:
        checksum = {"ChecksumSHA256": b64_sha256(body)} if self._checksums else {}
        again = True
        while True:
            self._deadline.left()
            try:
                answer = self._client.upload_part(
                    **self._object, UploadId=self._upload_id, PartNumber=number, Body=body, **checksum
                )
            except (ClientError, BotoCoreError) as error:
                # A second time at once, for a whole gigabyte hangs on it; after that the caller's retry has its turn.
                if not again or (isinstance(error, ClientError) and code_of(error)[1] < 500):
                    raise
                again = False
            else:
                return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

    def _wait(self, deadline: Deadline) -> None:
        with self._change:
            while self._travelling:
                self._change.wait(deadline.left())

    def _abort_left_over(self) -> None:
        """End uploads of this very object that a crash has left: their parts cost money and nobody sees them."""
        with suppress(ClientError):
            key = self._object["Key"]
            there = self._client.list_multipart_uploads(Bucket=self._object["Bucket"], Prefix=key)
            for upload in there.get("Uploads", ()):
                if upload.get("Key") == key:
                    self._client.abort_multipart_upload(**self._object, UploadId=upload["UploadId"])
