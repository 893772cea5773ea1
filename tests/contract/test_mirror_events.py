"""Runs with several events, and recordings that are not whole yet, whatever the store: here a disk."""

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from handlers.contract import Artifact, Unavailable
from handlers.mirror.download import LOOK_FOR
from handlers.testing.conformance import make_delivery
from tests.servers.artifacts import ArtifactServer
from tests.support.mirror import (
    ENDED_AT,
    PART,
    PDF,
    RECORDING,
    VIDEO,
    Loopback,
    Place,
    files_of,
    just_now,
    plain,
    polled,
    record,
    reported,
)


@pytest.fixture(autouse=True)
def _recording(server: ArtifactServer) -> None:
    server.add(RECORDING, VIDEO)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["poll-first", "webhook-first"])
def test_a_recording_that_two_events_name_is_stored_once(
    place: Place, server: ArtifactServer, order: tuple[int, int]
) -> None:
    events = [make_delivery(polled(server)), make_delivery(reported(server))]
    sink = place.sink()
    sink.send(events[order[0]])
    receipt = sink.send(events[order[1]])

    assert files_of(place.tree(), events[0]) == {"run.json": events[0].payload, "recording.webm": VIDEO}
    whole = {"run.json": events[1].payload, "invoice.pdf": PDF, "recording.webm": VIDEO}
    assert files_of(place.tree(), events[1]) == whole
    assert place.shared() == ["invoice.pdf", "recording.webm"]
    latest = json.loads(place.tree()["task_v1/tsk_1/latest.json"])
    assert latest["event_id"] == events[1].event_id
    assert [plain(key) for key in receipt.keys] == [*files_of(place.tree(), events[order[1]]), "manifest.json"]


def test_what_grew_between_two_events_is_kept_as_each_has_it(place: Place, server: ArtifactServer) -> None:
    """Without an API key nothing tells that the first is only a part; the webhook's event completes it."""
    events = [make_delivery(polled(server)), make_delivery(reported(server))]
    sink = place.sink()
    server.add(RECORDING, PART)
    sink.send(events[0])
    server.add(RECORDING, VIDEO)
    sink.send(events[1])

    assert files_of(place.tree(), events[0])["recording.webm"] == PART
    assert files_of(place.tree(), events[1])["recording.webm"] == VIDEO


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
    place: Place, server: ArtifactServer, served: bytes, known: dict[str, Any]
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
    assert place.shared() == ["invoice.pdf", "recording.mp4"]


@pytest.mark.parametrize("when", ["last-attempt", "long-ago"])
def test_at_last_it_is_kept_as_what_it_is(place: Place, server: ArtifactServer, when: str) -> None:
    server.add(RECORDING, PART)
    services = Loopback([record(server, len(VIDEO))])
    delivery = just_now(polled(server), last_attempt=when == "last-attempt")
    if when == "long-ago":
        delivery = replace(delivery, received_at=delivery.received_at - LOOK_FOR)
    receipt = place.sink(services).send(delivery)

    why = "a recording from 127.0.0.1 has 1,000 bytes, and 1,024,000 were announced"
    assert receipt.note == f"recording.webm may be only a part ({why}); see manifest.json"
    assert place.shared() == ["recording-incomplete.webm"]
    listed = json.loads(place.tree()[f"task_v1/tsk_1/{delivery.event_id}/manifest.json"])["files"]
    assert [file.get("incomplete") for file in listed] == [None, why]
    server.add(RECORDING, VIDEO)
    assert place.sink(services).send(replace(delivery, attempt=2)).note == ""
    assert files_of(place.tree(), delivery)["recording.webm"] == VIDEO


def test_a_later_event_does_not_take_a_part_for_the_whole(place: Place, server: ArtifactServer) -> None:
    server.add(RECORDING, PART)
    services = Loopback([record(server, len(VIDEO))])
    first, second = just_now(polled(server), last_attempt=True), just_now(reported(server))
    sink = place.sink(services)
    sink.send(first)
    server.add(RECORDING, VIDEO)
    assert sink.send(second).note == ""
    assert files_of(place.tree(), second)["recording.webm"] == VIDEO


def test_a_record_that_can_not_be_read_is_waited_for(place: Place, server: ArtifactServer) -> None:
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
    assert "recording.webm" in place.shared(), "under the name of what is whole"


def test_the_recording_is_fetched_where_its_record_says(place: Place, server: ArtifactServer) -> None:
    """A signed URL of a store leads to the object of that name: the part, when the whole is called .mp4."""
    run = polled(server) | {"recording_url": server.add("/b/2026_a_9_recording.webm", PART) + "?X-Amz-Signature=1"}
    url = server.add("/b/2026_a_9_recording.mp4", VIDEO) + "?X-Amz-Signature=2"
    services = Loopback([record(server, len(VIDEO), url=url, name="2026_a_9_recording.mp4")])
    delivery = just_now(run)
    place.sink(services).send(delivery)
    assert files_of(place.tree(), delivery)["recording.mp4"] == VIDEO


def test_log_is_stored_although_its_record_has_an_old_size(place: Place, server: ArtifactServer) -> None:
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


def test_incomplete_recording_is_known_by_its_announced_size(place: Place, server: ArtifactServer) -> None:
    gate = threading.Event()
    server.add(RECORDING, PART, gate=gate)
    sink = place.sink(Loopback([record(server, len(VIDEO))]), timeout=8)
    with pytest.raises(Unavailable, match="1,024,000 were announced"):
        sink.send(just_now(polled(server)))
    gate.set()


def test_where_files_must_be_there_a_part_is_never_kept(place: Place, server: ArtifactServer) -> None:
    server.add(RECORDING, PART)
    sink = place.sink(Loopback([record(server, len(VIDEO))]), on_missing="fail")
    with pytest.raises(Unavailable, match="1,024,000 were announced"):
        sink.send(just_now(polled(server), last_attempt=True))
    assert place.shared() == []
