"""A receiver whose disk hangs ends all the same when it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.servers.receiver import ReceiverProcess
from tests.support.events import body
from tests.support.waiting import eventually

AWAY = "redis://127.0.0.1:1/0"
# From when the first file is there, no transaction of SQLite ends. The second one says that one waits.
HANGS = """
import sqlite3, threading
from pathlib import Path

class Hanging(sqlite3.Connection):
    def __exit__(self, *error):
        if Path({mark!r}).exists():
            Path({waits!r}).touch()
            threading.Event().wait()
        return super().__exit__(*error)

connect = sqlite3.connect
sqlite3.connect = lambda *values, **named: connect(*values, factory=Hanging, **named)
"""


def with_hung_disk(receiver: ReceiverProcess, folder: Path) -> Callable[[], None]:
    """Start the receiver, and let its disk hang. Returns what waits until something waits for the disk."""
    mark, waits = folder / "hangs", folder / "waits"
    receiver.first = HANGS.format(mark=str(mark), waits=str(waits))
    receiver.start()
    mark.touch()
    return lambda: eventually(waits.exists, what=lambda: receiver.log[-3000:])


def test_receiver_with_hung_spool_responds_503_and_ends(
    receiver_factory: Callable[..., ReceiverProcess], tmp_path: Path
) -> None:
    # Given a webhook that goes to the spool, and waits for the disk
    receiver = receiver_factory(AWAY, start=False)
    wait = with_hung_disk(receiver, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        posting = pool.submit(receiver.post, body("tsk_1"))
        wait()
        # When the receiver is stopped, then it ends, and the webhook is to come again
        assert receiver.stop() == 0
        answer = posting.result()
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert "ingest.disk_hangs" in receiver.log


def test_receiver_with_hung_quarantine_ends(receiver_factory: Callable[..., ReceiverProcess], tmp_path: Path) -> None:
    # Given a webhook with a wrong signature, whose row waits for the disk
    receiver = receiver_factory(AWAY, start=False)
    wait = with_hung_disk(receiver, tmp_path)
    assert receiver.post(body("tsk_1"), "wrong").status_code == 401
    wait()
    # When the receiver is stopped, then it ends
    assert receiver.stop() == 0
    assert "quarantine.disk_hangs requests=1" in receiver.log
