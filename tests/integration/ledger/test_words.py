"""Free text over runs, on both databases: a search finds what a plain look at every run finds."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator

import pytest
import sqlalchemy as sa

from receiver.domain.redaction import MASK, Redactor
from receiver.domain.run import Run, RunKey
from receiver.domain.words import document, parse_query
from receiver.ledger import Ledger, reroutes, retention
from receiver.ledger.lists import words
from receiver.ledger.lists.filters import Filter, of_runs
from receiver.ledger.lists.words import BOUNDS, Bounds, Coverage, coverage
from receiver.ledger.schema import run_texts, runs
from tests.support.ledger import NOW, beside, index_words, new_event, record

WORDS = [
    *("login", "timeout", "captcha", "page", "invoice", "inv-17", "inv-18", "2026-11-25"),
    *("東京", "Straße", "paid", "the", "a", "total", "1500", "हिन्दी", "Ωmega"),
]
SEARCHES = (
    *("login", "log", "timeout capt", '"login timeout"', "inv-1", "inv-17 ", '"inv 18"', "2026-11", "東京", "京都"),
    *("strasse", "STRASS", "a the", "t* p* i*", "1500 total", "nothing", "nothing a", "हिन", "ωm", '"the a" paid'),
    "login timeout captcha page paid",
)


def pages(ledger: Ledger, text: str, limit: int = 7, bounds: Bounds = BOUNDS) -> Iterator[list[str]]:
    query, before = parse_query(text), None
    while True:
        found = ledger.read(lambda connection: words.find(connection, query, limit, before, bounds))
        yield [match.run_id for match in found.matches]
        if (before := found.next) is None:
            return


def found(ledger: Ledger, text: str, limit: int = 7, bounds: Bounds = BOUNDS) -> list[str]:
    return [run_id for page in pages(ledger, text, limit, bounds) for run_id in page]


def by_condition(ledger: Ledger, text: str) -> Iterable[str]:
    rows = sa.select(runs.c.run_id).where(*of_runs(Filter(text=text)))
    return ledger.read(lambda connection: list(connection.execute(rows).scalars()))


def check_index(ledger: Ledger) -> None:
    """Check that the index of SQLite has the words of the documents, no more and no less. PostgreSQL sees to it."""
    if ledger.dialect == "sqlite":
        check = "INSERT INTO words (words, rank) VALUES ('integrity-check', 1)"
        ledger.write(lambda connection: connection.exec_driver_sql(check))


@pytest.mark.parametrize("newest", [500, 5])
def test_search_finds_what_a_look_at_every_run_finds(ledger: Ledger, newest: int) -> None:
    # Given runs, some of which changed since they were indexed, and an index for all but the newest
    bounds = Bounds(newest, gathered=10, compared=10)
    chance = random.Random(1)
    said: dict[str, str] = {}
    changed: list[str] = []
    for turn in range(6):
        now, batch = NOW + turn, []
        for run_id in chance.sample([f"r{n}" for n in range(120)], 60):
            title, *values = (" ".join(chance.choices(WORDS, k=3)) for _ in range(3))
            batch.append(new_event(run_id, title=title, output={"turn": f"turn{turn}", "values": values}))
            said[run_id] = document(title, None, {"turn": f"turn{turn}", "values": values})
        record(ledger, *batch, now=now)
        changed = [run_id for run_id in changed if run_id not in {item.run.run_id for item in batch}]
        changed += sorted(item.run.run_id for item in batch)
        index_words(ledger, batch=50)
    # When it is searched, page by page
    for text in (*SEARCHES, "turn3", "turn"):
        query = parse_query(text)
        wanted = [run_id for run_id in reversed(changed) if query.matches(said[run_id])]
        # Then each run that says so is found once, the one that changed last first
        assert found(ledger, text, bounds=bounds) == wanted, text
        assert found(ledger, text, limit=500, bounds=bounds) == wanted, text
        # And lists of other things find the same without the index
        assert set(by_condition(ledger, text)) == set(wanted), text
    check_index(ledger)


def test_page_names_a_next_one_only_if_there_is_more(ledger: Ledger) -> None:
    record(ledger, *(new_event(f"r{n}", title="same") for n in range(4)))
    index_words(ledger)
    assert list(pages(ledger, "same", 2)) == [["r3", "r2"], ["r1", "r0"]]


def test_few_runs_are_found_at_once(ledger: Ledger) -> None:
    record(ledger, *(new_event(f"r{n}", title="same") for n in range(5)))
    index_words(ledger)

    def few(limit: int) -> list[RunKey] | None:
        return ledger.read(lambda connection: words.find_all(connection, parse_query("same"), limit))

    assert few(5) == [("skyvern", f"r{n}") for n in reversed(range(5))]
    assert few(4) is None


def test_newest_changes_are_indexed_first(ledger: Ledger) -> None:
    # Given more changes than a batch takes, one of them of a run that changed before
    for n in range(35):
        record(ledger, new_event(f"r{n:02}", title="same"), now=NOW + n)
    record(ledger, new_event("r03", title="same again"), now=NOW + 100)
    wanted = ["r03", *(f"r{n:02}" for n in range(34, -1, -1) if n != 3)]
    assert ledger.read(coverage) == Coverage(36, NOW)
    # When the clock indexes a batch, then the newest runs are found
    assert ledger.write(lambda connection: words.index(connection, Redactor([]), 10)) == 10
    assert found(ledger, "same") == wanted[:10]
    assert ledger.read(coverage) == Coverage(26, NOW)
    # And after the others, each run once, under its newest change
    assert index_words(ledger) == 26
    assert found(ledger, "same") == wanted
    assert ledger.read(coverage) == Coverage()


def test_number_of_a_change_is_never_given_again(ledger: Ledger) -> None:
    # Given that the outbox was emptied
    record(ledger, new_event("first", title="same"), now=NOW)
    index_words(ledger)
    # When another run changes
    record(ledger, new_event("second", title="same"), now=NOW + 1)
    index_words(ledger)
    # Then it stands before the first
    assert found(ledger, "same") == ["second", "first"]


def test_several_clocks_index_each_run_once(ledger: Ledger) -> None:
    # Given two clocks
    for n in range(15):
        record(ledger, *(new_event(f"r{n}_{m}", title=f"same t{m}") for m in range(10)), now=NOW + n)
    url = ledger.url.render_as_string(hide_password=False)
    until = time.monotonic() + 60

    def clock() -> None:
        own = Ledger(url)
        while own.read(coverage).unindexed or len(found(own, "anew", 500)) < 50:
            index_words(own, batch=8)
            assert time.monotonic() < until
        own.close()

    # When they work at the same time, while runs change
    threads = [threading.Thread(target=clock) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(5):
        record(ledger, *(new_event(f"r{n}_{m}", title=f"same anew t{m}") for m in range(10)), now=NOW + 100 + n)
    for thread in threads:
        thread.join(60)
    # Then every run is there once, and the words are those of the runs
    assert sorted(found(ledger, "same")) == sorted(f"r{n}_{m}" for n in range(15) for m in range(10))
    assert sorted(found(ledger, "anew")) == sorted(f"r{n}_{m}" for n in range(5) for m in range(10))
    check_index(ledger)


def test_retention_removes_the_words(ledger: Ledger) -> None:
    # Given an old run and a new one that share a word
    record(ledger, new_event("old", title="same private"), now=NOW)
    record(ledger, new_event("new", title="same public"), now=NOW + 100)
    index_words(ledger)
    # When the old one is past its retention
    ledger.write(lambda connection: retention.remove(connection, NOW + 50))
    # Then it is not found, and what only it said is nowhere
    assert found(ledger, "same") == ["new"]
    assert found(ledger, "private") == []
    check_index(ledger)
    documents = ledger.read(lambda connection: list(connection.execute(sa.select(run_texts.c.document)).scalars()))
    assert documents == [" same public \n 1 "]


def test_removed_run_is_not_indexed(ledger: Ledger) -> None:
    record(ledger, new_event("old", title="private"), now=NOW)
    ledger.write(lambda connection: retention.remove(connection, NOW + 50))
    index_words(ledger)
    rows = sa.select(sa.func.count()).select_from(run_texts)
    assert ledger.read(lambda connection: connection.execute(rows).scalar_one()) == 0
    assert ledger.read(coverage) == Coverage()


def test_run_removed_while_it_is_indexed_leaves_no_word(ledger: Ledger) -> None:
    if ledger.dialect == "sqlite":
        return  # which has one writer at a time
    record(ledger, new_event("old", title="private"), now=NOW)
    # When retention comes while a clock has read the run, and not committed yet
    with beside(ledger, lambda it: words.index(it, Redactor([])), lambda it: retention.remove(it, NOW + 50)) as done:
        assert done[0] == 1
    # Then its words go with it
    assert found(ledger, "private") == []
    rows = sa.select(sa.func.count()).select_from(run_texts)
    assert ledger.read(lambda connection: connection.execute(rows).scalar_one()) == 0


def test_late_completion_is_indexed_again(ledger: Ledger) -> None:
    event = new_event("r1", title="early")
    record(ledger, event)
    index_words(ledger)
    completed = Run(title="completed late")
    ledger.write(lambda it: reroutes.put_status(it, ("skyvern", "r1"), event.event.id, completed, NOW + 1))
    assert index_words(ledger) == 1
    assert found(ledger, "completed late") == ["r1"]
    assert found(ledger, "early") == []
    check_index(ledger)


def test_redacted_values_are_never_found(ledger: Ledger) -> None:
    # Given a body that was recorded before its field was to be masked, and one after
    record(ledger, new_event("before", output={"user": "ada", "password": "hunter2"}))
    record(ledger, new_event("after", output={"user": "ada", "password": MASK}), now=NOW + 1)
    index_words(ledger, Redactor(["**.password"]))
    assert found(ledger, "ada") == ["after", "before"]
    assert found(ledger, "hunter2") == found(ledger, "redacted") == []


def test_beginning_of_a_large_body_is_indexed(ledger: Ledger) -> None:
    record(ledger, new_event("large", title="title", output=["first", *(f"word{n}" for n in range(40_000)), "last"]))
    record(ledger, new_event("huge_first", junk="x" * words.BODY, output="lost", title="other"), now=NOW + 1)
    index_words(ledger)
    assert found(ledger, "first title") == ["large"]
    assert found(ledger, "last") == []
    assert found(ledger, "other") == ["huge_first"]
