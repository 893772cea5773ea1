"""What the tests' own network sees of a session: else chaos would take no host away in the middle of a claim."""

from __future__ import annotations

import threading

from receiver.ledger import Connection, Ledger
from receiver.ledger.deliveries import claims
from tests.servers.network import Link
from tests.servers.postgres import PostgresProcess
from tests.support.ledger import NOW, new_event, record
from tests.support.waiting import PATIENCE, eventually


def test_a_claim_is_held_though_its_statements_are_prepared(postgres: PostgresProcess, postgres_ledger: Ledger) -> None:
    # Given a session through a link, which has claimed before, so that its statements are prepared
    def claim(connection: Connection) -> int:
        return len(claims.claim(connection, "hook", 1, "w", NOW))

    url = postgres_ledger.url.render_as_string(hide_password=False)
    with Link(postgres.port) as link:
        ledger = Ledger(url.replace(f":{postgres.port}/", f":{link.port}/"))
        for run_id in ("tsk_1", "tsk_2", "tsk_3"):
            record(ledger, new_event(run_id, "hook"))
        assert [ledger.write(claim) for _ in range(2)] == [1, 1]
        # When it is to be held in the middle of a claim, and claims again
        link.hold_at(b"COMMIT", after=b"claim_owner")
        claimed: list[int] = []
        claiming = threading.Thread(target=lambda: claimed.append(ledger.write(claim)))
        claiming.start()
        # Then it stands still with its delivery, which no other gets, and goes on when it is released
        eventually(lambda: link.is_held)
        assert postgres_ledger.write(claim) == 0
        assert not claimed
        link.release()
        claiming.join(PATIENCE)
        assert claimed == [1]
        ledger.close()
