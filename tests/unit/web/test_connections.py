"""Which connection ends when there are too many, and when one is too slow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.web.connections import (
    BODY_SECONDS,
    HEAD_SECONDS,
    KEEP_ALIVE,
    LEAST_RATE,
    LINGER,
    LINGER_BYTES,
    STALL,
    UNREAD,
    Bounds,
    Connections,
    Unfinished,
    bounds_for,
    is_late,
    network_of,
    split,
)


class Peer:
    """A connection that does what the test says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = self.busy = self.done = False
        self.left = 1000
        self.end = ""

    def __repr__(self) -> str:
        return self.name

    def reading(self) -> bool:
        return not self.paused

    def answering(self) -> bool:
        return self.busy

    def answered(self) -> bool:
        return self.done

    def unsent(self) -> int:
        return self.left

    def refuse(self, status: str, code: str, message: str) -> None:
        self.end = status[:3]

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"


class Server:
    """Connections, and what is open."""

    def __init__(self, **bounds: int) -> None:
        self.all = Connections(Bounds(**{"total": 1000, "unfinished": 100, "by_address": 50, **bounds}))
        self.open: dict[str, Unfinished] = {}
        self.all.count = lambda: len(self.open)

    def connect(self, name: str, now: float = 0.0, address: str = "a") -> bool:
        self.open[name] = Unfinished(Peer(name), address)
        return self.all.opened(self.open[name], now)

    def send(self, name: str, received: int, now: float, *, in_body: bool = True) -> None:
        self.all.progressed(self.open[name], received, in_body, now)

    def peer(self, name: str) -> Any:
        return self.open[name].peer

    def ended(self) -> dict[str, str]:
        return {name: each.peer.end for name, each in self.open.items() if each.peer.end}  # type: ignore[attr-defined]


def test_the_oldest_silent_connection_ends_for_the_newest() -> None:
    server = Server(unfinished=2)
    assert all(server.connect(name, now) for now, name in enumerate("abc"))
    assert server.ended() == {"a": "503"}
    assert server.connect("d", 3.0)
    assert server.ended() == {"a": "503", "b": "503"}
    assert server.all.ended == {"slow": 0, "too_many": 2}
    assert server.all.gauges() == {"open": 4, "head": 2, "body": 0}


def test_a_body_stays_while_there_is_a_head_to_end_and_then_the_slowest_goes() -> None:
    server = Server(unfinished=3)
    for name, received in (("old", 300), ("slow", 100)):
        server.connect(name, 0.0)
        server.send(name, received, 1.0)
    server.connect("silent", 2.0)
    server.connect("x", 3.0)
    assert server.ended() == {"silent": "503"}
    server.send("x", 500, 3.5)
    server.connect("y", 4.0)
    assert server.ended() == {"silent": "503", "slow": "503"}


def test_one_address_ends_its_own_only() -> None:
    server = Server(unfinished=10, by_address=2)
    server.connect("other", 0.0, "b")
    for now, name in enumerate("123", 1):
        server.connect(name, float(now))
    assert server.ended() == {"1": "503"}


def test_what_is_whole_is_no_longer_counted() -> None:
    server = Server(unfinished=1)
    server.connect("a")
    server.all.finished(server.open["a"])
    server.connect("b")
    server.all.finished(server.open["b"])
    server.all.finished(server.open["b"])
    assert (server.ended(), len(server.all)) == ({}, 0)
    server.send("a", 10, 1.0, in_body=False)  # the next request of the connection
    assert server.all.gauges()["head"] == 1


def test_where_all_places_are_taken_idle_connections_go_first_and_who_finds_no_place_is_refused() -> None:
    server = Server(total=2)
    for name in "ab":
        server.connect(name)
        server.all.finished(server.open[name])
        server.all.idle(server.peer(name), 0.0)
    server.all.busy(server.peer("a"))
    assert server.connect("c")
    assert server.ended() == {"b": "closed"}
    server.all.gone(server.open.pop("b"))
    assert server.connect("d"), "c has sent nothing yet"
    assert server.ended() == {"c": "503"}
    del server.open["c"]
    server.all.finished(server.open["d"])
    assert not server.connect("e")
    assert server.all.ended["too_many"] == 2


@pytest.mark.parametrize(
    ("in_body", "received", "began", "progress_at", "late"),
    [
        (False, 0, 0.0, -STALL + 0.1, False),
        (False, 0, 0.0, -STALL - 0.1, True),
        (False, 100, -HEAD_SECONDS + 0.1, 0.0, False),
        (False, 100, -HEAD_SECONDS - 0.1, 0.0, True),
        (True, 100, -BODY_SECONDS + 0.1, 0.0, False),
        (True, 100, -BODY_SECONDS - 0.1, 0.0, True),
        (True, 10 * LEAST_RATE, -BODY_SECONDS - 9.9, 0.0, False),
        (True, 10 * LEAST_RATE, -BODY_SECONDS - 10.1, 0.0, True),
        (True, 1 << 30, -1.0, -STALL - 0.1, True),
    ],
)
def test_when_a_request_is_too_late(in_body: bool, received: int, began: float, progress_at: float, late: bool) -> None:
    request = Unfinished(Peer("a"), "")
    request.in_body, request.received, request.began, request.progress_at = in_body, received, began, progress_at
    assert is_late(request, 0.0) is late


def test_a_sweep_ends_what_is_late_and_no_time_counts_in_which_we_did_not_read() -> None:
    server = Server()
    for name in ("slow", "paused", "next", "refused"):
        server.connect(name)
        if name != "next":
            server.send(name, 10, 0.0)
    server.peer("paused").paused = True
    server.peer("next").busy = True  # the head of a second request, behind an answer that takes long
    server.peer("refused").done = True
    for now in range(60):
        server.all.sweep(now / 2)
    assert server.ended() == {"slow": "408", "refused": "closed"}
    assert server.all.ended == {"slow": 1, "too_many": 0}

    server.peer("paused").paused = False
    server.all.sweep(30.0)
    assert "paused" not in server.ended()
    server.all.sweep(30.0 + STALL + 1.0)
    assert server.ended()["paused"] == "408"


def test_the_rest_of_a_refused_body_is_read_for_a_while_if_it_comes_fast_enough() -> None:
    server = Server()
    for name in ("fast", "stalled"):
        server.connect(name)
        server.send(name, 10, 0.0)
        server.peer(name).done = True
    for now in range(1, int(LINGER) + 1):
        server.send("fast", LEAST_RATE, float(now))
        server.all.sweep(float(now))
        assert server.ended() == ({"stalled": "closed"} if now > STALL else {})
    server.all.sweep(LINGER + 1.5)
    assert server.ended() == {"stalled": "closed", "fast": "closed"}


def test_an_answer_that_nobody_reads_ends_in_time_or_when_its_place_is_needed() -> None:
    server = Server(total=3)
    for now, name in enumerate("abc"):
        server.connect(name)
        server.all.finished(server.open[name])
        server.all.unread(server.peer(name), float(now))
    server.all.read(server.peer("b"))
    server.all.sweep(UNREAD)
    assert server.ended() == {}
    server.all.sweep(UNREAD + 1.0)
    assert server.ended() == {"a": "aborted"}
    assert server.connect("d", UNREAD + 1.0)
    assert server.ended() == {"a": "aborted", "c": "aborted"}
    assert server.all.ended == {"slow": 1, "too_many": 1}


def test_an_answer_is_broken_off_only_when_none_of_it_was_taken_for_long() -> None:
    server = Server()
    assert server.connect("a")
    server.all.finished(server.open["a"])
    server.all.unread(server.peer("a"), 0.0)
    for now in range(0, int(3 * UNREAD), 10):
        server.peer("a").left -= 1
        server.all.sweep(float(now))
    assert server.ended() == {}
    server.all.sweep(4 * UNREAD)
    assert server.ended() == {"a": "aborted"}


def test_an_idle_connection_outlasts_those_that_proxies_keep_and_is_closed_then() -> None:
    server = Server(total=4)
    for name in ("first", "again", "later"):
        server.connect(name)
        server.all.finished(server.open[name])
    for name, since in (("first", 0.0), ("again", 0.0), ("later", 1.0), ("again", 2.0)):
        server.all.busy(server.peer(name))
        server.all.idle(server.peer(name), since)
    server.all.sweep(60.0)  # as long as nginx and AWS keep theirs
    assert server.ended() == {}
    server.all.sweep(KEEP_ALIVE + 1.5)
    assert server.ended() == {"first": "closed", "later": "closed"}


def test_what_is_left_of_an_answered_request_is_read_within_bounds_and_its_place_goes_first() -> None:
    server = Server(total=4)
    for name in ("fast", "silent", "large", "idle"):
        server.connect(name)
    server.all.finished(server.open["idle"])
    server.all.idle(server.peer("idle"), 0.0)
    for name in ("fast", "silent", "large"):
        assert server.all.lingers(server.open[name], 0, True, 0.0)
    assert not server.all.lingers(server.open["large"], LINGER_BYTES + 1, True, 0.0)
    assert not server.all.lingers(server.open["large"], 0, False, 0.0)
    server.all.gone(server.open.pop("large"))
    for now in range(1, int(LINGER) + 1):
        server.all.lingers(server.open["fast"], 1, True, float(now))
        server.all.sweep(float(now))
        assert server.ended() == ({"silent": "closed"} if now > STALL else {})
    server.all.gone(server.open.pop("silent"))
    server.connect("x", LINGER)
    server.connect("y", LINGER)
    assert server.connect("z", LINGER)
    assert server.ended() == {"fast": "closed"}
    server.all.gone(server.open.pop("fast"))
    server.connect("late", LINGER)
    assert server.ended() == {"idle": "closed"}
    server.all.lingers(server.open["z"], 0, False, LINGER)
    server.all.lingers(server.open["z"], 1, False, 2 * LINGER)
    server.all.sweep(2 * LINGER + 1.0)
    assert server.peer("z").end == "closed"


def test_the_body_that_ends_costs_no_look_at_all_others_for_each_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = 500
    server = Server(unfinished=bodies, by_address=bodies)
    for number in range(bodies):
        server.connect(f"{number}")
        server.send(f"{number}", 1000 - number, 0.5)
    compared = 0
    rate = Unfinished.rate

    def counted(each: Unfinished, now: float) -> float:
        nonlocal compared
        compared += 1
        return rate(each, now)

    monkeypatch.setattr(Unfinished, "rate", counted)
    for number in range(100):
        server.connect(f"new {number}", 1.0)
        server.send(f"new {number}", 5000, 1.0)

    assert list(server.ended().items()) == [(f"{number}", "503") for number in range(400, 500)]
    assert compared <= 2 * bodies


@pytest.mark.parametrize("files", [64, 256, 1024, 4096, 20_000, 1 << 20])
def test_bounds_leave_files_for_others(files: int) -> None:
    bounds = bounds_for(files)
    assert 0 < bounds.by_address < bounds.unfinished < bounds.total <= files - min(1024, files // 4)


def test_of_ipv6_a_network_is_one_address() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1%eth0") != network_of("2001:db8:0:1::1")
    assert network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("no:address") == "no:address"


@given(st.integers(64, 1 << 20))
def test_a_second_port_takes_its_part_of_the_bounds_and_leaves_most(files: int) -> None:
    bounds = bounds_for(files)
    public, admin = split(bounds)
    for name in ("total", "unfinished"):
        parts = getattr(public, name), getattr(admin, name)
        assert sum(parts) == getattr(bounds, name)
        assert parts[0] >= 3 * parts[1] > 0
    assert 0 < public.by_address < public.unfinished
