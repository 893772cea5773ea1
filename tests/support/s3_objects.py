"""The objects of a bucket, and the calls that an S3 sink makes, for tests."""

from __future__ import annotations

import itertools
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from handlers.contract import Sink
from handlers.s3 import S3Sink
from handlers.s3.store import S3Store
from tests.servers.seaweedfs import S3Server
from tests.support.mirror import plain

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
