"""The sink `s3` on a real server that checks signatures and checksums (SeaweedFS)."""

import base64
import hashlib
import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from handlers.contract import Delivery, Refused, Services, Unavailable
from handlers.s3 import S3Sink
from handlers.support.aws import translated_errors
from handlers.testing.conformance import (
    SinkConformance,
    SinkUnderTest,
    closed_port,
    make_delivery,
    sample_run,
    silent_port,
)
from tests.servers import warm_python
from tests.servers.artifacts import ArtifactServer
from tests.servers.seaweedfs import S3Server
from tests.support.mirror import (
    PDF,
    VIDEO,
    Loopback,
    Objects,
    ObservedS3Sink,
    Place,
    calls_of,
    entry,
    events_of,
    files_of,
    full_run,
    not_implemented,
    options_for,
    plain,
    sha,
    without_condition,
)
from tests.support.store_suite import StoreSuite
from tests.support.waiting import PATIENCE, Stopwatch, eventually


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> Iterator[str]:
    """One bucket for this module: each test has a prefix of its own in it, and making a bucket takes 0.2 s."""
    name = s3_server.new_bucket()
    yield name
    s3_server.delete_bucket(name)


@pytest.fixture
def objects(s3_server: S3Server, bucket: str) -> Objects:
    return Objects(s3_server, bucket)


@pytest.fixture
def place(objects: Objects) -> Iterator[Place]:
    def build(services: Services, prefix: str = "{{ run.run_type }}/{{ run.run_id }}/", **more: Any) -> S3Sink:
        options = options_for(objects.server, objects.bucket, prefix=objects.root + prefix, **more)
        return ObservedS3Sink("mirror", S3Sink.Options.model_validate(options), services)

    def outside() -> list[str]:
        keys = objects.server.client.list_objects_v2(Bucket=objects.bucket).get("Contents", [])
        return [entry["Key"] for entry in keys if not entry["Key"].startswith("t")]

    place = Place(build, objects.tree, outside)
    yield place
    place.close()


class TestConformance(SinkConformance):
    @pytest.fixture
    def target(self, objects: Objects) -> Iterator[SinkUnderTest]:
        options = options_for(
            objects.server, objects.bucket, prefix=objects.root + "{{ run.run_type }}/{{ run.run_id }}/"
        )
        nowhere = {**options, "endpoint_url": f"http://127.0.0.1:{closed_port()}", "timeout": 2}
        with silent_port() as port:
            yield SinkUnderTest(
                S3Sink,
                options,
                seen=objects.listed,
                idempotent=True,
                away={
                    "nothing listens": nowhere,
                    "never answers": {**options, "endpoint_url": f"http://127.0.0.1:{port}", "timeout": 1},
                    "there is no such bucket": {**options, "bucket": "no-such-bucket"},
                    "the key is not known": {**options, "access_key_id": "who"},
                    "the secret is wrong": {**options, "secret_access_key": "guessed"},
                },
                secrets=[objects.server.secret_key, objects.server.access_key],
                is_marked=lambda key: "/test-" in key,
            )


class TestS3Mirror(StoreSuite):
    def test_objects_carry_their_checksum_and_type(
        self, place: Place, objects: Objects, server: ArtifactServer
    ) -> None:
        large = random.Random(3).randbytes((8 << 20) + 5)
        page = entry(server.add("/page", b"<script>"), b"<script>", "page.html")
        run = full_run(server, downloaded_file_urls=[])
        run["downloaded_files"] += [page, entry(server.add("/large", large), large, "large.zip")]
        place.sink().send(make_delivery(run))
        small = objects.head("/invoice.pdf")
        assert base64.b64decode(small["ChecksumSHA256"]).hex() == sha(PDF) == small["Metadata"]["sha256"]
        assert small["ContentType"] == "application/pdf"
        assert objects.head("/recording.webm")["ContentType"] == "video/webm"
        assert objects.head("/run.json")["ContentType"] == "application/json"
        assert objects.head("/page.html")["ContentDisposition"] == "attachment"
        many = objects.head("/large.zip")
        digests = b"".join(hashlib.sha256(part).digest() for part in (large[: 8 << 20], large[8 << 20 :]))
        whole, _, count = many["ChecksumSHA256"].partition("-")
        assert (base64.b64decode(whole), count) == (hashlib.sha256(digests).digest(), "2")
        assert many["Metadata"]["sha256"] == sha(large)

    def test_tags_encryption_and_storage_class(self, place: Place, objects: Objects, server: ArtifactServer) -> None:
        body = b"x" * (9 << 20)
        sink = place.sink(
            tags={"run": "{{ run.run_id }}", "team": "{{ labels.team }}"}, sse="AES256", storage_class="STANDARD_IA"
        )
        run = sample_run("tsk_1", downloaded_files=[entry(server.add("/a", body), body, "a.bin")])
        sink.send(make_delivery(run, labels={"team": "bill&ing=<1>"}))
        client = objects.server.client
        for key in objects.listed():
            tags = client.get_object_tagging(Bucket=objects.bucket, Key=key)["TagSet"]
            assert {tag["Key"]: tag["Value"] for tag in tags} == {"run": "tsk_1", "team": "bill_ing=_1_"}
        for ending in ("/run.json", "/a.bin"):
            head = objects.head(ending)
            assert (head["ServerSideEncryption"], head["StorageClass"]) == ("AES256", "STANDARD_IA")

    def test_a_failed_upload_leaves_no_object_and_no_parts(
        self, place: Place, objects: Objects, server: ArtifactServer
    ) -> None:
        body = b"x" * (20 << 20)
        run = sample_run(downloaded_files=[entry(server.add("/a", body, short=1000), body, "a.bin")])
        with pytest.raises(Unavailable, match="the connection broke"):
            place.sink().send(make_delivery(run))
        assert objects.uploads() == []
        assert [key.rpartition("/")[2] for key in objects.listed()] == ["run.json"]

    def test_a_kill_in_the_middle_leaves_no_parts_after_the_next_try(
        self, place: Place, objects: Objects, server: ArtifactServer, tmp_path: Path
    ) -> None:
        gate = threading.Event()
        body = b"v" * (20 << 20)
        run = full_run(server, recording_url=server.add("/recording.webm", body, gate=gate))
        delivery = make_delivery(run)
        options = options_for(
            objects.server, objects.bucket, prefix=objects.root + "{{ run.run_type }}/{{ run.run_id }}/"
        )
        line = ["-c", _CHILD, json.dumps(options), json.dumps(run), delivery.event_id]
        child = warm_python.start(line, tmp_path / "log")
        eventually(lambda: objects.uploads() or child.poll() is not None, every=0.05)
        assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        gate.set()
        place.sink().send(replace(delivery, attempt=2))
        assert objects.uploads() == []
        kept = ["invoice.pdf", "recording.webm", "screenshot.png", "screenshot.png"]
        assert sorted(map(plain, objects.listed())) == sorted([*kept, "latest.json", "manifest.json", "run.json"])
        assert objects.head("/recording.webm")["ContentLength"] == len(body)

    def test_upload_aborted_by_another_worker_is_retried(
        self, place: Place, objects: Objects, server: ArtifactServer
    ) -> None:
        gate = threading.Event()
        body = b"v" * (20 << 20)
        delivery = make_delivery(sample_run(recording_url=server.add("/r.webm", body, gate=gate)))
        sink, client = place.sink(), objects.server.client
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(sink.send, delivery)
            eventually(objects.uploads, every=0.05)
            (found,) = client.list_multipart_uploads(Bucket=objects.bucket, Prefix=objects.root)["Uploads"]
            client.abort_multipart_upload(Bucket=objects.bucket, Key=found["Key"], UploadId=found["UploadId"])
            gate.set()
            with pytest.raises(Unavailable, match="another worker stores the same file") as caught:
                sending.result(timeout=PATIENCE)
        assert (caught.value.dependency, caught.value.retry_after) == (True, 2.0)
        sink.send(replace(delivery, attempt=2))
        assert place.one("/recording.webm") == body

    def test_a_later_event_looks_at_stored_files_and_fetches_none(self, place: Place, server: ArtifactServer) -> None:
        sink = place.sink()
        sink.send(make_delivery())
        run = full_run(server)
        sink.send(make_delivery(run))
        calls, fetched = calls_of(sink), len(server.seen)
        sink.send(make_delivery({**run, "modified_at": "2030-01-01T00:00:00"}))
        # Which files there are, and each of them; latest.json, to move it.
        assert sorted(calls) == ["GetObject", *["HeadObject"] * 4, *["ListObjectsV2"] * 2, *["PutObject"] * 3]
        assert server.paths()[fetched:] == ["/v1/artifacts/a_9/content"], "the recording is asked for its size"

    def test_a_later_event_stores_no_large_file_again(self, place: Place, server: ArtifactServer) -> None:
        """The store has no digest of a file in parts whose sender gave none: the newest event's manifest has it."""
        sink = place.sink()
        run = sample_run("tsk_1", recording_url=server.add("/v1/artifacts/a_9/content", VIDEO * 3))
        sink.send(make_delivery(run))
        calls = calls_of(sink)
        later = make_delivery({**run, "modified_at": "2030-01-01T00:00:00"})
        sink.send(later)
        assert files_of(place.tree(), later)["recording.webm"] == VIDEO * 3
        assert calls.count("PutObject") == 3
        assert "UploadPart" not in calls
        assert "CreateMultipartUpload" not in calls

    def test_stored_files_without_manifest_are_compared_by_checksum(
        self, place: Place, objects: Objects, server: ArtifactServer
    ) -> None:
        delivery = make_delivery(full_run(server))
        sink = place.sink()
        sink.send(delivery)
        client = objects.server.client
        (manifest,) = [key for key in objects.listed() if key.endswith("/manifest.json")]
        (invoice,) = [key for key in objects.listed() if plain(key) == "invoice.pdf"]
        client.delete_object(Bucket=objects.bucket, Key=manifest)
        client.put_object(Bucket=objects.bucket, Key=invoice, Body=b"?" * len(PDF), Metadata={"sha256": "0" * 64})
        server.seen.clear()
        calls = calls_of(sink)
        sink.send(replace(delivery, attempt=2))
        assert place.one("/invoice.pdf") == PDF
        # The recording's size is not known before it is asked for; no byte of it is stored again.
        assert sorted(server.paths()) == ["/v1/artifacts/a_1/content", "/v1/artifacts/a_9/content"]
        assert calls.count("PutObject") == 2, "only what could not be shown to be the same, and the manifest"

    def test_event_without_files_costs_three_reads_and_three_writes(self, place: Place) -> None:
        sink = place.sink()
        sink.send(make_delivery())
        calls = calls_of(sink)
        run = sample_run("tsk_1", modified_at="2026-03-01T10:00:00")
        for sent in (run, {**run, "modified_at": "2026-03-01T11:00:00"}):
            sink.send(make_delivery(sent))
        assert calls == [*["ListObjectsV2"] * 2, *["PutObject"] * 2, "GetObject", "PutObject"] * 2

    @pytest.mark.parametrize("server_does", ["ignores", "does not know"])
    def test_latest_is_read_first_without_conditional_writes(self, place: Place, server_does: str) -> None:
        def event(hour: int) -> Delivery:
            return make_delivery(sample_run("tsk_1", modified_at=f"2026-03-01T{hour}:00:00"))

        sink = place.sink()
        if server_does == "ignores":
            events_of(sink).register("before-call.s3.PutObject", without_condition)
        else:
            events_of(sink).register("before-send.s3.PutObject", not_implemented)
        oldest, newest = event(10), event(12)
        for sent, expected in ((oldest, oldest), (newest, newest), (event(11), newest), (oldest, newest)):
            sink.send(sent)
            assert json.loads(place.tree()["task_v1/tsk_1/latest.json"])["event_id"] == expected.event_id
        assert len(place.tree()) == 3 * 2 + 1

    def test_links_lead_to_the_bucket_or_to_where_people_reach_it(self, place: Place, objects: Objects) -> None:
        delivery = make_delivery(sample_run("tsk_ü"))
        key = f"{objects.root}task_v1/tsk_%C3%BC/{delivery.event_id}/run.json"
        assert place.sink().send(delivery).urls["run.json"] == f"{objects.server.endpoint}/{objects.bucket}/{key}"
        receipt = place.sink(public_url="https://cdn.example/").send(delivery)
        assert receipt.urls["run.json"] == f"https://cdn.example/{key}"
        assert receipt.id == f"s3://{objects.bucket}/{objects.root}task_v1/tsk_ü/{delivery.event_id}/"

    def test_server_that_hangs_midway_is_unavailable_in_time(
        self, s3_factory: Callable[[], S3Server], server: ArtifactServer
    ) -> None:
        own = s3_factory()
        gate = threading.Event()
        body = b"v" * (20 << 20)
        run = sample_run(recording_url=server.add("/r", body, gate=gate))
        options = options_for(own, own.new_bucket(), timeout=8)
        sink = S3Sink("mirror", S3Sink.Options.model_validate(options), Loopback())
        sink.send(make_delivery())  # so that nothing which only the first one costs is left
        with ThreadPoolExecutor(1) as pool:
            watch = Stopwatch()
            answer = pool.submit(sink.send, make_delivery(run))
            eventually(lambda: own.client.list_multipart_uploads(Bucket=options["bucket"]).get("Uploads"))
            own.hang()
            gate.set()
            with pytest.raises(Unavailable):
                answer.result(timeout=PATIENCE)
            watch.at_most(40)
        own.resume()
        sink.close()

    def test_credentials_default_to_the_environment(self, objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", objects.server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", objects.server.secret_key)
        options = {"bucket": objects.bucket, "endpoint_url": objects.server.endpoint, "prefix": objects.root}
        sink = S3Sink("mirror", S3Sink.Options.model_validate(options), Loopback())
        sink.send(make_delivery())
        sink.close()
        assert len(objects.listed()) == 3

    def test_a_server_without_checksums_can_be_used(self, place: Place, server: ArtifactServer) -> None:
        body = VIDEO * 12
        run = full_run(server, recording_url=server.add("/v", body))
        place.sink(checksums=False).send(make_delivery(run))
        assert place.one("/recording.webm") == body


_CHILD = """
import json, sys
from dataclasses import replace
from handlers.testing.conformance import make_delivery
from handlers.s3 import S3Sink
from tests.support.mirror import Loopback
options, run, event = sys.argv[1:]
sink = S3Sink("mirror", S3Sink.Options.model_validate(json.loads(options)), Loopback())
sink.send(replace(make_delivery(json.loads(run)), event_id=event))
"""


# Errors


def answered(code: str, status: int, **headers: str) -> ClientError:
    meta = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError({"Error": {"Code": code, "Message": "AKIAHUSH"}, "ResponseMetadata": meta}, "PutObject")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (answered("NoSuchBucket", 404), Unavailable, "bucket b: there is no such bucket"),
        (answered("AccessDenied", 403), Unavailable, "access is denied"),
        (answered("InvalidAccessKeyId", 403), Unavailable, "the access key is not known"),
        (answered("ExpiredToken", 400), Unavailable, "the session token has expired"),
        (answered("SlowDown", 503, **{"retry-after": "9"}), Unavailable, "the server answered 503 SlowDown"),
        (answered("InternalError", 500), Unavailable, "the server answered 500"),
        (answered("BadDigest", 400), Unavailable, "the server answered 400 BadDigest"),
        (answered("KeyTooLongError", 400), Refused, "the key is too long"),
        (EndpointConnectionError(endpoint_url="http://x"), Unavailable, "the server can't be reached"),
        (NoCredentialsError(), Unavailable, "no credentials found"),
        (ConnectionResetError(), Unavailable, "ConnectionResetError"),
    ],
)
def test_each_answer_of_s3_is_one_clear_line(error: Exception, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught, translated_errors("bucket b", "s3:x is"):
        raise error
    assert words in str(caught.value)
    assert "HUSH" not in str(caught.value)
    assert getattr(caught.value, "retry_after", None) == (9 if "SlowDown" in words else None)


# Options and links


def test_empty_variables_count_as_absent() -> None:
    options = S3Sink.Options.model_validate({"bucket": "runs", "endpoint_url": "", "access_key_id": "", "region": ""})
    assert (options.endpoint_url, options.access_key_id, options.region) == (None, None, None)


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"bucket": "runs", "region": "eu-west-1"}, "https://runs.s3.eu-west-1.amazonaws.com/a%20b"),
        ({"bucket": "my.runs", "region": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com/my.runs/a%20b"),
        ({"bucket": "runs", "endpoint_url": "https://s3.example/"}, "https://s3.example/runs/a%20b"),
        ({"bucket": "runs", "endpoint_url": "https://s3.test", "path_style": False}, "https://runs.s3.test/a%20b"),
    ],
)
def test_a_link_has_the_buckets_address_style(options: dict[str, Any], url: str) -> None:
    sink = S3Sink("mirror", S3Sink.Options.model_validate(options), Loopback())
    assert sink.make_store().url("a b") == url
    sink.close()


def test_erase_deletes_earlier_versions_too(s3_server: S3Server) -> None:
    # Given a bucket that keeps versions, and a delivery that was sent twice
    bucket = s3_server.new_bucket()
    enabled = {"Status": "Enabled"}
    s3_server.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=enabled)
    sink = S3Sink("mirror", S3Sink.Options.model_validate(options_for(s3_server, bucket)), Loopback())
    delivery = make_delivery()
    receipt = sink.send(delivery)
    s3_server.client.put_object(Bucket=bucket, Key=receipt.keys[0].partition(f"{bucket}/")[2], Body=b"again")
    # When it is erased
    sink.erase("skyvern", "wr_1", receipt.to_dict())
    sink.close()
    # Then no version and no marker of it is left
    found = s3_server.client.list_object_versions(Bucket=bucket)
    assert [found.get(name) for name in ("Versions", "DeleteMarkers")] == [None, None]
    s3_server.delete_bucket(bucket)
