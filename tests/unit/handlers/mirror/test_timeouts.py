"""A send whose time ends while files are transferred fails alone: the sink's breaker does not open."""

import threading
import time
from pathlib import Path

import pytest

from handlers.contract import Unavailable
from handlers.files import FilesOptions, FilesSink
from handlers.files.store import LocalStore
from handlers.mirror.download import IncomingFile
from handlers.mirror.store import ObjectTarget
from handlers.testing.conformance import make_delivery, sample_run
from tests.servers.artifacts import ArtifactServer
from tests.support.mirror import Loopback


class SlowStore(LocalStore):
    """A place that takes longer over the first piece of a file than a send may take."""

    def put_stream(self, target: ObjectTarget, incoming: IncomingFile) -> None:
        for _ in incoming:
            time.sleep(1)


class SlowSink(FilesSink):
    def make_store(self) -> LocalStore:
        return SlowStore(self.options.path)


def test_slow_store_out_of_time_fails_its_delivery_alone(tmp_path: Path) -> None:
    stop = threading.Event()
    with ArtifactServer() as server:
        run = sample_run(downloaded_files=[{"url": server.add("/slow", trickle=stop), "filename": "a.bin"}])
        mirror = SlowSink("slow", FilesOptions(path=tmp_path, timeout=0.8), Loopback())
        with pytest.raises(Unavailable, match=r"not done within|did not respond in time") as caught:
            mirror.send(make_delivery(run))
        mirror.close()
        stop.set()
    assert caught.value.dependency
    assert not list(tmp_path.rglob("*.bin"))
