"""A timeout counts against the store or against the artifact's host."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from handlers.contract import Unavailable
from handlers.files.store import LocalStore
from handlers.mirror.download import IncomingFile
from handlers.mirror.mirror import Mirror
from handlers.mirror.options import MirrorOptions
from handlers.mirror.store import ObjectTarget
from handlers.support.deadline import DeadlineExceeded
from handlers.testing.conformance import make_delivery, sample_run
from tests.servers.artifacts import ArtifactServer
from tests.support.mirror import Loopback


class SlowStore(LocalStore):
    """A place that takes longer over the first piece of a file than a send may take."""

    def put_stream(self, target: ObjectTarget, incoming: IncomingFile) -> None:
        for _ in incoming:
            time.sleep(2)


def test_slow_store_is_not_excused_by_the_artifacts_host(tmp_path: Path) -> None:
    stop = threading.Event()
    with ArtifactServer() as server:
        run = sample_run(downloaded_files=[{"url": server.add("/slow", trickle=stop), "filename": "a.bin"}])
        mirror = Mirror(MirrorOptions(timeout=1.5), Loopback(), SlowStore(tmp_path))
        with pytest.raises(Unavailable) as caught:
            mirror.send(make_delivery(run))
        mirror.close()
        stop.set()
    assert not caught.value.dependency


class LastMoment(LocalStore):
    """A place that is at work on a piece when the time runs out: once the artifact's host has had most of it."""

    def put_stream(self, target: ObjectTarget, incoming: IncomingFile) -> None:
        begun, of_host, pieces = time.monotonic() - SETUP, 0.0, iter(incoming)
        while of_host * 4 < (time.monotonic() - begun) * 3:
            asked = time.monotonic()
            next(pieces)
            of_host += time.monotonic() - asked
        raise DeadlineExceeded("the time is over")


# Seconds that a file may take before its first piece is there, however busy the machine is.
SETUP = 0.5


def test_timeout_between_chunks_counts_against_the_slow_host(tmp_path: Path) -> None:
    stop = threading.Event()
    with ArtifactServer() as server:
        run = sample_run(downloaded_files=[{"url": server.add("/slow", trickle=stop), "filename": "a.bin"}])
        mirror = Mirror(MirrorOptions(timeout=60), Loopback(), LastMoment(tmp_path))
        with pytest.raises(Unavailable, match="the time is over") as caught:
            mirror.send(make_delivery(run))
        mirror.close()
        stop.set()
    assert caught.value.dependency
