"""When a process is started again, what it reports, and which processes a worker has."""

import signal
import time

import pytest

from receiver.config.models import Config
from receiver.errors import UsageError
from receiver.runtime.background import Restarts, respawn_delay
from receiver.runtime.child import ChildStatus
from receiver.runtime.stop import StopRequests, stop_signals
from receiver.worker import plan
from receiver.worker_process import Work

FILES = {"type": "files", "path": "/tmp/files"}
CONFIG = Config.model_validate(
    {
        "sources": {"skyvern": {"secrets": ["s"]}},
        "sinks": {
            "ops": FILES,
            "results": FILES,
            "alone": {**FILES, "worker": "own"},
            "third": {"type": "notify", "urls": ["json://127.0.0.1:1"]},
        },
        "routes": [],
    }
)


def test_restart_delays_grow_to_five_seconds() -> None:
    delays = [respawn_delay(failures) for failures in range(12)]
    assert delays[:5] == [0.0, 0.0, 0.2, 0.4, 0.8]
    assert max(delays) == 5.0
    assert delays == sorted(delays)


def test_status_holds_what_a_process_reports() -> None:
    status = ChildStatus()
    assert (status.working, status.pulse_at, status.reason) == (False, 0.0, "")
    status.working, status.reason = True, "the ledger\ncan't be used"
    status.pulse()
    assert (status.working, status.reason) == (True, "the ledger can't be used")
    assert 0.0 < status.pulse_at <= time.monotonic()
    status.reset()
    assert (status.working, status.pulse_at, status.reason) == (False, 0.0, "")


def test_long_reason_is_cut() -> None:
    status = ChildStatus()
    status.reason = "ä" * 5000
    assert 100 < len(status.reason) < 400


def test_dispatch_and_sinks_that_share_have_one_process() -> None:
    assert plan(CONFIG) == {
        "main": Work(("ops", "results"), dispatches=True),
        "deliver:alone": Work(("alone",)),
        "deliver:third": Work(("third",)),
    }


def test_only_takes_names_of_sinks_and_of_queues() -> None:
    assert list(plan(CONFIG, ["ops", "deliver:results", "ops"])) == ["deliver:ops", "deliver:results"]
    assert plan(CONFIG, ["dispatch", "ops"])["main"] == Work(("ops",), dispatches=True)


def test_a_sink_may_be_called_dispatch() -> None:
    config = CONFIG.model_copy(update={"sinks": {**CONFIG.sinks, "dispatch": CONFIG.sinks["ops"]}})
    assert plan(config)["main"] == Work(("ops", "results", "dispatch"), dispatches=True)
    assert plan(config, ["deliver:dispatch"]) == {"deliver:dispatch": Work(("dispatch",))}
    assert plan(config, ["dispatch"]) == {"main": Work((), dispatches=True)}


def test_only_with_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="--only opps: no such sink in the config; there are dispatch, ops, "):
        plan(CONFIG, ["opps"])


def test_only_a_later_stop_request_is_urgent() -> None:
    now = [10.0]
    stops = StopRequests(clock=lambda: now[0])
    assert not stops
    stops()
    now[0] += 0.5
    stops()
    assert stops
    assert not stops.urgent
    now[0] += 0.5
    stops()
    assert stops.urgent


def test_each_new_reason_is_logged_once() -> None:
    restarts = Restarts(started_at=100.0)
    assert [restarts.failed("no disk", now) for now in (101.0, 102.0, 103.0)] == [True, False, False]
    assert restarts.failed("no memory", 104.0)
    assert (restarts.failures, restarts.due) == (4, 104.0 + respawn_delay(4))
    # One that never got to its work is not stable, however long it lived
    assert not restarts.failed("no memory", 200.0, stable=False)
    assert restarts.failures == 5
    assert restarts.failed("no memory", 200.0)
    assert (restarts.failures, restarts.due) == (1, 200.0)


@pytest.mark.parametrize(("before", "stopped"), [(signal.SIG_IGN, False), (signal.SIG_DFL, True)])
def test_closed_terminal_stops_what_is_not_under_nohup(before: signal.Handlers, stopped: bool) -> None:
    usual, stops = signal.signal(signal.SIGHUP, before), StopRequests()
    try:
        with stop_signals(stops):
            signal.raise_signal(signal.SIGHUP)
        assert bool(stops) is stopped
        assert signal.getsignal(signal.SIGHUP) is before
    finally:
        signal.signal(signal.SIGHUP, usual)


def test_second_hangup_during_a_reload_ends_no_process() -> None:
    # Given a process that reloads: it has left the block, and its new command has not started
    usual, stops = signal.signal(signal.SIGHUP, signal.SIG_DFL), StopRequests()
    requests: list[int] = []
    try:
        with stop_signals(stops, lambda: requests.append(1)):
            signal.raise_signal(signal.SIGHUP)
        # Then a further signal is handled
        signal.raise_signal(signal.SIGHUP)
        assert (len(requests), bool(stops)) == (2, False)
    finally:
        signal.signal(signal.SIGHUP, usual)
