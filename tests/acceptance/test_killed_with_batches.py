"""A worker is killed with whole batches for a sink that takes many: all arrive, and once in its table."""

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
# More than four batches, which are all that a process holds.
COUNT, MANY = 1200, 256
CLAIMS = sa.select(deliveries.c.id).where(deliveries.c.state == "sending")
ATTEMPTS = sa.select(attempts.c.delivery_id, attempts.c.outcome).order_by(attempts.c.started_at)


def test_kill_with_batches_under_way_loses_and_doubles_no_row(
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

        def kill(connection: sa.Connection) -> set[str]:
            connection.execute(sa.text("LOCK TABLE deliveries"))  # so that nobody has more of them meanwhile
            claims = set(connection.scalars(CLAIMS))
            it.kill_part("worker")
            return claims

        claims = it.ledger.write(kill)
        # Then what it held is queued again once its claims lapse
        eventually(lambda: it.states().get("sending", 0) == 0)
    tried = it.ledger.read(lambda connection: [tuple(row) for row in connection.execute(ATTEMPTS)])
    (_, first), *lapsed = tried
    assert first == "accepted"
    assert len(lapsed) > MANY
    assert {key for key, _ in lapsed} == claims
    assert {outcome for _, outcome in lapsed} == {"lapsed"}
    # And the next worker delivers all, each as one row, and the first lapse spends nothing
    it.run("worker")
    it.all_delivered(COUNT + 1)
    with results.connect() as reader:
        rows = reader.execute(sa.text("SELECT count(*), count(DISTINCT run_id) FROM skyvern_runs")).one()
    assert tuple(rows) == (COUNT + 1, COUNT + 1)
    again = {row["id"]: row["attempts"] for row in it.deliveries() if row["attempts"] > 1}
    assert again == {key: 2 for key, _ in lapsed}
    assert {row["spent"] for row in it.deliveries()} == {0}
    results.dispose()
