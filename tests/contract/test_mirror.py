"""Which files of a run are stored and under which names, whatever the store: here a disk."""

import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.contract import Artifact, Refused, Unavailable
from handlers.mirror.download import LOOK_FOR
from handlers.testing.conformance import make_delivery, sample_run
from tests.servers.artifacts import ArtifactServer, Page
from tests.support.mirror import PDF, VIDEO, Loopback, Place, entry, full_run, plain, sha
from tests.support.waiting import Stopwatch


def test_the_manifest_says_what_is_there_and_holds_no_signature(place: Place, server: ArtifactServer) -> None:
    delivery = make_delivery(full_run(server))
    place.sink().send(delivery)
    manifest = place.manifest()
    files = {entry.pop("name"): entry for entry in manifest["files"]}
    assert files["invoice.pdf"].pop("stored_at").endswith("Z")
    assert plain(files["invoice.pdf"].pop("path")) == "invoice.pdf"
    assert files["invoice.pdf"] == {
        "kind": "download",
        "size": len(PDF),
        "sha256": sha(PDF),
        "content_type": "application/pdf",
        "checked": True,
        "size_checked": True,
        "source": f"{server.url}/v1/artifacts/a_1/content",
        "artifact_id": "a_1",
    }
    assert files["run.json"]["sha256"] == sha(delivery.body)
    assert files["recording.webm"]["size"] == len(VIDEO)
    assert manifest["event_id"] == delivery.event_id
    assert manifest["skipped"] == []
    assert b"sig" not in place.one("/manifest.json")


def test_a_lapsed_address_is_asked_for_anew_once(place: Place, server: ArtifactServer) -> None:
    run = full_run(server)
    for path in ("/v1/artifacts/a_1/content", "/v1/artifacts/a_9/content"):
        server.add(path, b"<Error>Request has expired</Error>", status=403)
    fresh = [
        Artifact("download", "invoice.pdf", server.add("/new/a_1", PDF), artifact_id="a_1"),
        Artifact("recording", "r", server.add("/new/rec", VIDEO)),
    ]
    services = Loopback(fresh, server.url + "/new/")
    receipt = place.sink(services).send(make_delivery(run))
    assert services.asked <= 2  # for all files, and for the recording alone where it was the first to ask
    assert receipt.note == ""
    assert place.one("/invoice.pdf") == PDF
    assert place.one("/recording.webm") == VIDEO
    assert {seen.headers.get("x-api-key") for seen in server.seen if seen.path.startswith("/new")} == {
        "key-of-the-source"
    }


@pytest.mark.parametrize("status", [404, 410, 403, 400])
def test_a_file_that_is_gone_for_good_is_noted(place: Place, server: ArtifactServer, status: int) -> None:
    run = full_run(server)
    server.add("/v1/artifacts/a_1/content", b"", status=status)
    receipt = place.sink().send(make_delivery(run))
    assert receipt.note.startswith("1 of 4 files are not kept (127.0.0.1 answered")
    (skipped,) = place.manifest()["skipped"]
    assert skipped["name"] == "invoice.pdf"
    assert skipped["reason"] == f"127.0.0.1 answered {status}, and the API returned no new URL"
    assert "invoice.pdf" not in map(plain, place.tree())
    assert place.one("/recording.webm") == VIDEO


def test_missing_file_fails_the_delivery_if_configured(place: Place, server: ArtifactServer) -> None:
    run = sample_run(downloaded_files=[entry(server.url + "/gone")])
    with pytest.raises(Unavailable, match="is missing"):
        place.sink(on_missing="fail").send(make_delivery(run))


@pytest.mark.parametrize("url", ["file:///etc/hostname", None, "/etc/hostname", "C:\\x", "ftp://127.0.0.1/x"])
def test_local_path_is_fetched_from_the_api_and_never_opened(
    place: Place, server: ArtifactServer, url: str | None
) -> None:
    delivery = make_delivery(sample_run(downloaded_files=[entry(url, artifact_id="a_7")]))
    receipt = place.sink().send(delivery)
    assert "and the API returned no new URL" in receipt.note
    fresh = Artifact("download", "x", server.add("/v1/artifacts/a_7/content", PDF), artifact_id="a_7")
    place.sink(Loopback([fresh])).send(replace(delivery, attempt=2))
    assert place.one("/invoice.pdf") == PDF
    assert place.manifest()["skipped"] == []


def test_a_file_that_the_api_does_not_list_is_fetched_by_its_id(place: Place, server: ArtifactServer) -> None:
    """As for each task_v2 of a server that keeps files on its own disk."""
    server.add("/v1/artifacts/a_60078/content", VIDEO)
    services = Loopback(origin=server.url)
    services.api = server.url
    path = "file:///skyvern/artifacts/o_1/tsk_1/00_0_stp_1/2026-11-24T23:37:50.101341_a_60078_recording.webm"
    receipt = place.sink(services).send(make_delivery(sample_run(recording_url=path)))
    assert receipt.note == ""
    assert place.one("/recording.webm") == VIDEO
    assert [seen.headers.get("x-api-key") for seen in server.seen] == ["key-of-the-source"]
    strange = sample_run(downloaded_files=[entry(None, artifact_id="../organizations/keys?")])
    assert "the API returned no new URL" in place.sink(services).send(make_delivery(strange)).note
    assert len(server.seen) == 1


def test_file_refused_with_403_points_to_the_key(place: Place, server: ArtifactServer) -> None:
    refused = server.add("/v1/artifacts/a_8/content", b"", status=403)
    sink = place.sink(Loopback([Artifact("recording", "r.mp4", refused, artifact_id="a_8")]))
    with pytest.raises(Unavailable, match="403, and the source's api_key may be refused"):
        sink.send(make_delivery(sample_run(recording_url=refused), received_at=datetime.now(UTC)))


def test_a_file_that_is_not_there_yet_is_looked_for_once_more(place: Place, server: ArtifactServer) -> None:
    """Skyvern sends a cancelled run's webhook while it still turns the recording into a film of another name."""
    url = server.add("/v1/artifacts/a_9/content", b"", status=404)
    sink = place.sink(Loopback([Artifact("recording", "r.mp4", url, artifact_id="a_9")]))
    delivery = make_delivery(sample_run(recording_url=url), received_at=datetime.now(UTC))
    with pytest.raises(Unavailable, match="404, and it may not be ready yet") as caught:
        sink.send(delivery)
    assert (caught.value.retry_after, caught.value.dependency) == (20.0, True)
    server.add("/v1/artifacts/a_9/content", VIDEO)
    assert sink.send(replace(delivery, attempt=2)).note == ""
    assert place.one("/recording.mp4") == VIDEO


@pytest.mark.parametrize(
    "changes",
    [{"last_attempt": True}, {"received_at": datetime.now(UTC) - LOOK_FOR}],
    ids=["last-attempt", "long-ago"],
)
def test_it_is_noted_when_it_does_not_come(place: Place, server: ArtifactServer, changes: dict[str, Any]) -> None:
    url = server.add("/v1/artifacts/a_9/content", b"", status=404)
    sink = place.sink(Loopback([Artifact("recording", "r.mp4", url, artifact_id="a_9")]))
    delivery = make_delivery(sample_run(recording_url=url), received_at=datetime.now(UTC))
    sink.send(replace(delivery, **changes))
    (skipped,) = place.manifest()["skipped"]
    assert skipped["reason"] == "127.0.0.1 answered 404, also at a new URL"


def test_a_private_address_is_not_reached_and_noted(place: Place, server: ArtifactServer) -> None:
    server.add("/v1/artifacts/a_8/content", status=302, headers={"location": "http://127.0.0.2:1/secret"})
    run = sample_run(
        downloaded_files=[
            entry("http://169.254.169.254/latest/meta-data/", filename="meta"),
            entry(server.url + "/v1/artifacts/a_8/content", filename="redirected"),
        ]
    )
    place.sink().send(make_delivery(run))
    reasons = [skipped["reason"] for skipped in place.manifest()["skipped"]]
    assert "169.254.169.254 is a cloud metadata address" in reasons[0]
    assert "127.0.0.2 is a loopback address" in reasons[1]


def test_the_api_key_goes_only_to_where_artifacts_are(place: Place, server: ArtifactServer) -> None:
    """A payload that names another part of the API gets no answer that only the key could give."""
    run = sample_run(
        downloaded_files=[
            entry(server.add("/v1/organizations/keys", b"x"), b"x", "keys"),
            entry(server.add("/v1/artifacts/a_1/content", b"y"), b"y", "file"),
        ]
    )
    place.sink(Loopback((), server.url)).send(make_delivery(run))
    assert {seen.path: seen.headers.get("x-api-key") for seen in server.seen} == {
        "/v1/organizations/keys": None,
        "/v1/artifacts/a_1/content": "key-of-the-source",
    }


def test_over_the_caps_is_noted_and_not_fatal(place: Place, server: ArtifactServer) -> None:
    url = server.add("/a", PDF, chunked=True)
    run = full_run(server, downloaded_files=[entry(url, file_size=None)], downloaded_file_urls=[url])
    receipt = place.sink(max_artifact_bytes="6 kB", max_artifacts=2).send(make_delivery(run))
    reasons = {skipped["name"]: skipped["reason"] for skipped in place.manifest()["skipped"]}
    assert reasons == {
        "invoice.pdf": "larger than the cap of 6,000 bytes (max_artifact_bytes)",
        "recording.webm": "larger than the cap of 6,000 bytes (max_artifact_bytes)",
        "screenshot-1.png": "more than 2 files (max_artifacts)",
        "screenshot-2.png": "more than 2 files (max_artifacts)",
    }
    assert "larger than the cap" in receipt.note
    assert not [key for key in place.tree() if key.endswith((".pdf", ".webm"))]


def test_file_over_the_events_total_is_noted(place: Place, server: ArtifactServer) -> None:
    files = [entry(server.add(f"/f/{n}", PDF), filename=f"{n}.pdf") for n in range(3)]
    files += [entry(server.add("/f/3", PDF + b"x", chunked=True), filename="3.pdf", checksum=None, file_size=None)]
    sink = place.sink(max_event_bytes=2 * len(PDF) + 100, parallel=1)

    sink.send(make_delivery(sample_run(downloaded_files=files)))

    kept = [file["name"] for file in place.manifest()["files"]]
    reasons = {skipped["name"]: skipped["reason"] for skipped in place.manifest()["skipped"]}
    assert kept == ["run.json", "0.pdf", "1.pdf"]
    assert reasons.keys() == {"2.pdf", "3.pdf"}
    assert all("larger than the rest of the 14,118 bytes" in reason for reason in reasons.values())


def test_a_host_that_drips_is_ended_before_the_timeout(place: Place, server: ArtifactServer) -> None:
    stop = threading.Event()
    run = sample_run(downloaded_files=[entry(server.add("/slow", trickle=stop), b"", "a", file_size=None)])

    with pytest.raises(Unavailable, match="less than 4,096 bytes a second") as caught:
        place.sink(timeout=3).send(make_delivery(run))

    stop.set()
    assert caught.value.dependency
    assert not [key for key in place.tree() if "/files/" in key]


def test_what_the_api_lists_is_kept_on_request(place: Place, server: ArtifactServer) -> None:
    listed = [
        Artifact("har", "network.har", server.add("/h", b"{}"), artifact_id="a_20"),
        Artifact("llm_request", "prompt.json", server.add("/l", b"{}"), artifact_id="a_21"),
        Artifact("download", "invoice.pdf", server.add("/d", PDF), artifact_id="a_1"),
    ]
    place.sink(Loopback(listed), artifacts=["har", "down*"]).send(make_delivery(full_run(server)))
    names = [file["name"] for file in place.manifest()["files"]]
    assert names == [
        "run.json",
        "invoice.pdf",
        "recording.webm",
        "screenshot-1.png",
        "screenshot-2.png",
        "network.har",
    ]


def test_the_files_that_a_test_webhook_names_are_not_asked_for(place: Place, server: ArtifactServer) -> None:
    place.sink(artifacts=["recording"], on_missing="fail").send(make_delivery(full_run(server), test=True))
    assert {key.rpartition("/")[2] for key in place.tree()} == {"run.json", "manifest.json"}
    assert server.seen == []


def test_a_test_delivery_stands_apart_and_moves_no_latest(place: Place) -> None:
    receipt = place.sink().send(make_delivery(sample_run("tsk_1"), test=True))
    tree = place.tree()
    assert [key for key in tree if "/test-evt_" in key] == list(tree) != []
    assert "/test-evt_" in receipt.id


def test_a_body_that_is_no_run_is_kept_all_the_same(place: Place) -> None:
    delivery = make_delivery(body=b"\xff\0 not JSON")
    place.sink().send(delivery)
    assert place.tree()[f"_/_/{delivery.event_id}/run.json"] == delivery.body


def test_the_prefix_can_use_source_labels_and_date(place: Place) -> None:
    prefix = "{{ source }}/{{ date.year }}/{{ date.month }}/{{ labels.team }}-{{ run.outcome }}"
    delivery = make_delivery(labels={"team": "billing/eu"})
    place.sink(prefix=prefix).send(delivery)
    assert f"skyvern/2026/03/billing_eu-{sha(b'billing/eu')[:8]}-failed/latest.json" in place.tree()


def test_two_sources_never_meet_in_one_folder(place: Place, server: ArtifactServer) -> None:
    run = full_run(server, run_id="tsk_1")
    services = Loopback()
    services.names = ("skyvern", "other")
    sink = place.sink(services)

    sink.send(make_delivery(run, source="skyvern"))
    sink.send(make_delivery(run, source="other"))
    sink.send(make_delivery({**run, "run_type": "other~"}, source="skyvern"))
    place.sink(services, prefix="{{ source }}/{{ run.run_id }}/").send(make_delivery(run, source="other"))

    folders = {key.partition("tsk_1/")[0] for key in place.tree()}
    assert folders == {"task_v1/", "other~/task_v1/", "other_-" + sha(b"other~")[:8] + "/", "other/"}


@pytest.mark.parametrize("files", [1, 5])
def test_trickling_server_fails_without_blaming_the_store(place: Place, server: ArtifactServer, files: int) -> None:
    stop = threading.Event()
    slow = [entry(server.add(f"/slow/{n}", trickle=stop), b"", f"{n}", file_size=None) for n in range(files)]
    sink = place.sink(timeout=2, parallel=2)
    sink.send(make_delivery())  # so that nothing which only the first one costs is left
    watch = Stopwatch()
    with pytest.raises(Unavailable, match=r"less than 4,096 bytes a second") as caught:
        sink.send(make_delivery(sample_run(downloaded_files=slow)))
    watch.at_most(10)
    assert caught.value.dependency  # also where some files were not even begun
    stop.set()


def test_prefix_that_the_run_cannot_fill_is_refused(place: Place) -> None:
    with pytest.raises(Refused, match="the template prefix can't be filled"):
        place.sink(prefix="{{ run.output.customer }}/").send(make_delivery())
    assert place.tree() == {}


def test_a_throttled_file_says_how_long_to_wait(place: Place, server: ArtifactServer) -> None:
    server.script("/a", Page(status=429, headers={"retry-after": "30"}))
    run = sample_run(downloaded_files=[entry(server.url + "/a"), entry(server.add("/b", status=500), filename="b")])
    with pytest.raises(Unavailable, match="and of the others 1 failed") as caught:
        place.sink().send(make_delivery(run))
    assert caught.value.retry_after == 30
