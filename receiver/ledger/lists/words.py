"""Search runs by words: SQLite's FTS5 and PostgreSQL's GIN, which the clock fills from an outbox.

Words are made in Python (domain/words.py), so both databases find the same. Recording adds a row to `to_index`; the
clock writes what the run says to `run_texts`, under the number of that change, so the highest numbers are those of the
runs that changed last. Only this module knows how the databases differ. Why: docs/decisions/0011-free-text.md.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from pydantic_core import from_json

from receiver.domain.redaction import Redactor
from receiver.domain.run import RunKey, members
from receiver.domain.words import Term, TextQuery, document
from receiver.ledger.database import dialect, many_rows
from receiver.ledger.database.dialect import contains_exactly
from receiver.ledger.schema import events, run_texts, runs, to_index

# Changes that one transaction indexes, and bytes that it reads of a body. On SQLite other writers wait some 10 ms.
BATCH: Final = 64
BODY: Final = 256 << 10
# Changes that are counted.
COUNT_LIMIT: Final = 10_000

# Share of the newest documents from which on a word is common.
_COMMON: Final = 0.01
# Bits of a change's number within its block. Each document has the block as a word on PostgreSQL, whose index has no
# order: a search of some blocks reads only their part of each word's list.
_BLOCK: Final = 14
_LAST: Final = (1 << 63) - 1
_ADVISORY_LOCK: Final = 0x574F524453  # "WORDS"

log = logging.getLogger("runhook.clock")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one page of a search reads.

    `newest`: documents before the index is asked: common words are found there, in order, and they show how common the
    words are. Then, of words that are all common: `gathered`: changes of which PostgreSQL's index gathers the hits;
    `compared`: changes of which FTS5 compares the words.
    """

    newest: int = 500
    gathered: int = 32_768
    compared: int = 150_000


BOUNDS: Final = Bounds()


class Match(NamedTuple):
    """A run that was found. `seq`: the number of its change. `changed_at`: its `updated_at`."""

    seq: int
    source: str
    run_id: str
    changed_at: float

    @property
    def key(self) -> RunKey:
        """The run."""
        return self.source, self.run_id


class Found(NamedTuple):
    """Runs that were found, the one that changed last first.

    `next`: the number before which the search continues; None at its end. There may be more although fewer were found
    than asked for, and none at all.
    """

    matches: list[Match]
    next: int | None


class Coverage(NamedTuple):
    """`unindexed`: changes that a search does not find yet, up to COUNT_LIMIT. `since`: when the oldest of them was
    recorded, seconds since the epoch; None without changes."""

    unindexed: int = 0
    since: float | None = None

    def behind(self, now: float) -> float:
        """Return for how many seconds the oldest change has waited to be indexed."""
        return 0.0 if self.since is None else max(0.0, now - self.since)


def create_index(connection: sa.Connection) -> None:
    """Create the index over `run_texts`."""
    if connection.dialect.name == "postgresql":
        words = "array_remove(string_to_array(translate(document, E'\\n', ' '), ' '), '')"
        block = f"'#' || (seq >> {_BLOCK})::text"
        column = f"words tsvector GENERATED ALWAYS AS (array_to_tsvector(array_append({words}, {block}))) STORED"
        connection.exec_driver_sql(f"ALTER TABLE run_texts ADD COLUMN {column}")
        # Each search reads what is not sorted in yet, so that is kept short. Without it, writing costs twice as much.
        connection.exec_driver_sql(
            "CREATE INDEX ix_run_texts_words ON run_texts USING gin (words) WITH (gin_pending_list_limit=256)"
        )
    else:
        # Its tokenizer takes letters and digits of ASCII, and all other characters, as parts of words.
        options = "content='run_texts', content_rowid='seq', tokenize='ascii'"
        connection.exec_driver_sql(f"CREATE VIRTUAL TABLE words USING fts5(document, {options})")


def coverage(connection: sa.Connection) -> Coverage:
    """Return how many changes a search does not find yet."""
    some = sa.select(to_index.c.seq).limit(COUNT_LIMIT).subquery()
    oldest = sa.select(to_index.c.queued_at).order_by(to_index.c.seq).limit(1).scalar_subquery()
    return Coverage(*connection.execute(sa.select(sa.func.count(), oldest).select_from(some)).one())


def find(
    connection: sa.Connection, query: TextQuery, limit: int, before: int | None = None, bounds: Bounds = BOUNDS
) -> Found:
    """Find up to `limit` runs that say the words, behind the number `before` when that is given."""
    search = _Search(connection, query, _LAST if before is None else before, bounds)
    look = search.on_postgresql if connection.dialect.name == "postgresql" else search.on_sqlite
    found, end = look(limit + 1)
    return Found(found[:limit], found[limit - 1].seq if len(found) > limit else end or None)


def find_all(connection: sa.Connection, query: TextQuery, limit: int, bounds: Bounds = BOUNDS) -> list[RunKey] | None:
    """Return all runs that say the words; None when there are more than `limit`, or that can't be known soon."""
    found = find(connection, query, limit, None, bounds)
    return None if found.next is not None else [match.key for match in found.matches]


def has_words(query: TextQuery, text: sa.ColumnElement[str] = run_texts.c.document) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that a document has all that is searched for, without an index."""
    return [contains_exactly(text, pattern) for pattern in query.patterns]


class _Asked(NamedTuple):
    """What an index is asked for. `phrases`: those of the query without common beginnings. `newest`: how many of the
    newest documents are hits. `common`: no word is rare. `low`: the number of the last of those documents; 0 if all
    were read."""

    phrases: Sequence[tuple[Term, ...]]
    newest: int
    common: bool
    low: int


@dataclass(frozen=True, slots=True)
class _Search:
    """One search of runs whose number is below `top`."""

    connection: sa.Connection
    query: TextQuery
    top: int
    bounds: Bounds

    def on_sqlite(self, limit: int) -> tuple[list[Match], int]:
        """Return up to `limit` runs, and the number down to which all were looked at."""
        terms = self.query.terms
        if len(terms) == 1 and not terms[0].prefix:
            return self._with_fts5(self.query.phrases, limit, 0), 0
        asked = self._asked()
        if not asked.low or asked.newest >= limit:
            return self._read(limit, self.top, self.bounds.newest), asked.low
        # FTS5 compares the runs of all words: where no word is rare, those of the newest changes.
        low = max(0, asked.low - self.bounds.compared) if asked.common else 0
        return self._with_fts5(asked.phrases, limit, low), low

    def on_postgresql(self, limit: int) -> tuple[list[Match], int]:
        """Return up to `limit` runs, and the number down to which all were looked at."""
        found = self._read(limit, self.top, self.bounds.newest)
        if len(found) == limit or not (asked := self._asked()).low:
            return found, 0
        more, end = self._with_gin(asked, limit - len(found))
        return found + more, end

    def _read(self, limit: int, top: int, count: int) -> list[Match]:
        """Find runs by reading up to `count` documents below `top`."""
        some = _newest(top, count)
        rows = sa.select(*(some.c[column.name] for column in _COLUMNS)).where(*has_words(self.query, some.c.document))
        return self._matches(rows.order_by(some.c.seq.desc()).limit(limit))

    def _matches(self, rows: sa.Select[Any]) -> list[Match]:
        return [Match(*row) for row in self.connection.execute(rows)]

    def _hits(self, phrases: Sequence[tuple[Term, ...]]) -> sa.Select[Any]:
        """Return the query for the runs that an index finds by `phrases`, with what the index does not check."""
        checked = has_words(self.query) if self.query.needs_document or phrases != self.query.phrases else []
        return sa.select(*_COLUMNS).where(*checked)

    def _asked(self) -> _Asked:
        """Return what to ask the index for, by what the newest documents have.

        It is not asked for beginnings of words that are common, if there are other words: both databases gather all
        runs with a beginning first, so reading some documents costs less.
        """
        query, count = self.query, self.bounds.newest
        newest = _newest(self.top, count)
        has_each = (contains_exactly(newest.c.document, f" {term.word}") for term in query.terms)
        conditions = (sa.and_(*has_words(query, newest.c.document)), *has_each)
        counts = (sa.func.coalesce(sa.func.sum(sa.case((has, 1), else_=0)), 0) for has in conditions)
        lowest = sa.case((sa.func.count() == count, sa.func.min(newest.c.seq)), else_=0)
        low, hits, *of_each = self.connection.execute(sa.select(lowest, *counts)).one()
        frequent = {term for term, number in zip(query.terms, of_each, strict=True) if number >= count * _COMMON}
        left = (tuple(term for term in phrase if not (term.prefix and term in frequent)) for phrase in query.phrases)
        phrases = tuple(filter(None, left)) or query.phrases
        common = all(term in frequent for phrase in phrases for term in phrase)
        return _Asked(phrases, hits, common, low)

    def _with_fts5(self, phrases: Sequence[tuple[Term, ...]], limit: int, low: int) -> list[Match]:
        words: Any = sa.table("words", sa.column("rowid", sa.Integer))
        asked = (f'"{" ".join(term.word for term in phrase)}"{"*" * phrase[-1].prefix}' for phrase in phrases)
        matching = sa.literal_column("words").op("MATCH")(" AND ".join(asked))
        rows = self._hits(phrases).select_from(words.join(run_texts, run_texts.c.seq == words.c.rowid))
        rows = rows.where(matching, words.c.rowid < self.top, words.c.rowid >= low)
        return self._matches(rows.order_by(words.c.rowid.desc()).limit(limit))

    def _with_gin(self, asked: _Asked, limit: int) -> tuple[list[Match], int]:
        low = max(0, asked.low - self.bounds.gathered)
        found = self._gather(asked.phrases, limit, asked.low, low)
        if asked.common or not low or len(found) == limit:
            return found, low
        return found + self._gather(asked.phrases, limit - len(found), low, 0), 0

    def _gather(self, phrases: Sequence[tuple[Term, ...]], limit: int, top: int, low: int) -> list[Match]:
        terms = list(dict.fromkeys(f"'{term.word}'" + ":*" * term.prefix for phrase in phrases for term in phrase))
        if low:
            blocks = (f"'#{block}'" for block in range(low >> _BLOCK, (top >> _BLOCK) + 1))
            terms.append(f"({' | '.join(blocks)})")
        has_terms = sa.text("words @@ CAST(:terms AS tsquery)").bindparams(terms=" & ".join(terms))
        # The index has no order: all hits are gathered, then sorted.
        hits = self._hits(phrases).where(has_terms, run_texts.c.seq < top, run_texts.c.seq >= low).cte("hits")
        hits = hits.prefix_with("MATERIALIZED", dialect="postgresql")
        # By its statistics of common words it would read the whole table, or walk it.
        self._allow_scans("off")
        found = self._matches(sa.select(hits).order_by(hits.c.seq.desc()).limit(limit))
        self._allow_scans("on")
        return found

    def _allow_scans(self, value: str) -> None:
        settings = (sa.func.set_config(name, value, True) for name in ("enable_seqscan", "enable_indexscan"))
        self.connection.execute(sa.select(*settings))


_COLUMNS: Final = (run_texts.c.seq, run_texts.c.source, run_texts.c.run_id, run_texts.c.changed_at)


def _newest(top: int, count: int) -> sa.Subquery:
    its = sa.select(*_COLUMNS, run_texts.c.document).where(run_texts.c.seq < top)
    return its.order_by(run_texts.c.seq.desc()).limit(count).subquery()


def changes(keys: Iterable[RunKey], now: float) -> many_rows.Insert:
    """Return what queues runs whose words may have changed."""
    rows = [{"source": source, "run_id": run_id, "queued_at": now} for source, run_id in sorted(set(keys))]
    return many_rows.Insert(to_index.c.run_id, rows)


def index(connection: sa.Connection, redactor: Redactor, batch: int = BATCH) -> int:
    """Index the runs of the `batch` newest changes. Returns how many it took; 0 without changes, or while another clock
    indexes. What `redactor` masks is never indexed.

    One clock at a time: an older text never replaces a newer one, and a run that retention removes never comes back.
    """
    if not _locked(connection, wait=False):
        return 0
    changes = connection.execute(sa.select(to_index).order_by(to_index.c.seq.desc()).limit(batch)).all()
    numbers: dict[RunKey, int] = {}
    for row in changes:
        numbers.setdefault((row.source, row.run_id), row.seq)
    known = {(row.source, row.run_id): row for row in _documents(connection, numbers)}
    stale = {key: seq for key, seq in numbers.items() if key not in known or known[key].seq < seq}
    texts = _texts(connection, stale, redactor)
    _delete(connection, [known[key] for key in stale if key in known])
    rows = [
        {"seq": numbers[key], "source": key[0], "run_id": key[1], "changed_at": changed_at, "document": said}
        for key, (changed_at, said) in texts.items()
    ]
    if rows:
        connection.execute(sa.insert(run_texts), rows)
        _write_fts5(connection, "INSERT INTO words (rowid, document) VALUES (?, ?)", rows)
    if changes:
        connection.execute(sa.delete(to_index).where(dialect.among(to_index.c.seq, [row.seq for row in changes])))
    return len(changes)


def remove(connection: sa.Connection, keys: Collection[RunKey]) -> None:
    """Remove the words of these runs, whose rows are gone. Call it last in a transaction: it waits for its turn."""
    if keys:
        _locked(connection, wait=True)
        _delete(connection, _documents(connection, keys))


def _locked(connection: sa.Connection, *, wait: bool) -> bool:
    """Whether this transaction may change the index, and no other until it ends. SQLite has one writer anyway."""
    if connection.dialect.name == "sqlite":
        return True
    name = "pg_advisory_xact_lock" if wait else "pg_try_advisory_xact_lock"
    return connection.exec_driver_sql(f"SELECT {name}({_ADVISORY_LOCK})").scalar() is not False


def _documents(connection: sa.Connection, keys: Iterable[RunKey]) -> list[Any]:
    """Return what is indexed of these runs."""
    its = [*(run_texts.c[name] for name in ("seq", "source", "run_id", "document"))]
    return list(connection.execute(sa.select(*its).where(dialect.of_runs(run_texts, keys))))


def _delete(connection: sa.Connection, rows: Sequence[Any]) -> None:
    if rows:
        its = [{"seq": row.seq, "document": row.document} for row in rows]
        _write_fts5(connection, "INSERT INTO words (words, rowid, document) VALUES ('delete', ?, ?)", its)
        connection.execute(sa.delete(run_texts).where(dialect.among(run_texts.c.seq, [it["seq"] for it in its])))


def _write_fts5(connection: sa.Connection, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write to the index of FTS5, which must get the very text that it has or gets. PostgreSQL's follows its table."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(statement, [(row["seq"], row["document"]) for row in rows])


def _texts(connection: sa.Connection, keys: Collection[RunKey], redactor: Redactor) -> dict[RunKey, tuple[float, str]]:
    """Return when those of the runs that exist changed, and what they say."""
    body = sa.func.substr(events.c.body, 1, BODY).label("body")
    columns = (runs.c.source, runs.c.run_id, runs.c.updated_at, runs.c.title, runs.c.failure_reason)
    query = sa.select(*columns, sa.func.length(events.c.body).label("size"), body).where(runs.c.event_id != "")
    query = query.outerjoin_from(runs, events, events.c.id == runs.c.event_id)
    rows = connection.execute(query.where(dialect.of_runs(runs, keys)))
    return {(row.source, row.run_id): (row.updated_at, _said(row, bytes(row.body or b""), redactor)) for row in rows}


def _said(row: Any, body: bytes, redactor: Redactor) -> str:
    """Return the document of a run. `body`: the first BODY bytes of it."""
    data: dict[str, Any] = {"title": row.title, "failure_reason": row.failure_reason}
    try:
        data["output"] = _output(body, complete=len(body) == (row.size or 0))
        data = redactor.mask(data)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        # One body never stops its neighbours.
        log.exception("clock.not_indexed source=%s run=%s: only its title and reason are", row.source, row.run_id)
        data = redactor.mask({"title": row.title, "failure_reason": row.failure_reason})
    return document(data["title"], data["failure_reason"], data.get("output"))


def _output(body: bytes, *, complete: bool) -> Any:
    """Return the output in a body, of which only the beginning may be there."""
    if complete:
        return members(body).get("output")
    try:
        data = from_json(body, allow_partial="trailing-strings", cache_strings="keys")
    except ValueError:
        return None
    return data.get("output") if isinstance(data, dict) else None
