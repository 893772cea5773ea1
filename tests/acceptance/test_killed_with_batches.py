"""A worker is killed with whole batches handed on to a sink that takes many: all arrive, and once in its table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from receiver.domain.frame import EntryKeys
from receiver.ledger.schema import attempts, deliveries
from tests.servers.deployment import Deployment
from tests.servers.postgres import PostgresProcess
from tests.servers.receiver import CONFIG
from tests.support.events import body, event
from tests.support.inbox import append
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

KEYS = EntryKeys({name: source["secrets"] for name, source in CONFIG["sources"].items()})
# More than four batches, which are all that may be handed on and under way.
COUNT, MANY = 1200, 256
CLAIMS = sa.select(deliveries.c.id, deliveries.c.prefetched).where(deliveries.c.state == "sending")
ATTEMPTS = sa.select(attempts.c.delivery_id, attempts.c.outcome).order_by(attempts.c.started_at)


def test_a_worker_that_is_killed_with_batches_handed_on_loses_none_and_makes_no_row_twice(
    deployment: Callable[..., Deployment], redis_url: str, postgres: PostgresProcess
) -> None:
    results = sa.create_engine(postgres.url(postgres.create_database()))
    # Given a worker whose table is locked by somebody else
    sink = {"type": "database", "url": results.url.render_as_string(hide_password=False), "timeout": 300}
    routes = [{"name": "all", "to": ["results"]}]
    it = deployment(redis_url, postgres.url(postgres.create_database()), sinks={"results": sink}, routes=routes)
    it.run("clock")
    it.run("worker")
    append(redis_url, event(body("tsk_first")), keys=KEYS)
    it.all_delivered(1)
    with results.connect() as other, other.begin():
        other.execute(sa.text("LOCK TABLE skyvern_runs"))
        # When so many events come at once that it has several batches under way, and it is killed
        append(redis_url, *(event(body(f"tsk_{number}")) for number in range(COUNT)), keys=KEYS)
        eventually(lambda: sum(it.states().values()) == COUNT + 1)

        def kill(connection: sa.Connection) -> dict[str, bool]:
            connection.execute(sa.text("LOCK TABLE deliveries"))  # so that nobody has more of them meanwhile
            claims = {row.id: row.prefetched for row in connection.execute(CLAIMS)}
            it.kill_part("worker")
            return claims

        claims = it.ledger.write(kill)
        # Then what it had is queued again, and of what it had started nobody knows what came of it
        eventually(lambda: it.states().get("sending", 0) == 0)
    tried = it.ledger.read(lambda connection: [tuple(row) for row in connection.execute(ATTEMPTS)])
    (_, first), *lapsed = tried
    assert first == "accepted"
    assert len(lapsed) > MANY
    assert {key for key, _ in lapsed} == {key for key, prefetched in claims.items() if prefetched}
    assert {outcome for _, outcome in lapsed} == {"lapsed"}
    # And the next worker delivers all, each as one row, and what had not started as if it had never been claimed
    it.run("worker")
    it.all_delivered(COUNT + 1)
    with results.connect() as reader:
        rows = reader.execute(sa.text("SELECT count(*), count(DISTINCT run_id) FROM skyvern_runs")).one()
    assert tuple(rows) == (COUNT + 1, COUNT + 1)
    again = {row["id"]: row["attempts"] for row in it.deliveries() if row["attempts"] > 1}
    assert again == {key: 2 for key, _ in lapsed}
    assert {row["spent"] for row in it.deliveries()} == {0}
    results.dispose()
