"""The tests that both stores of mirroring sinks pass, a disk and a bucket.

A test class gives the fixture `place`: how to build a sink on an empty store, and how to read that store.
What does not depend on the store is in tests/contract/test_mirror.py and test_mirror_events.py.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from handlers.contract import Delivery, Receipt, Refused, Unavailable
from handlers.testing.conformance import make_delivery, sample_run
from tests.servers.artifacts import ArtifactServer
from tests.support.mirror import (
    PDF,
    PICTURE,
    RECORDING,
    VIDEO,
    Place,
    entry,
    escaped,
    files_of,
    full_run,
    plain,
    polled,
    reported,
)


class StoreSuite:
    """Subclass it as `Test…`."""

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

    def test_erase_leaves_nothing_of_the_run_and_all_of_others(self, place: Place, server: ArtifactServer) -> None:
        sink = place.sink()
        sink.send(make_delivery(full_run(server)))
        others = place.tree()
        first, second = (make_delivery({**full_run(server), "run_id": "tsk_9", "output": n}) for n in (1, 2))
        receipts = [sink.send(first).to_dict(), sink.send(second).to_dict()]
        assert len(place.tree()) > len(others) + 5
        for receipt in receipts:
            sink.erase("skyvern", "", receipt)
        assert place.tree() == others

    def test_erase_takes_the_prefix_as_send_writes_it(self, place: Place) -> None:
        sink = place.sink(prefix="kept// all /{{ run.run_id }}/")
        receipt = sink.send(make_delivery()).to_dict()
        assert any("kept/all/" in key for key in place.tree())
        sink.erase("skyvern", "", receipt)
        assert place.tree() == {}

    def test_erase_refuses_what_lies_outside_and_deletes_nothing(self, place: Place) -> None:
        sink = place.sink(prefix="kept/{{ run.run_id }}/")
        receipt = sink.send(make_delivery()).to_dict()
        other = place.sink(prefix="other/{{ run.run_id }}/").send(make_delivery()).to_dict()
        before = place.tree()
        root = receipt["keys"][0].partition("/kept/")[0]
        for key in (*other["keys"], f"{root}/kept/../other/x", f"{root}/x", "/etc/passwd", "s3://other/kept/x", ""):
            with pytest.raises(Refused, match="not below"):
                sink.erase("skyvern", "", {**receipt, "keys": [*receipt["keys"], key]})
        assert place.tree() == before

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
        assert place.one("/recording.webm") == VIDEO

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
        assert place.one("/big.zip") == body
        assert place.one("/chunked.zip") == body
        assert place.one("/even.zip") == body[: 16 << 20]
        assert place.one("/part.zip") == body[: 8 << 20]
        assert place.one("/less.zip") == body[: 3 << 20]
        assert place.one("/empty.txt") == b""

    @pytest.mark.parametrize(
        ("size", "fault", "words"),
        [
            (20 << 20, {"short": 100}, "the connection broke"),
            (5_000, {"short": 100, "chunked": True}, "the connection broke"),
            (5_000, {"status": 503, "headers": {"retry-after": "17"}}, "answered 503"),
            (20 << 20, {"wrong": True}, "does not match the sender's SHA-256"),
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

        assert place.shared() == ["invoice.pdf", "recording.webm"]
        assert [files_of(place.tree(), event)["recording.webm"] for event in events] == [VIDEO, VIDEO]

    def test_each_order_of_attempts_leaves_the_same_files(self, place: Place, server: ArtifactServer) -> None:
        """Each event sent again after each other one, as after crashes: nothing is stored twice, nothing is lost."""
        server.add(RECORDING, VIDEO)
        events = [make_delivery(polled(server)), make_delivery(reported(server))]
        sink = place.sink()
        for attempt, event in enumerate(itertools.chain.from_iterable(itertools.permutations(events)), 1):
            sink.send(replace(event, attempt=attempt))
        fetched = len(server.seen)

        assert place.shared() == ["invoice.pdf", "recording.webm"]
        before = place.tree()
        for event in events:
            sink.send(replace(event, attempt=9))
        assert place.tree() == before
        assert len(server.seen) == fetched
