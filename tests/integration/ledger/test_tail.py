"""Following the events: none is skipped, whatever the order of commits; and a filter means the same as in lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from receiver.domain.new_event import NewDelivery
from receiver.domain.redaction import Redactor
from receiver.ledger import Ledger
from receiver.ledger.lists import tail
from receiver.ledger.lists.filters import Filter
from receiver.ledger.lists.tail import PATIENCE, Position, Tail
from receiver.ledger.schema import events
from tests.support.ledger import NOW, new_event, record


class Follower:
    """One that follows a ledger, at moments that the test gives, from now on or from another one's place."""

    def __init__(self, ledger: Ledger, place: Tail | None = None) -> None:
        self.ledger = ledger
        self.place = place or Tail(ledger.read(lambda connection: tail.newest(connection, NOW)))

    def new(self, now: float = 0.0, most: int = 100) -> list[str]:
        """The runs of what is new."""
        self.place, rows, _ = self.ledger.read(
            lambda connection: tail.follow(connection, self.place, now, most, Filter(), Redactor(()))
        )
        return [row["run_id"] for row in rows]


def load(ledger: Ledger, *seqs: int, masked: Sequence[str] = (), **wanted: Any) -> list[dict[str, Any]]:
    return ledger.read(lambda connection: tail.load(connection, seqs, Filter(**wanted), Redactor(masked)))


def test_tail_yields_each_event_once_with_run_and_sinks(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_0"))
    follower = Follower(ledger)
    assert follower.new() == []
    record(ledger, new_event("tsk_1", "results"), new_event("tsk_2", title="Nightly"))
    record(ledger, new_event("tsk_3"))
    assert follower.new(most=2) == ["tsk_1", "tsk_2"]
    before = follower.place
    assert follower.new() == ["tsk_3"]
    assert follower.new() == []
    assert Follower(ledger, before).new() == ["tsk_3"]
    rows = load(ledger, 2, 3)
    assert [(row["title"], row["deliveries"]) for row in rows] == [(None, [("results", "everything")]), ("Nightly", [])]


@pytest.mark.parametrize("padding", [0, tail.SEARCHED])
def test_no_search_tells_what_nobody_is_shown(ledger: Ledger, padding: int) -> None:
    token = f"sub_{'ab12' * 8}"
    secrets = {"webhook_callback_url": f"https://us.example/webhooks/skyvern/{token}", "password": "hunter2"}
    record(ledger, new_event("tsk_1", **secrets, page="the shop", padding="." * padding))
    texts = ("shop", "hunter", token[:8], token)
    assert [text for text in texts if load(ledger, 1, masked=["**.password"], text=text)] == ["shop"]


def test_text_has_all_words_in_either_case(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", title="Nightly", page="The Shop of Many Words"))
    found = [text for text in ("shop MANY nightly", "shop none") if load(ledger, 1, text=text)]
    assert found == ["shop MANY nightly"]


def test_who_follows_a_moment_gets_what_was_recorded_since(ledger: Ledger) -> None:
    for number in range(4):
        record(ledger, new_event(f"tsk_{number}"), now=NOW + number)
    found = ledger.read(lambda connection: tail.since(connection, NOW + 2))
    assert Follower(ledger, Tail(found)).new() == ["tsk_2", "tsk_3"]
    later = ledger.read(lambda connection: tail.since(connection, NOW + 60))
    assert later == ledger.read(lambda connection: tail.newest(connection, 0.0))


def test_follower_misses_no_event_after_retention_emptied_all(ledger: Ledger) -> None:
    # Given a reader that has come to the newest event, and a ledger from which all events are then removed
    record(ledger, new_event("tsk_1"), new_event("tsk_2"))
    follower = Follower(ledger)
    ledger.write(lambda connection: connection.execute(sa.delete(events)))
    # When more events are recorded before it reads again than there were
    record(ledger, *(new_event(f"tsk_{number}") for number in (3, 4, 5)))
    # Then it gets all of them
    assert follower.new() == ["tsk_3", "tsk_4", "tsk_5"]
    # And so does one that resumes later
    before = follower.place.position
    ledger.write(lambda connection: connection.execute(sa.delete(events)))
    assert follower.new() == []
    record(ledger, *(new_event(f"tsk_{number}") for number in range(6, 12)), now=NOW + 5)
    place = ledger.read(lambda connection: tail.current_position(connection, before))
    assert Follower(ledger, Tail(place)).new() == follower.new() == [f"tsk_{number}" for number in range(6, 12)]


def test_position_in_a_replaced_ledger_skips_no_event(ledger: Ledger) -> None:
    # Given a position in a ledger with more events, and a ledger that replaced it
    record(ledger, new_event("tsk_1"))
    record(ledger, new_event("tsk_2"), new_event("tsk_3"), now=NOW + 5)
    # Then a reader resumes with the first event that was recorded after that position
    place = ledger.read(lambda connection: tail.current_position(connection, Position(700, NOW)))
    assert Follower(ledger, Tail(place)).new() == ["tsk_2", "tsk_3"]


@contextmanager
def uncommitted(ledger: Ledger, run_id: str) -> Iterator[psycopg.Connection]:
    """A transaction of another process, which has recorded an event and not ended."""
    with psycopg.connect(ledger.url.set(drivername="postgresql").render_as_string(hide_password=False)) as connection:
        connection.execute(
            "INSERT INTO events (id, source, run_id, via, run_type, status, outcome, attempt, retry_pending, final,"
            " statement, extent, output_null, disposition, unrouted, problem, submission_id, received_at, recorded_at,"
            " body) VALUES (%s, 'skyvern', %s, 'webhook', '', '', '', 1, false, true, '', '', false, 'new',"
            " false, '', '', 1, 1, '')",
            (f"evt_{run_id}", run_id),
        )
        yield connection
        connection.rollback()


def test_late_commit_comes_in_its_place(postgres_ledger: Ledger) -> None:
    follower = Follower(postgres_ledger)
    with uncommitted(postgres_ledger, "first") as first:
        record(postgres_ledger, new_event("tsk_2"))
        assert follower.new(0.0) == [], "what is before it may come yet"
        assert follower.new(PATIENCE / 2) == []
        # And one who resumes at an earlier place waits for it as well
        other = Follower(postgres_ledger, Tail(follower.place.position))
        assert other.new(PATIENCE / 2) == []
        first.commit()
    assert follower.new(PATIENCE / 2) == ["first", "tsk_2"]
    assert other.new(PATIENCE / 2) == ["first", "tsk_2"]


def test_rolled_back_number_holds_up_nothing(postgres_ledger: Ledger) -> None:
    follower = Follower(postgres_ledger)
    with uncommitted(postgres_ledger, "never"):
        record(postgres_ledger, new_event("tsk_2"))
        assert follower.new(0.0) == []
    # another one is under way by now, and can't be the one before
    with uncommitted(postgres_ledger, "later"):
        record(postgres_ledger, new_event("tsk_4"))
        assert follower.new(0.1) == ["tsk_2"]
        assert follower.new(0.2) == []
    assert follower.new(0.3) == ["tsk_4"]


def test_writer_that_hangs_holds_up_others_for_a_time(postgres_ledger: Ledger) -> None:
    follower = Follower(postgres_ledger)
    with uncommitted(postgres_ledger, "hangs"):
        record(postgres_ledger, new_event("tsk_2"))
        assert follower.new(0.0) == []
        assert follower.new(PATIENCE - 1) == []
        assert follower.new(PATIENCE) == ["tsk_2"]
        record(postgres_ledger, new_event("tsk_3"))
        assert follower.new(PATIENCE) == ["tsk_3"]


@pytest.mark.parametrize(
    ("wanted", "runs_found"),
    [
        ({}, ["tsk_1", "tsk_2"]),
        ({"run_id": "tsk_1"}, ["tsk_1"]),
        ({"sink": "slack", "route": "alerts"}, ["tsk_2"]),
        ({"sink": "slack", "route": "other"}, []),
        ({"status": ("failed",), "title": "nightly"}, ["tsk_1"]),
        ({"since": NOW + 1}, ["tsk_2"]),
    ],
)
def test_filter_means_the_same_as_in_lists(ledger: Ledger, wanted: dict[str, Any], runs_found: list[str]) -> None:
    record(ledger, new_event("tsk_1", "results", title="Nightly é", status="failed"), now=NOW)
    record(ledger, new_event("tsk_2", NewDelivery("slack", "alerts")), now=NOW + 1)
    assert [row["run_id"] for row in load(ledger, 1, 2, **wanted)] == runs_found
