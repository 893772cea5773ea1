"""A reconciler with its ledger, at a simulated Skyvern, and what tests ask of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.dispatch import dispatcher
from receiver.domain.event import Event, event_id
from receiver.domain.run import parse
from receiver.domain.submission import NewSubmission, Submission, SubmissionMove
from receiver.ledger import Ledger, polls, schema
from receiver.ledger.polls import Poll
from receiver.ledger.submissions import lifecycle, records
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from receiver.reconcile import poller
from receiver.reconcile.poller import Reconciler
from simulator.bodies import dumps
from tests.servers.skyvern import KEY, SkyvernSimulator
from tests.support import queries
from tests.support.dispatching import dispatch
from tests.support.ledger import with_tables

TOKEN = "sub_" + "0123456789abcdef" * 2
OTHER = "sub_" + "fedcba9876543210" * 2


def change_polls(ledger: Ledger, run_id: str = "", **values: Any) -> None:
    """Change columns of the polls, or of the one of a run."""
    these = [schema.polls.c.run_id == run_id] if run_id else []
    ledger.write(lambda c: c.execute(schema.polls.update().where(*these).values(**values)))


class Rig:
    """A reconciler with its ledger, at one simulator."""

    def __init__(self, sim: Any, tmp_path: Path, redis_url: str, **config: Any) -> None:
        environ = {"REDIS_URL": redis_url, "DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db"}
        source = {"secrets": ["x"], "api_base": sim.url, "api_key": KEY, "watch": config.pop("watch", False)}
        config = {"webhook_grace": 0, "budget": "1000/s", "watch_back": 86400, **config}
        routes = [{"name": "all", "to": ["results"]}]
        sinks = {"results": {"type": "files", "path": str(tmp_path / "files")}}
        self.settings = Settings.from_env({**environ, "RUNHOOK_DATA": str(tmp_path)})
        self.config = Config.model_validate(
            {"sources": {"skyvern": source}, "sinks": sinks, "routes": routes, "reconcile": config}
        )
        self.sim: SkyvernSimulator = sim
        self.ledger = with_tables(Ledger(self.settings.database_url))
        self.reconciler: Reconciler = poller.build(self.settings, self.config)
        self.dispatcher = dispatcher.build(self.settings, self.config, "test", self.ledger)

    def begin(self, token: str = TOKEN, call: str = "tasks", **fields: Any) -> None:
        new = NewSubmission(token, "skyvern", "k", call, f"hash of {token}", **fields)
        self.ledger.write(lambda c: lifecycle.begin(c, new, time.time()))

    def answered(self, run_id: str, token: str = TOKEN, due_at: float = 1.0) -> None:
        answer = SubmitOutcome(SubmissionMove.ACCEPT, run_id, "task_v1", 200, b"{}", due_at=due_at)
        self.ledger.write(lambda c: lifecycle.record_outcome(c, token, answer, time.time()))

    def overdue(self, prompt: str = "invoice", path: str = "/v1/run/tasks", **fields: Any) -> str:
        """Submit a run, record its submission, and wait for its end. Returns its id."""
        run_id = str(self.sim.submit(prompt, path, **fields)["run_id"])
        self.begin()
        self.answered(run_id)
        self.sim.wait_final(run_id)
        return run_id

    def poll(self, token: str = TOKEN) -> None:
        """Poll for the submission now."""
        self.due_now(token)
        self.reconciler.drain(20)

    def lost(self, token: str = TOKEN) -> None:
        self.ledger.write(
            lambda c: lifecycle.record_outcome(
                c, token, SubmitOutcome(SubmissionMove.MISS, reason="lost", due_at=1.0), time.time()
            )
        )

    def submission(self, token: str = TOKEN) -> Submission:
        found = self.ledger.read(lambda c: records.get(c, token))
        assert found is not None
        return found

    def poll_of(self, token: str = TOKEN) -> Poll | None:
        """The poll of a submission, or of its run; None if it has ended."""
        key = "skyvern", self.submission(token).run_id or token
        return self.ledger.read(lambda c: polls.of_runs(c, [key])).get(key)

    def due_at(self, token: str = TOKEN) -> float | None:
        found = self.poll_of(token)
        return found and found.due_at

    def reason(self, token: str = TOKEN) -> str:
        """Why there is no result yet."""
        found = self.poll_of(token)
        return (found and found.reason) or self.submission(token).reason

    def due_now(self, token: str = TOKEN) -> None:
        key = self.submission(token).run_id or token
        change_polls(self.ledger, key, due_at=time.time(), planned_at=time.time(), leased_until=None)

    def webhook(self, run_id: str, fields: dict[str, Any]) -> Event:
        """A webhook's event of this run, with these fields, for the submission."""
        content = dumps({"run_id": run_id, "run_type": "task_v1", **fields})
        return Event(event_id("skyvern", content), "skyvern", content, time.time())

    def take(self, content: bytes) -> None:
        """Dispatch what Skyvern's API says of a run."""
        if parse(content).final:
            dispatch(self.dispatcher, [Event(event_id("skyvern", content), "skyvern", content, time.time(), "poll")])

    def events(self) -> list[tuple[str, str, str]]:
        rows = self.ledger.read(lambda c: queries.list_events(c, queries.Filter()))
        return [(row["run_id"], row["via"], row["disposition"]) for row in reversed(rows)]

    def deliveries(self) -> int:
        return len(self.ledger.read(lambda c: queries.list_deliveries(c, queries.Filter())))


MakeRig = Callable[..., Rig]
Rigged = Callable[..., tuple[Rig, SkyvernSimulator]]
