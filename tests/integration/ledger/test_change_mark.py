"""What counts as news, on both databases."""

from __future__ import annotations

from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Ledger, console_sessions, stats
from receiver.ledger.console_sessions import ConsoleSession
from tests.support.ledger import NOW, claim, new_event, record, settle


def test_each_event_and_each_change_of_a_delivery_is_news(ledger: Ledger) -> None:
    marks = [ledger.read(stats.mark)]

    def is_news() -> bool:
        marks.append(ledger.read(stats.mark))
        return marks[-1] != marks[-2]

    assert not is_news()
    record(ledger, new_event("tsk_1", "results"))
    assert is_news()
    claimed = claim(ledger, "results", now=NOW + 1)
    assert is_news()
    settle(ledger, claimed, DeliveryMove.ACCEPT, now=NOW + 2)
    assert is_news()
    assert not is_news()


def test_which_sessions_go_on(ledger: Ledger) -> None:
    for digest, expires_at in (("a", 50.0), ("b", 150.0), ("c", 150.0)):
        session = ConsoleSession(digest, "admin", "x", 1.0, expires_at)
        ledger.write(lambda it, session=session: console_sessions.create(it, session))  # type: ignore[misc]
    assert ledger.read(lambda it: console_sessions.alive(it, {"a", "b", "d"}, 100.0)) == {"b"}
    assert ledger.read(lambda it: console_sessions.alive(it, set(), 100.0)) == frozenset()
