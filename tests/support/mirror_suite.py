"""The tests that both mirroring sinks pass, `files` and `s3`.

A test class gives the fixture `place`: how to build a sink on an empty store, and how to read that store.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.contract import Artifact, Delivery, Refused, Unavailable
from handlers.mirror.download import LOOK_FOR
from handlers.testing.conformance import make_delivery, sample_run
from tests.servers.artifacts import ArtifactServer, Page
from tests.support.mirror import PDF, PICTURE, VIDEO, Loopback, Place, entry, escaped, files_of, full_run, plain, sha
from tests.support.waiting import Stopwatch


class MirrorSuite:
    """Subclass it as `Test…` and give it the fixture `place`."""

    @pytest.fixture
    def server(self) -> Iterator[ArtifactServer]:
        with ArtifactServer() as server:
            yield server

    def one(self, place: Place, name: str) -> bytes:
        """Return the only object with this name."""
        (found,) = [body for key, body in place.tree().items() if plain(key) == name.removeprefix("/")]
        return found

    def manifest(self, place: Place) -> dict[str, Any]:
        document = json.loads(self.one(place, "/manifest.json"))
        assert isinstance(document, dict)
        return document

    # What is stored

    def test_a_run_is_kept_with_all_that_belongs_to_it(self, place: Place, server: ArtifactServer) -> None:
        delivery = make_delivery(full_run(server))
        receipt = place.sink().send(delivery)
        run = f"task_v1/{delivery.run_id}/"
        assert files_of(place.tree(), delivery) == {
            "run.json": delivery.body,
            "invoice.pdf": PDF,
            "recording.webm": VIDEO,
            "screenshot-1.png": PICTURE + b"1",
            "screenshot-2.png": PICTURE + b"2",
        }
        files = sorted(key.removeprefix(run + "files/") for key in place.tree() if "/files/" in key)
        assert [plain(name) for name in files] == ["invoice.pdf", "recording.webm", "screenshot.png", "screenshot.png"]
        names = ["run.json", "invoice.pdf", "recording.webm", "screenshot.png", "screenshot.png", "manifest.json"]
        assert [plain(key) for key in receipt.keys] == names
        assert receipt.id.endswith(run + delivery.event_id + "/")
        assert receipt.sizes == {name: len(content) for name, content in files_of(place.tree(), delivery).items()}
        assert receipt.note == ""
        assert sorted(server.paths()) == sorted(server.pages), "each file is fetched once"

    def test_what_was_kept_can_be_read_in_parts(self, place: Place, server: ArtifactServer) -> None:
        # Given a file that is stored, by its key of the receipt
        sink = place.sink()
        receipt = sink.send(make_delivery(full_run(server)))
        key = receipt.files["recording.webm"]
        # Then it is found, and any part of it can be read
        file = sink.find_file(key)
        assert file is not None
        assert (file.size, file.encoding) == (len(VIDEO), "")
        assert b"".join(file.chunks(0, len(VIDEO))) == VIDEO
        assert b"".join(file.chunks(3, 10)) == VIDEO[3:10]
        assert b"".join(file.chunks(5, 5)) == b""
        assert sink.find_file(key).version == file.version  # type: ignore[union-attr]
        # And of files of one kind, the receipt names the key of each
        second = sink.find_file(receipt.files["screenshot-2.png"])
        assert second is not None
        assert b"".join(second.chunks(0, second.size)) == PICTURE + b"2"
        # And nothing else is: neither what is not there nor what is not below this sink's root
        root = receipt.id.removesuffix("/").rpartition("/")[0]
        for other in (f"{key}.not", f"{root}/../x", f"{root}//x", "/etc/passwd", "s3://other/x", "", receipt.id, root):
            assert sink.find_file(other) is None, other

    # Erasing

    def test_erase_leaves_nothing_of_the_run_and_all_of_others(self, place: Place, server: ArtifactServer) -> None:
        sink = place.sink()
        sink.send(make_delivery(full_run(server)))
        others = place.tree()
        first, second = (make_delivery({**full_run(server), "run_id": "tsk_9", "output": n}) for n in (1, 2))
        receipts = [sink.send(first).to_dict(), sink.send(second).to_dict()]
        assert len(place.tree()) > len(others) + 5
        for receipt in receipts:
            sink.erase(receipt)
        assert place.tree() == others

    def test_erase_takes_the_prefix_as_send_writes_it(self, place: Place) -> None:
        sink = place.sink(prefix="kept// all /{{ run.run_id }}/")
        receipt = sink.send(make_delivery()).to_dict()
        assert any("kept/all/" in key for key in place.tree())
        sink.erase(receipt)
        assert place.tree() == {}

    def test_erase_refuses_what_lies_outside_and_deletes_nothing(self, place: Place) -> None:
        sink = place.sink(prefix="kept/{{ run.run_id }}/")
        receipt = sink.send(make_delivery()).to_dict()
        other = place.sink(prefix="other/{{ run.run_id }}/").send(make_delivery()).to_dict()
        before = place.tree()
        root = receipt["keys"][0].partition("/kept/")[0]
        for key in (*other["keys"], f"{root}/kept/../other/x", f"{root}/x", "/etc/passwd", "s3://other/kept/x", ""):
            with pytest.raises(Refused, match="not below"):
                sink.erase({**receipt, "keys": [*receipt["keys"], key]})
        assert place.tree() == before

    def test_the_manifest_says_what_is_there_and_holds_no_signature(self, place: Place, server: ArtifactServer) -> None:
        delivery = make_delivery(full_run(server))
        place.sink().send(delivery)
        manifest = self.manifest(place)
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
        assert b"sig" not in self.one(place, "/manifest.json")

    # latest.json

    def test_latest_points_to_the_newest_event_and_never_back(self, place: Place) -> None:
        sink = place.sink()

        def event(modified: str, attempt: int | None = None, output: int = 0) -> Delivery:
            extra = {} if attempt is None else {"attempt": attempt}
            return make_delivery(sample_run("tsk_1", modified_at=modified, output=output, **extra))

        older = event("2026-03-01T10:00:00.5")
        newer = event("2026-03-01T11:00:00", output=1)
        second_attempt = event("2026-03-01T09:00:00Z", attempt=2)
        expected = [(newer, newer), (older, newer), (second_attempt, second_attempt), (newer, second_attempt)]
        for sent, newest in expected:
            sink.send(sent)
            latest = json.loads(place.tree()["task_v1/tsk_1/latest.json"])
            assert latest["event_id"] == newest.event_id
            assert latest["run"] == f"{newest.event_id}/run.json"
        bodies = {key: body for key, body in place.tree().items() if key.endswith("/run.json")}
        assert sorted(bodies.values()) == sorted([older.body, newer.body, second_attempt.body]), (
            "nothing is overwritten"
        )

    def test_latest_is_the_newest_of_concurrent_events(self, place: Place) -> None:
        deliveries = [make_delivery(sample_run("tsk_1", modified_at=f"2026-03-01T10:00:{n:02}")) for n in range(8)]
        shuffled = random.Random(7).sample(deliveries, len(deliveries))
        sink = place.sink()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(sink.send, shuffled))
        latest = json.loads(place.tree()["task_v1/tsk_1/latest.json"])
        assert latest["event_id"] == deliveries[-1].event_id
        assert len([key for key in place.tree() if key.endswith("/run.json")]) == 8

    # Later attempts

    def test_the_same_delivery_again_fetches_and_changes_nothing(self, place: Place, server: ArtifactServer) -> None:
        sink = place.sink()
        delivery = make_delivery(full_run(server))
        first = sink.send(delivery)
        before, fetched = place.tree(), len(server.seen)
        again = place.sink().send(replace(delivery, attempt=2))
        assert again == first
        assert place.tree() == before
        assert len(server.seen) == fetched

    def test_what_a_first_try_has_kept_is_not_fetched_again(self, place: Place, server: ArtifactServer) -> None:
        delivery = make_delivery(full_run(server))
        broken = server.add("/v1/artifacts/a_9/content", VIDEO, short=10)
        with pytest.raises(Unavailable):
            place.sink().send(delivery)
        assert sorted(map(plain, place.tree())) == ["invoice.pdf", "run.json", "screenshot.png", "screenshot.png"]
        server.add("/v1/artifacts/a_9/content", VIDEO)
        server.seen.clear()
        place.sink().send(replace(delivery, attempt=2))
        assert server.url + server.paths()[0] == broken
        assert len(server.seen) == 1
        assert self.one(place, "/recording.webm") == VIDEO

    # Downloads

    def test_a_file_of_many_parts_is_whole(self, place: Place, server: ArtifactServer) -> None:
        body = random.Random(1).randbytes(20 * 1024 * 1024 + 17)
        run = sample_run(
            downloaded_files=[
                entry(server.add("/big.zip", body), body, "big.zip"),
                entry(server.add("/even.zip", body[: 16 << 20]), body[: 16 << 20], "even.zip"),
                entry(server.add("/part.zip", body[: 8 << 20]), body[: 8 << 20], "part.zip"),
                entry(server.add("/less.zip", body[: 3 << 20]), body[: 3 << 20], "less.zip"),
                entry(server.add("/chunked", body, chunked=True), body, "chunked.zip", file_size=None),
                entry(server.add("/empty", b""), b"", "empty.txt"),
            ]
        )
        place.sink().send(make_delivery(run))
        assert self.one(place, "/big.zip") == body
        assert self.one(place, "/chunked.zip") == body
        assert self.one(place, "/even.zip") == body[: 16 << 20]
        assert self.one(place, "/part.zip") == body[: 8 << 20]
        assert self.one(place, "/less.zip") == body[: 3 << 20]
        assert self.one(place, "/empty.txt") == b""

    @pytest.mark.parametrize(
        ("size", "fault", "words"),
        [
            (20 << 20, {"short": 100}, "the connection broke"),
            (5_000, {"short": 100, "chunked": True}, "the connection broke"),
            (5_000, {"status": 503, "headers": {"retry-after": "17"}}, "answered 503"),
            (20 << 20, {"wrong": True}, "is not what the sender's SHA-256 says"),
            (5_000, {"longer": True}, "bytes, and"),
        ],
        ids=["short", "short-chunked", "503", "wrong", "longer"],
    )
    def test_a_wrong_or_short_download_is_unavailable_and_not_kept(
        self, place: Place, server: ArtifactServer, size: int, fault: dict[str, Any], words: str
    ) -> None:
        body, fault = random.Random(2).randbytes(size), dict(fault)
        served = b"?" + body[1:] if fault.pop("wrong", False) else body
        served += b"more" if fault.pop("longer", False) else b""
        run = sample_run(downloaded_files=[entry(server.add("/a", served, **fault), body)])
        with pytest.raises(Unavailable) as caught:
            place.sink().send(make_delivery(run))
        assert words in str(caught.value)
        assert caught.value.retry_after == (17 if "503" in words else None)
        assert caught.value.dependency  # where we keep things, all is well
        assert [key.rpartition("/")[2] for key in place.tree()] == ["run.json"]

    # Fresh URLs, and files that can't be had

    def test_a_lapsed_address_is_asked_for_anew_once(self, place: Place, server: ArtifactServer) -> None:
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
        assert self.one(place, "/invoice.pdf") == PDF
        assert self.one(place, "/recording.webm") == VIDEO
        assert {seen.headers.get("x-api-key") for seen in server.seen if seen.path.startswith("/new")} == {
            "key-of-the-source"
        }

    @pytest.mark.parametrize("status", [404, 410, 403, 400])
    def test_a_file_that_is_gone_for_good_is_noted(self, place: Place, server: ArtifactServer, status: int) -> None:
        run = full_run(server)
        server.add("/v1/artifacts/a_1/content", b"", status=status)
        receipt = place.sink().send(make_delivery(run))
        assert receipt.note.startswith("1 of 4 files are not kept (127.0.0.1 answered")
        (skipped,) = self.manifest(place)["skipped"]
        assert skipped["name"] == "invoice.pdf"
        assert skipped["reason"] == f"127.0.0.1 answered {status}, and no fresh address for it was given"
        assert "invoice.pdf" not in map(plain, place.tree())
        assert self.one(place, "/recording.webm") == VIDEO

    def test_missing_file_fails_the_delivery_if_configured(self, place: Place, server: ArtifactServer) -> None:
        run = sample_run(downloaded_files=[entry(server.url + "/gone")])
        with pytest.raises(Unavailable, match="is missing"):
            place.sink(on_missing="fail").send(make_delivery(run))

    @pytest.mark.parametrize("url", ["file:///etc/hostname", None, "/etc/hostname", "C:\\x", "ftp://127.0.0.1/x"])
    def test_local_path_is_fetched_from_the_api_and_never_opened(
        self, place: Place, server: ArtifactServer, url: str | None
    ) -> None:
        delivery = make_delivery(sample_run(downloaded_files=[entry(url, artifact_id="a_7")]))
        receipt = place.sink().send(delivery)
        assert "and no fresh address" in receipt.note
        fresh = Artifact("download", "x", server.add("/v1/artifacts/a_7/content", PDF), artifact_id="a_7")
        place.sink(Loopback([fresh])).send(replace(delivery, attempt=2))
        assert self.one(place, "/invoice.pdf") == PDF
        assert self.manifest(place)["skipped"] == []

    def test_a_file_that_the_api_does_not_list_is_fetched_by_its_id(self, place: Place, server: ArtifactServer) -> None:
        """As for each task_v2 of a server that keeps files on its own disk."""
        server.add("/v1/artifacts/a_60078/content", VIDEO)
        services = Loopback(origin=server.url)
        services.api = server.url
        path = "file:///skyvern/artifacts/o_1/tsk_1/00_0_stp_1/2026-11-24T23:37:50.101341_a_60078_recording.webm"
        receipt = place.sink(services).send(make_delivery(sample_run(recording_url=path)))
        assert receipt.note == ""
        assert self.one(place, "/recording.webm") == VIDEO
        assert [seen.headers.get("x-api-key") for seen in server.seen] == ["key-of-the-source"]
        strange = sample_run(downloaded_files=[entry(None, artifact_id="../organizations/keys?")])
        assert "no fresh address" in place.sink(services).send(make_delivery(strange)).note
        assert len(server.seen) == 1

    def test_file_refused_with_403_points_to_the_key(self, place: Place, server: ArtifactServer) -> None:
        refused = server.add("/v1/artifacts/a_8/content", b"", status=403)
        sink = place.sink(Loopback([Artifact("recording", "r.mp4", refused, artifact_id="a_8")]))
        with pytest.raises(Unavailable, match="403, and the source's api_key may be refused"):
            sink.send(make_delivery(sample_run(recording_url=refused), received_at=datetime.now(UTC)))

    def test_a_file_that_is_not_there_yet_is_looked_for_once_more(self, place: Place, server: ArtifactServer) -> None:
        """Skyvern sends a cancelled run's webhook while it still turns the recording into a film of another name."""
        url = server.add("/v1/artifacts/a_9/content", b"", status=404)
        sink = place.sink(Loopback([Artifact("recording", "r.mp4", url, artifact_id="a_9")]))
        delivery = make_delivery(sample_run(recording_url=url), received_at=datetime.now(UTC))
        with pytest.raises(Unavailable, match="404, and it may not be ready yet") as caught:
            sink.send(delivery)
        assert (caught.value.retry_after, caught.value.dependency) == (20.0, True)
        server.add("/v1/artifacts/a_9/content", VIDEO)
        assert sink.send(replace(delivery, attempt=2)).note == ""
        assert self.one(place, "/recording.mp4") == VIDEO

    @pytest.mark.parametrize(
        "changes",
        [{"last_attempt": True}, {"received_at": datetime.now(UTC) - LOOK_FOR}],
        ids=["last-attempt", "long-ago"],
    )
    def test_it_is_noted_when_it_does_not_come(
        self, place: Place, server: ArtifactServer, changes: dict[str, Any]
    ) -> None:
        url = server.add("/v1/artifacts/a_9/content", b"", status=404)
        sink = place.sink(Loopback([Artifact("recording", "r.mp4", url, artifact_id="a_9")]))
        delivery = make_delivery(sample_run(recording_url=url), received_at=datetime.now(UTC))
        sink.send(replace(delivery, **changes))
        (skipped,) = self.manifest(place)["skipped"]
        assert skipped["reason"] == "127.0.0.1 answered 404, also at a fresh address"

    # Addresses and limits

    def test_a_private_address_is_not_reached_and_noted(self, place: Place, server: ArtifactServer) -> None:
        server.add("/v1/artifacts/a_8/content", status=302, headers={"location": "http://127.0.0.2:1/secret"})
        run = sample_run(
            downloaded_files=[
                entry("http://169.254.169.254/latest/meta-data/", filename="meta"),
                entry(server.url + "/v1/artifacts/a_8/content", filename="redirected"),
            ]
        )
        place.sink().send(make_delivery(run))
        reasons = [skipped["reason"] for skipped in self.manifest(place)["skipped"]]
        assert "169.254.169.254 is a cloud metadata address" in reasons[0]
        assert "127.0.0.2 is a loopback address" in reasons[1]

    def test_the_api_key_goes_only_to_where_artifacts_are(self, place: Place, server: ArtifactServer) -> None:
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

    def test_over_the_caps_is_noted_and_not_fatal(self, place: Place, server: ArtifactServer) -> None:
        url = server.add("/a", PDF, chunked=True)
        run = full_run(server, downloaded_files=[entry(url, file_size=None)], downloaded_file_urls=[url])
        receipt = place.sink(max_artifact_bytes="6 kB", max_artifacts=2).send(make_delivery(run))
        reasons = {skipped["name"]: skipped["reason"] for skipped in self.manifest(place)["skipped"]}
        assert reasons == {
            "invoice.pdf": "larger than the cap of 6,000 bytes (max_artifact_bytes)",
            "recording.webm": "larger than the cap of 6,000 bytes (max_artifact_bytes)",
            "screenshot-1.png": "more than 2 files (max_artifacts)",
            "screenshot-2.png": "more than 2 files (max_artifacts)",
        }
        assert "larger than the cap" in receipt.note
        assert not [key for key in place.tree() if key.endswith((".pdf", ".webm"))]

    def test_file_over_the_events_total_is_noted(self, place: Place, server: ArtifactServer) -> None:
        files = [entry(server.add(f"/f/{n}", PDF), filename=f"{n}.pdf") for n in range(3)]
        files += [entry(server.add("/f/3", PDF + b"x", chunked=True), filename="3.pdf", checksum=None, file_size=None)]
        sink = place.sink(max_event_bytes=2 * len(PDF) + 100, parallel=1)

        sink.send(make_delivery(sample_run(downloaded_files=files)))

        kept = [file["name"] for file in self.manifest(place)["files"]]
        reasons = {skipped["name"]: skipped["reason"] for skipped in self.manifest(place)["skipped"]}
        assert kept == ["run.json", "0.pdf", "1.pdf"]
        assert reasons.keys() == {"2.pdf", "3.pdf"}
        assert all("larger than what is left of the 14,118 bytes" in reason for reason in reasons.values())

    def test_a_host_that_drips_is_ended_before_the_timeout(self, place: Place, server: ArtifactServer) -> None:
        stop = threading.Event()
        run = sample_run(downloaded_files=[entry(server.add("/slow", trickle=stop), b"", "a", file_size=None)])

        with pytest.raises(Unavailable, match="less than 4,096 bytes a second") as caught:
            place.sink(timeout=3).send(make_delivery(run))

        stop.set()
        assert caught.value.dependency
        assert not [key for key in place.tree() if "/files/" in key]

    # Files that only the API lists

    def test_what_the_api_lists_is_kept_on_request(self, place: Place, server: ArtifactServer) -> None:
        listed = [
            Artifact("har", "network.har", server.add("/h", b"{}"), artifact_id="a_20"),
            Artifact("llm_request", "prompt.json", server.add("/l", b"{}"), artifact_id="a_21"),
            Artifact("download", "invoice.pdf", server.add("/d", PDF), artifact_id="a_1"),
        ]
        place.sink(Loopback(listed), artifacts=["har", "down*"]).send(make_delivery(full_run(server)))
        names = [file["name"] for file in self.manifest(place)["files"]]
        assert names == [
            "run.json",
            "invoice.pdf",
            "recording.webm",
            "screenshot-1.png",
            "screenshot-2.png",
            "network.har",
        ]

    # Names and prefixes

    def test_run_id_never_leaves_its_own_folder(self, place: Place) -> None:
        run_ids = [
            "../../../etc", "..", ".", "/etc/passwd", "a/b", "a_b", "a\\b", "a:b", "\0", "x\ny", "\u202eevil", "", "~",
            "%2e%2e%2f", "ü" * 190, "latest.json", "-rf", "a" * 199, "a" * 200, " ", "CON", "\ud800x", "{{ 7 * 7 }}",
        ]  # fmt: skip
        sink = place.sink(prefix="kept/{{ run.run_type }}/{{ run.run_id }}/")
        for run_id in run_ids:
            sink.send(escaped(sample_run(run_id, run_type="../x", output=run_id)))
        keys = list(place.tree())
        assert len(keys) == 3 * len(run_ids)
        assert len({key.split("/")[2] for key in keys}) == len(run_ids)
        for key in keys:
            parts = key.split("/")
            assert parts[0] == "kept"
            assert len(parts) == (4 if parts[-1] == "latest.json" else 5)
            assert not {"", ".", ".."} & set(parts)
            assert key.isprintable()
        assert place.outside() == []

    def test_filename_never_leaves_its_folder_or_overwrites(self, place: Place, server: ArtifactServer) -> None:
        names = [
            "../../evil", "/etc/passwd", "..", ".", "", "run.json", "manifest.json", "latest.json", "a\0b", "a\nb",
            "a/b", "a\\b", "Invoice.pdf", "invoice.pdf", "invoice.pdf", ".htaccess", "\u202egnp.exe",
            "x" * 300 + ".pdf", "ü" * 200 + ".pdf",
            "Rechnung März [1].pdf", "%2e%2e%2fx", "a?b#c", "nul\ud800", "trailing. ", "日本語.pdf", ".run.json.part",
        ]  # fmt: skip
        files = [entry(server.add(f"/{n}", b"%d" % n), b"%d" % n, name) for n, name in enumerate(names)]
        delivery = escaped(sample_run("tsk_1", downloaded_files=files))
        place.sink().send(delivery)
        folder, tree = "task_v1/tsk_1/", place.tree()
        assert sorted(tree[key] for key in tree if key.startswith(folder + "files/")) == sorted(
            b"%d" % n for n in range(len(names))
        ), "each file is there once, as it was"
        assert tree[f"{folder}{delivery.event_id}/run.json"] == delivery.body
        for key in tree:
            name = key.rpartition("/")[2]
            assert key.startswith((folder + "files/", f"{folder}{delivery.event_id}/")) or key == folder + "latest.json"
            assert name not in ("", ".", "..")
            assert not name.startswith(".")
            assert name.isprintable()
            assert len(name.encode()) <= 200
            assert not set(name) & set('/\\:*?"<>|#%')
        assert {"Rechnung März [1].pdf", "日本語.pdf"} < set(map(plain, tree))
        assert place.outside() == []

    def test_the_files_that_a_test_webhook_names_are_not_asked_for(self, place: Place, server: ArtifactServer) -> None:
        place.sink(artifacts=["recording"], on_missing="fail").send(make_delivery(full_run(server), test=True))
        assert {key.rpartition("/")[2] for key in place.tree()} == {"run.json", "manifest.json"}
        assert server.seen == []

    def test_a_test_delivery_stands_apart_and_moves_no_latest(self, place: Place) -> None:
        receipt = place.sink().send(make_delivery(sample_run("tsk_1"), test=True))
        tree = place.tree()
        assert [key for key in tree if "/test-evt_" in key] == list(tree) != []
        assert "/test-evt_" in receipt.id

    def test_a_body_that_is_no_run_is_kept_all_the_same(self, place: Place) -> None:
        delivery = make_delivery(body=b"\xff\0 not JSON")
        place.sink().send(delivery)
        assert place.tree()[f"_/_/{delivery.event_id}/run.json"] == delivery.body

    def test_the_prefix_can_use_source_labels_and_date(self, place: Place) -> None:
        prefix = "{{ source }}/{{ date.year }}/{{ date.month }}/{{ labels.team }}-{{ run.outcome }}"
        delivery = make_delivery(labels={"team": "billing/eu"})
        place.sink(prefix=prefix).send(delivery)
        assert f"skyvern/2026/03/billing_eu-{sha(b'billing/eu')[:8]}-failed/latest.json" in place.tree()

    def test_two_sources_never_meet_in_one_folder(self, place: Place, server: ArtifactServer) -> None:
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

    # Timeouts and load

    @pytest.mark.parametrize("files", [1, 5])
    def test_trickling_server_fails_without_blaming_the_store(
        self, place: Place, server: ArtifactServer, files: int
    ) -> None:
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

    def test_prefix_that_the_run_cannot_fill_is_refused(self, place: Place) -> None:
        with pytest.raises(Refused, match="the template prefix can't be filled"):
            place.sink(prefix="{{ run.output.customer }}/").send(make_delivery())
        assert place.tree() == {}

    def test_a_throttled_file_says_how_long_to_wait(self, place: Place, server: ArtifactServer) -> None:
        server.script("/a", Page(status=429, headers={"retry-after": "30"}))
        run = sample_run(downloaded_files=[entry(server.url + "/a"), entry(server.add("/b", status=500), filename="b")])
        with pytest.raises(Unavailable, match="and of the others 1 failed") as caught:
            place.sink().send(make_delivery(run))
        assert caught.value.retry_after == 30
