"""/metrics while the ledger hangs: who scrapes waits 10 s, and must hear of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient

from receiver.config.loader import load
from receiver.config.settings import Settings
from receiver.ledger import Ledger
from receiver.telemetry.receiver import ReceiverMetrics
from receiver.web import metrics as endpoint
from receiver.web.component import Context, OperatorAccess
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.support.waiting import Stopwatch


class Everybody(OperatorAccess):
    """As on an admin port."""

    async def require(self, request: Request) -> None:
        pass


def test_hanging_ledger_does_not_hold_up_metrics(
    postgres: PostgresProcess,
    postgres_ledger: Ledger,
    redis_url: str,
    tmp_path: Path,
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("sources: {skyvern: {secrets: [s]}}\n")
    with Gate(postgres.port) as gate:
        # Given a ledger behind a network that holds the first answer
        url = postgres_ledger.url.set(port=gate.port).render_as_string(hide_password=False)
        settings = Settings.from_env({"REDIS_URL": redis_url, "DATABASE_URL": url, "RUNHOOK_DATA": str(tmp_path)})
        nothing = cast(Any, None)
        context = Context(
            settings, load(config, {}), nothing, ReceiverMetrics(), nothing, nothing, Everybody(has_admin_port=True)
        )
        component = endpoint.metrics(context, within=0.3)
        gate.catch(b"heartbeats", "after")
        # When it is asked
        with TestClient(Starlette(routes=list(component.admin), lifespan=lambda _: component.lifespan())) as client:
            watch = Stopwatch()
            shown = client.get("/metrics").text
            watch.at_most(10)  # a scrape has given up by then
        gate.forget()
    # Then it did not wait until another connection answers, and Redis was asked all the same
    assert "runhook_ledger_up 0.0" in shown
    assert "runhook_tally_up 1.0" in shown
