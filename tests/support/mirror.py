"""Stores, services and runs for the tests of the mirroring sinks."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from handlers.contract import Artifact, Delivery, Services, Sink
from handlers.s3 import S3Sink
from handlers.s3.store import S3Store
from handlers.testing.conformance import NoServices, make_delivery, sample_run
from tests.servers.artifacts import ArtifactServer
from tests.servers.seaweedfs import S3Server


@dataclass
class Place:
    """`build(services, **options)` makes a sink; `tree()` is all that is stored, by its key below the store's root.

    `outside()` lists what is there and should not be.
    """

    build: Callable[..., Sink[Any]]
    tree: Callable[[], dict[str, bytes]]
    outside: Callable[[], Sequence[str]]
    sinks: list[Sink[Any]] = field(default_factory=list)

    def sink(self, services: Services | None = None, **options: Any) -> Sink[Any]:
        sink = self.build(services or Loopback(), **options)
        self.sinks.append(sink)
        return sink

    def one(self, name: str) -> bytes:
        """Return the only object with this name."""
        (found,) = [body for key, body in self.tree().items() if plain(key) == name.removeprefix("/")]
        return found

    def manifest(self) -> dict[str, Any]:
        """Return the only manifest."""
        document = json.loads(self.one("/manifest.json"))
        assert isinstance(document, dict)
        return document

    def shared(self) -> list[str]:
        """Return the names of the run's files, which no event has for itself alone."""
        return sorted(plain(key) for key in self.tree() if "/files/" in key)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()


class Loopback(NoServices):
    """Services that allow loopback; `fresh` is what the API lists, `origin` is sent the key."""

    def __init__(self, fresh: Sequence[Artifact] = (), origin: str = "") -> None:
        self.fresh = list(fresh)
        self.origin = origin
        self.asked = 0
        self.api = ""
        self.names: Sequence[str] = ()
        self.trouble: Exception | None = None

    def fresh_artifacts(self, delivery: Delivery, types: Sequence[str] = ()) -> Sequence[Artifact]:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return [each for each in self.fresh if not types or each.kind in types]

    def artifact_url(self, delivery: Delivery, artifact_id: str) -> str:
        return f"{self.api}/v1/artifacts/{artifact_id}/content" if self.api else ""

    def artifact_headers(self, delivery: Delivery, url: str) -> Mapping[str, str]:
        return {"x-api-key": "key-of-the-source"} if self.origin and url.startswith(self.origin) else {}

    def sources(self) -> Sequence[str]:
        return self.names

    def allowed_addresses(self) -> Sequence[str]:
        return ["127.0.0.1"]


def tree_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() or path.is_symlink()
    }


def plain(key: str) -> str:
    """Return the name of a stored file as its manifest has it, without the mark that tells its bytes from others."""
    return re.sub(r"-[0-9a-f]{12}(\.[^.]*)?$", r"\1", key.rpartition("/")[2])


def files_of(tree: Mapping[str, bytes], delivery: Delivery) -> dict[str, bytes]:
    """Return the files of an event by name: see `files_in`."""
    return files_in(tree, f"{delivery.run_type}/{delivery.run_id}/", delivery.event_id)


def files_in(tree: Mapping[str, bytes], run: str, event: str) -> dict[str, bytes]:
    """Return the files of an event by name, each from where its manifest says, and compared with what that says.

    `run`: the folder of the run, which ends in /.
    """
    found = {}
    for file in json.loads(tree[f"{run}{event}/manifest.json"])["files"]:
        path = file.get("path", file["name"])
        key = run + path.removeprefix("../") if path.startswith("../") else f"{run}{event}/{path}"
        found[file["name"]] = body = tree[key]
        assert (len(body), sha(body)) == (file["size"], file["sha256"])
    return found


PDF = b"%PDF-1.7 " + b"invoice" * 1000
VIDEO = bytes(range(256)) * 4000
PICTURE = b"\x89PNG" + b"p" * 5000


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def entry(url: str | None, body: bytes = PDF, filename: str = "invoice.pdf", **changes: Any) -> dict[str, Any]:
    """One of `downloaded_files`, as Skyvern writes it."""
    return {"url": url, "checksum": sha(body), "filename": filename, "file_size": len(body), **changes}


def full_run(server: ArtifactServer, **changes: Any) -> dict[str, Any]:
    """A run with a download, a recording and two screenshots, served by `server`."""
    download = server.add("/v1/artifacts/a_1/content", PDF) + "?expiry=1&kid=k&sig=signature-one"
    first = server.add("/v1/artifacts/a_3/content", PICTURE + b"1") + "?expiry=1&kid=k&sig=s3"
    second = server.add("/v1/artifacts/a_4/content", PICTURE + b"2") + "?expiry=1&kid=k&sig=s4"
    run = sample_run(
        downloaded_files=[entry(download, artifact_id="a_1")],
        downloaded_file_urls=[download],
        recording_url=server.add("/v1/artifacts/a_9/content", VIDEO) + "?expiry=1&kid=k&sig=s9",
        screenshot_url=first,
        screenshot_urls=[first, second],
        action_screenshot_urls=[first, second],
    )
    return {**run, **changes}


def escaped(run: Mapping[str, Any]) -> Delivery:
    """A delivery whose body spells every odd character as an escape, so that lone surrogates can be in it."""
    return make_delivery(body=json.dumps(run).encode())


# As a poll between status and webhook finds it: the part of the recording that the first step has stored.
PART = VIDEO[:1000]
RECORDING = "/v1/artifacts/a_9/content"
ENDED = "2026-03-01T10:00:00.5"
ENDED_AT = 1772359200.5  # the same


def polled(server: ArtifactServer, **changes: Any) -> dict[str, Any]:
    """The run before its webhook: it names the recording, and no other file."""
    url = f"{server.url}{RECORDING}?expiry=1&kid=k&sig=first"
    return sample_run("tsk_1", finished_at=ENDED, modified_at=ENDED, recording_url=url, **changes)


def reported(server: ArtifactServer) -> dict[str, Any]:
    """The run in its webhook: signed anew, with a download."""
    invoice = server.add("/v1/artifacts/a_1/content", PDF)
    return polled(server) | {
        "modified_at": "2026-03-01T10:00:09",
        "recording_url": f"{server.url}{RECORDING}?expiry=2&kid=k&sig=second",
        "downloaded_files": [entry(invoice, artifact_id="a_1")],
    }


def just_now(run: dict[str, Any], **changes: Any) -> Delivery:
    return make_delivery(run, received_at=datetime.now(UTC), **changes)


def record(server: ArtifactServer, size: int | None, **changes: Any) -> Artifact:
    """Skyvern's record of the recording, as its list of artifacts gives it."""
    found = Artifact("recording", "2026_a_9_recording.webm", server.url + RECORDING, size=size, artifact_id="a_9")
    return replace(found, **changes)


_numbers = itertools.count(1)


def options_for(server: S3Server, bucket: str, **more: Any) -> dict[str, Any]:
    return {
        "bucket": bucket,
        "endpoint_url": server.endpoint,
        "region": server.region,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        **more,
    }


class Objects:
    """What is in the bucket below a prefix of the test's own."""

    def __init__(self, server: S3Server, bucket: str) -> None:
        self.server = server
        self.bucket = bucket
        self.root = f"t{next(_numbers)}/"

    def listed(self) -> list[str]:
        pages = self.server.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.root)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def head(self, name: str) -> dict[str, Any]:
        (key,) = [key for key in self.listed() if plain(key) == name.removeprefix("/")]
        found = self.server.client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        assert isinstance(found, dict)
        return found

    def tree(self) -> dict[str, bytes]:
        found = self.server.read(self.bucket, self.listed())
        return {key.removeprefix(self.root): body for key, body in found.items()}

    def uploads(self) -> list[str]:
        found = self.server.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.root).get("Uploads", [])
        return [upload["Key"] for upload in found]


class ObservedS3Sink(S3Sink):
    """A sink whose calls a test can see."""

    @cached_property
    def store(self) -> S3Store:
        return S3Store(self.options)

    def make_store(self) -> S3Store:
        return self.store


def events_of(sink: Sink[Any]) -> Any:
    """Where boto3 tells of each call that the sink makes."""
    assert isinstance(sink, ObservedS3Sink)
    return sink.store.client().meta.events


def calls_of(sink: Sink[Any]) -> list[str]:
    """The calls that the sink makes from now on, as they come."""
    calls: list[str] = []
    events_of(sink).register("before-call.s3", lambda model, **_: calls.append(model.name))
    return calls


def without_condition(params: dict[str, Any], **_: Any) -> None:
    for name in ("If-None-Match", "If-Match"):
        params["headers"].pop(name, None)


def not_implemented(request: AWSPreparedRequest, **_: Any) -> AWSResponse | None:
    if not {"If-None-Match", "If-Match"} & set(request.headers):
        return None
    body = SimpleNamespace(stream=lambda: [b"<Error><Code>NotImplemented</Code></Error>"])
    return AWSResponse(request.url, 501, {}, body)
