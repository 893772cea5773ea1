"""Units that share a process, without a worker."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from receiver.runtime import shared_process
from receiver.runtime.child import ChildContext, SharedStatus


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_process_ends_with_its_last_unit_though_a_thread_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given two units whose threads go on after they have ended
    let_go = threading.Event()
    at_last = threading.Timer(60.0, let_go.set)
    at_last.start()

    def start(name: str, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            work()
            let_go.wait()

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    monkeypatch.setattr(shared_process, "start_thread", start)
    started = threading.Barrier(3)

    def main(context: ChildContext) -> int:
        stopped = threading.Event()
        context.on_stop(stopped.set)
        started.wait()
        stopped.wait()
        return 0

    def stop() -> None:
        started.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    # When the process is asked to stop
    threading.Thread(target=stop, daemon=True).start()
    contexts = {label: ChildContext(label, SharedStatus(), ()) for label in ("one", "other")}
    code = shared_process.run_shared_process(dict.fromkeys(contexts, main), contexts)

    # Then it ends before the threads do, with nobody to blame
    waited = let_go.is_set()
    at_last.cancel()
    let_go.set()
    assert not waited
    assert code == 0
    assert [context.status.trouble for context in contexts.values()] == ["", ""]
