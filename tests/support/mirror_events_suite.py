"""The tests that both mirroring sinks pass of runs with several events, and of recordings that are not whole yet.

A test class gives the fixture `place`, as for `MirrorSuite`.
"""

from __future__ import annotations

import gzip
import itertools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.contract import Artifact, Delivery, Receipt, Unavailable
from handlers.mirror.download import LOOK_FOR
from handlers.testing.conformance import make_delivery, sample_run
from tests.servers.artifacts import ArtifactServer
from tests.support.mirror import PDF, VIDEO, Loopback, Place, entry, files_of, plain

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


class MirrorEventsSuite:
    """Subclass it as `Test…` and give it the fixture `place`."""

    @pytest.fixture
    def server(self) -> Iterator[ArtifactServer]:
        with ArtifactServer() as server:
            server.add(RECORDING, VIDEO)
            yield server

    def shared(self, place: Place) -> list[str]:
        """Return the names of the run's files, which no event has for itself alone."""
        return sorted(plain(key) for key in place.tree() if "/files/" in key)

    # Several events of one run

    def test_file_is_read_with_its_content_coding(self, place: Place, server: ArtifactServer) -> None:
        # Given a download that is served with a content coding, and a later event that does not name it
        body = gzip.compress(PDF, mtime=0)
        url = server.add("/v1/artifacts/a_1/content", body, headers={"content-encoding": "gzip"})
        named = sample_run("tsk_1", downloaded_files=[entry(url, body, artifact_id="a_1")])
        later = sample_run("tsk_1", modified_at="2026-03-01T11:00:05")
        latest = {**named, "modified_at": "2026-03-01T11:00:09"}
        sink = place.sink()
        # When they are stored, and then a third event that names it again
        receipts = [sink.send(make_delivery(run)) for number, run in enumerate((named, later, latest))]
        # Then it is as it came, once, and each event that names it says how it is coded
        keys = [[key for key in receipt.keys if plain(key) == "invoice.pdf"] for receipt in receipts]
        assert len(keys[0]) == 1
        assert keys == [keys[0], [], keys[0]]
        assert server.paths().count("/v1/artifacts/a_1/content") == 1
        file = sink.find_file(keys[0][0])
        assert file is not None
        assert (b"".join(file.chunks(0, file.size)), file.encoding) == (body, "gzip")
        manifests = [json.loads(body) for key, body in place.tree().items() if key.endswith("/manifest.json")]
        codings = [
            each.get("content_encoding") for one in manifests for each in one["files"] if each["kind"] != "event"
        ]
        assert codings == ["gzip", "gzip"]

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["poll-first", "webhook-first"])
    def test_a_recording_that_two_events_name_is_stored_once(
        self, place: Place, server: ArtifactServer, order: tuple[int, int]
    ) -> None:
        events = [make_delivery(polled(server)), make_delivery(reported(server))]
        sink = place.sink()
        sink.send(events[order[0]])
        receipt = sink.send(events[order[1]])

        assert files_of(place.tree(), events[0]) == {"run.json": events[0].payload, "recording.webm": VIDEO}
        whole = {"run.json": events[1].payload, "invoice.pdf": PDF, "recording.webm": VIDEO}
        assert files_of(place.tree(), events[1]) == whole
        assert self.shared(place) == ["invoice.pdf", "recording.webm"]
        latest = json.loads(place.tree()["task_v1/tsk_1/latest.json"])
        assert latest["event_id"] == events[1].event_id
        assert [plain(key) for key in receipt.keys] == [*files_of(place.tree(), events[order[1]]), "manifest.json"]

    def test_two_events_at_once_store_each_file_once(self, place: Place, server: ArtifactServer) -> None:
        gate = threading.Event()
        server.add(RECORDING, VIDEO, gate=gate)
        events = [make_delivery(polled(server)), make_delivery(reported(server))]
        sinks = [place.sink(), place.sink()]
        with ThreadPoolExecutor(2) as pool:
            sending = [pool.submit(sink.send, event) for sink, event in zip(sinks, events, strict=True)]
            server.wait_for(RECORDING, 2)  # both are in the middle of it
            gate.set()
            assert all(isinstance(each.result(), Receipt) for each in sending)

        assert self.shared(place) == ["invoice.pdf", "recording.webm"]
        assert [files_of(place.tree(), event)["recording.webm"] for event in events] == [VIDEO, VIDEO]

    def test_what_grew_between_two_events_is_kept_as_each_has_it(self, place: Place, server: ArtifactServer) -> None:
        """Without an API key nothing tells that the first is only a part; the webhook's event completes it."""
        events = [make_delivery(polled(server)), make_delivery(reported(server))]
        sink = place.sink()
        server.add(RECORDING, PART)
        sink.send(events[0])
        server.add(RECORDING, VIDEO)
        sink.send(events[1])

        assert files_of(place.tree(), events[0])["recording.webm"] == PART
        assert files_of(place.tree(), events[1])["recording.webm"] == VIDEO

    def test_each_order_of_attempts_leaves_the_same_files(self, place: Place, server: ArtifactServer) -> None:
        """Each event sent again after each other one, as after crashes: nothing is stored twice, nothing is lost."""
        events = [make_delivery(polled(server)), make_delivery(reported(server))]
        sink = place.sink()
        for attempt, event in enumerate(itertools.chain.from_iterable(itertools.permutations(events)), 1):
            sink.send(replace(event, attempt=attempt))
        fetched = len(server.seen)

        assert self.shared(place) == ["invoice.pdf", "recording.webm"]
        before = place.tree()
        for event in events:
            sink.send(replace(event, attempt=9))
        assert place.tree() == before
        assert len(server.seen) == fetched

    # Recordings that are not whole yet

    @pytest.mark.parametrize(
        ("served", "known"),
        [
            (PART, {"size": len(VIDEO)}),
            (PART, {"size": len(PART), "unchanged_since": ENDED_AT - 3}),
            (VIDEO[:2000], {"size": len(PART), "unchanged_since": ENDED_AT - 3}),
            (PART, {"size": None, "sha256": "0" * 64}),
        ],
        ids=["not-stored-yet", "of-the-first-step", "of-a-later-step", "another-checksum"],
    )
    def test_a_part_of_a_recording_is_not_kept_but_looked_for_again(
        self, place: Place, server: ArtifactServer, served: bytes, known: dict[str, Any]
    ) -> None:
        server.add(RECORDING, served)
        services = Loopback([record(server, **known)])
        delivery = just_now(reported(server))
        with pytest.raises(Unavailable) as caught:
            place.sink(services).send(delivery)

        assert (caught.value.retry_after, caught.value.dependency) == (20.0, True)
        assert sorted(map(plain, place.tree())) == ["invoice.pdf", "run.json"], "the rest is there already"
        server.add(RECORDING, VIDEO)
        services.fresh = [record(server, len(VIDEO), name="2026_a_9_recording.mp4")]
        receipt = place.sink(services).send(replace(delivery, attempt=2))
        assert receipt.note == ""
        assert files_of(place.tree(), delivery)["recording.mp4"] == VIDEO
        assert self.shared(place) == ["invoice.pdf", "recording.mp4"]

    @pytest.mark.parametrize("when", ["last-attempt", "long-ago"])
    def test_at_last_it_is_kept_as_what_it_is(self, place: Place, server: ArtifactServer, when: str) -> None:
        server.add(RECORDING, PART)
        services = Loopback([record(server, len(VIDEO))])
        delivery = just_now(polled(server), last_attempt=when == "last-attempt")
        if when == "long-ago":
            delivery = replace(delivery, received_at=delivery.received_at - LOOK_FOR)
        receipt = place.sink(services).send(delivery)

        why = "a recording from 127.0.0.1 has 1,000 bytes, and 1,024,000 were announced"
        assert receipt.note == f"recording.webm may be only a part ({why}); see manifest.json"
        assert self.shared(place) == ["recording-incomplete.webm"]
        listed = json.loads(place.tree()[f"task_v1/tsk_1/{delivery.event_id}/manifest.json"])["files"]
        assert [file.get("incomplete") for file in listed] == [None, why]
        server.add(RECORDING, VIDEO)
        assert place.sink(services).send(replace(delivery, attempt=2)).note == ""
        assert files_of(place.tree(), delivery)["recording.webm"] == VIDEO

    def test_a_later_event_does_not_take_a_part_for_the_whole(self, place: Place, server: ArtifactServer) -> None:
        server.add(RECORDING, PART)
        services = Loopback([record(server, len(VIDEO))])
        first, second = just_now(polled(server), last_attempt=True), just_now(reported(server))
        sink = place.sink(services)
        sink.send(first)
        server.add(RECORDING, VIDEO)
        assert sink.send(second).note == ""
        assert files_of(place.tree(), second)["recording.webm"] == VIDEO

    def test_a_record_that_can_not_be_read_is_waited_for(self, place: Place, server: ArtifactServer) -> None:
        services = Loopback()
        services.trouble = Unavailable("the API can't be reached")
        delivery = just_now(polled(server))
        with pytest.raises(Unavailable, match="the API can't be reached") as caught:
            place.sink(services).send(delivery)
        assert caught.value.dependency
        receipt = place.sink(services).send(replace(delivery, attempt=9, last_attempt=True))
        assert receipt.note.startswith("recording.webm may be only a part (the API can't be reached)")
        services.trouble, services.fresh = None, [record(server, len(VIDEO))]
        assert place.sink(services).send(replace(delivery, attempt=10)).note == ""
        assert "recording.webm" in self.shared(place), "under the name of what is whole"

    def test_the_recording_is_fetched_where_its_record_says(self, place: Place, server: ArtifactServer) -> None:
        """A signed URL of a store leads to the object of that name: the part, when the whole is called .mp4."""
        run = polled(server) | {"recording_url": server.add("/b/2026_a_9_recording.webm", PART) + "?X-Amz-Signature=1"}
        url = server.add("/b/2026_a_9_recording.mp4", VIDEO) + "?X-Amz-Signature=2"
        services = Loopback([record(server, len(VIDEO), url=url, name="2026_a_9_recording.mp4")])
        delivery = just_now(run)
        place.sink(services).send(delivery)
        assert files_of(place.tree(), delivery)["recording.mp4"] == VIDEO

    # Files that only the API lists

    def test_log_is_stored_although_its_record_has_an_old_size(self, place: Place, server: ArtifactServer) -> None:
        log, har = b"line\n" * 900, b'{"log": {}}'
        listed = [
            Artifact("skyvern_log", "skyvern_log.log", server.add("/log", log), size=5, artifact_id="a_30"),
            Artifact("browser_console_log", "console.log", server.add("/con", b"x"), size=0, artifact_id="a_31"),
            Artifact("har", "net.har", server.add("/har", har), size=9_000, artifact_id="a_32"),
        ]
        delivery = just_now(polled(server))
        sink = place.sink(Loopback(listed), artifacts=["har", "skyvern_log*", "browser_console*"])
        assert sink.send(delivery).note == ""
        kept = files_of(place.tree(), delivery)
        assert (kept["skyvern_log.log"], kept["console.log"], kept["net.har"]) == (log, b"x", har)

    def test_incomplete_recording_is_known_by_its_announced_size(self, place: Place, server: ArtifactServer) -> None:
        gate = threading.Event()
        server.add(RECORDING, PART, gate=gate)
        sink = place.sink(Loopback([record(server, len(VIDEO))]), timeout=8)
        with pytest.raises(Unavailable, match="1,024,000 were announced"):
            sink.send(just_now(polled(server)))
        gate.set()

    def test_where_files_must_be_there_a_part_is_never_kept(self, place: Place, server: ArtifactServer) -> None:
        server.add(RECORDING, PART)
        sink = place.sink(Loopback([record(server, len(VIDEO))]), on_missing="fail")
        with pytest.raises(Unavailable, match="1,024,000 were announced"):
            sink.send(just_now(polled(server), last_attempt=True))
        assert self.shared(place) == []
