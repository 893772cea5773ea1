"""What only comparing needs is computed once a run has a second event, of what the ledger has of the first."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.config.destinations import RouteConfig
from receiver.dispatch.dispatcher import Dispatcher
from receiver.domain import parsed_event
from receiver.domain.event import Event
from receiver.domain.parsed_event import parse_event, to_compare
from receiver.domain.redaction import Redactor
from receiver.ledger import Connection, Ledger, history
from receiver.ledger.schema import events
from receiver.routing.router import Router
from tests.support.events import body, event

REDACTOR = Redactor(["**.secret"])
NO_REDIS: Any = None


@pytest.fixture
def dispatcher(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Dispatcher:
    return Dispatcher(ledger, Router([RouteConfig(name="all", to=["rows"])]), REDACTOR, NO_REDIS, NO_REDIS)


def sent(at: int = 0, **fields: Any) -> Event:
    """A webhook of one run. `at`: the second in which it changed last."""
    return event(body("tsk_1", modified_at=f"2026-01-01T00:00:{at:02d}", **fields))


def kept(ledger: Ledger) -> list[tuple[str, str, str]]:
    it = events.c
    query = sa.select(it.fingerprint, it.statement, it.extent).order_by(it.seq)
    return [tuple(row) for row in ledger.read(lambda connection: connection.execute(query).all())]


def dispositions(ledger: Ledger) -> list[str]:
    query = sa.select(events.c.disposition).order_by(events.c.seq)
    return list(ledger.read(lambda connection: connection.execute(query).scalars().all()))


def past(ledger: Ledger) -> list[history.PastEvent]:
    return ledger.read(lambda connection: list(history.of_runs(connection, [("skyvern", "tsk_1")])))


FIRST = {"output": {"n": 1, "secret": "x"}, "downloaded_files": [{"filename": "a", "checksum": "c"}]}


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "all at once"])
def test_only_compared_events_store_what_comparing_needs(
    dispatcher: Dispatcher, ledger: Ledger, together: bool
) -> None:
    # Given a result, and the same again with its files signed anew, and then another
    first, again = sent(**FIRST), sent(1, **FIRST)
    other = sent(2, output={"n": 2})

    # When they come alone or in one batch
    for batch in [[first, again, other]] if together else [[first], [again], [other]]:
        dispatcher.dispatch(batch)

    # Then only what was compared has what that takes, and it was compared rightly
    assert dispositions(ledger) == ["new", "repeat", "new"]
    lone, *compared = kept(ledger)
    assert lone == ("", "", "")
    whole = [to_compare(parse_event(each, REDACTOR)).facts for each in (again, other)]
    assert compared == [(facts.fingerprint, facts.statement, facts.extent) for facts in whole if facts]


@pytest.mark.parametrize("size", [1, history.READ_ALONG], ids=["read along", "read by itself"])
def test_what_the_ledger_tells_of_it_is_what_its_body_told(dispatcher: Dispatcher, ledger: Ledger, size: int) -> None:
    first = sent(**FIRST, text="x" * size)
    dispatcher.dispatch([first])

    (found,) = past(ledger)

    expected = to_compare(parse_event(first, REDACTOR)).facts
    assert expected is not None
    assert found.facts is not None
    assert found.facts == expected._replace(seq=found.facts.seq)


def test_unreadable_event_is_not_compared(dispatcher: Dispatcher, ledger: Ledger) -> None:
    # Given an event that names its run and can't be understood, which has no facts either
    dispatcher.dispatch([event(json.dumps({"run_id": "tsk_1"}).encode())])
    dispatcher.dispatch([sent(**FIRST), sent(1, **FIRST)])

    assert dispositions(ledger) == ["unreadable", "new", "repeat"]
    assert [each.facts is None for each in past(ledger)] == [True, False, False]


def test_event_deleted_by_retention_meanwhile_is_not_compared(
    dispatcher: Dispatcher, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a run whose first event is too large to be read along, and is deleted once the run's events were read
    dispatcher.dispatch([sent(**FIRST, text="x" * history.READ_ALONG)])
    read = history._whole

    def delete_first(connection: Connection, *more: Any) -> Any:
        connection.execute(
            sa.delete(events).where(events.c.seq == sa.select(sa.func.min(events.c.seq)).scalar_subquery())
        )
        return read(connection, *more)

    monkeypatch.setattr(history, "_whole", delete_first)

    # When the same comes again
    dispatcher.dispatch([sent(1, **FIRST)])

    # Then it is what the ledger has of the run
    assert dispositions(ledger) == ["new"]


def test_failed_comparison_does_not_harm_the_next_event(
    dispatcher: Dispatcher, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a body that some code of ours is not made for
    first = sent(output={"bad": 1})
    dispatcher.dispatch([first])
    extent = parsed_event.deduplication.extent_of
    monkeypatch.setattr(
        parsed_event.deduplication,
        "extent_of",
        lambda run: 1 / 0 if "bad" in str(run.get("output")) else extent(run),
    )

    # When another result of the run comes, together with that of another run
    dispatcher.dispatch([sent(1, **FIRST), event(body("tsk_2"))])

    # Then both are results, and the log says what is wrong
    assert dispositions(ledger) == ["new", "new", "new"]
    assert f"dispatch.not_compared event={first.id}" in caplog.text
