"""Deliveries against a model in memory: whatever is recorded, claimed, settled, lapsed, replayed and cancelled in
whatever order, the ledger has what the model has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import delivery_id
from receiver.domain.new_event import NewDelivery
from receiver.domain.time_limits import CLAIM
from receiver.ledger import Ledger, verbs
from receiver.ledger.deliveries import attempts, claims, recovery
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.deliveries.creation import ClaimAtOnce
from receiver.ledger.schema import attempts as attempt_rows
from receiver.ledger.schema import deliveries, metadata
from tests.support.ledger import NOW, claim, new_event, record_in, result_of

OWNERS = ("w1", "w2")
LATER = "later"  # waits for `ops`
ENDED = {"delivered", "dead", "cancelled"}


@dataclass
class Modelled:
    """What a delivery should be."""

    id: str
    event: str
    sink: str
    state: str
    due: float
    attempts: int = 0
    spent: int = 0
    owner: str = ""
    until: float | None = None
    outcomes: dict[int, str] = field(default_factory=dict)

    def is_claim(self, owner: str, number: int) -> bool:
        return self.state == "sending" and (self.owner, self.attempts) == (owner, number)

    def leave(self, state: str) -> None:
        self.state, self.owner, self.until = state, "", None


class Deliveries(RuleBasedStateMachine):
    """Workers hold what they have claimed, also when that has lapsed."""

    ledger: Ledger  # of the test
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.model: dict[str, Modelled] = {}
        self.ledger.write(lambda it: [it.execute(table.delete()) for table in metadata.sorted_tables])

    # --- What happens

    @rule(target=held, number=st.integers(0, 2), linked=st.booleans(), owner=st.sampled_from(["", *OWNERS]))
    def record(self, number: int, linked: bool, owner: str) -> Any:
        """An event comes, again perhaps; with an owner, as its claim."""
        sinks = ["ops", NewDelivery(LATER, "r", after=("ops",))] if linked else ["ops"]
        item = new_event(f"tsk_{number}", *sinks)
        key, until = delivery_id(item.event.id, "ops"), self.now + CLAIM

        claim_at_once = ClaimAtOnce(owner, until, {key}) if owner else None
        self.ledger.write(lambda connection: record_in(connection, [item], self.now, claim_at_once))
        if key in self.model:
            return multiple()
        mine = self.model[key] = Modelled(key, item.event.id, "ops", "queued", self.now)
        if linked:
            other = delivery_id(item.event.id, LATER)
            self.model[other] = Modelled(other, item.event.id, LATER, "held", self.now)
        if not owner:
            return multiple()
        mine.state, mine.attempts, mine.owner, mine.until = "sending", 1, owner, until
        return multiple((owner, born(key, item.event.id, self.now)))

    @rule(
        target=held,
        owner=st.sampled_from(OWNERS),
        sink=st.sampled_from(["ops", LATER]),
        limit=st.integers(1, 2),
    )
    def claim(self, owner: str, sink: str, limit: int) -> Any:
        return self.claimed(owner, sink, limit)

    @rule(target=held, owner=st.sampled_from(OWNERS))
    def lose_and_claim_again(self, owner: str) -> Any:
        """What a process holds lapses, as while it was stopped, and it claims the same once more."""
        self.lapsed([it for it in self.sending() if it.owner == owner], owner)
        return self.claimed(owner, "ops", 3)

    def claimed(self, owner: str, sink: str, limit: int) -> Any:
        due = sorted(
            (each for each in self.model.values() if each.sink == sink and each.state == "queued"),
            key=lambda it: it.due,
        )
        due = [each for each in due if each.due <= self.now]
        found = claim(self.ledger, sink, owner, limit, self.now)
        # The oldest ones
        assert len(found) == min(limit, len(due))
        assert [self.model[each.id].due for each in found] == [each.due for each in due[: len(found)]]
        for each in found:
            it = self.model[each.id]
            assert (it.state, each.spent, each.attempt_number) == ("queued", it.spent, it.attempts + 1)
            it.state, it.attempts, it.owner, it.until = "sending", it.attempts + 1, owner, self.now + CLAIM
        return multiple(*((owner, each) for each in found))

    @rule(
        some=st.lists(held, min_size=1, max_size=3, unique_by=lambda it: (it[0], it[1].id, it[1].attempt_number)),
        move=st.sampled_from([DeliveryMove.ACCEPT, DeliveryMove.DEFER, DeliveryMove.DIE, DeliveryMove.HAND_BACK]),
        spends=st.booleans(),
    )
    def settle(self, some: list[tuple[str, Any]], move: DeliveryMove, spends: bool) -> None:
        """A worker settles what it holds, in one transaction, or hands it back."""
        owner = some[0][0]
        mine = {each.id: each for name, each in some if name == owner}.values()
        if move is DeliveryMove.HAND_BACK:
            # What never started has no attempt.
            mine = [each for each in mine if each.attempt_number not in self.model[each.id].outcomes]
            self.ledger.write(lambda it: attempts.settle(it, owner, [], self.now, list(mine)))
        else:
            results = [result_of(each, move, self.now, due_at=self.now + 5, spends=spends) for each in mine]
            self.ledger.write(lambda it: attempts.settle(it, owner, results, self.now))
        word = {DeliveryMove.ACCEPT: "accepted", DeliveryMove.DEFER: "unavailable", DeliveryMove.DIE: "refused"}
        for each in mine:
            it = self.model[each.id]
            if move is not DeliveryMove.HAND_BACK:
                before = it.outcomes.setdefault(each.attempt_number, word[move])
                it.outcomes[each.attempt_number] = word[move] if before == "lapsed" else before
            if not it.is_claim(owner, each.attempt_number):
                if move is DeliveryMove.ACCEPT and (it.state, it.attempts) == ("queued", each.attempt_number):
                    it.leave("delivered")
                continue
            if move is DeliveryMove.HAND_BACK:
                it.attempts -= 1
                it.leave("queued")
                continue
            it.leave({DeliveryMove.ACCEPT: "delivered", DeliveryMove.DEFER: "waiting", DeliveryMove.DIE: "dead"}[move])
            if move is not DeliveryMove.ACCEPT:
                it.due, it.spent = self.now + 5, it.spent + spends
        if move in (DeliveryMove.ACCEPT, DeliveryMove.DIE):
            self.release({each.event_id for each in mine})

    @rule(one=held)
    def renew(self, one: tuple[str, Any]) -> None:
        owner, each = one
        it, until = self.model[each.id], self.now + CLAIM
        mine = it.is_claim(owner, each.attempt_number)
        assert self.ledger.write(lambda c: claims.renew(c, owner, [each], until)) == [each] * mine
        if mine:
            it.until = until

    @rule(seconds=st.sampled_from([1.0, 4.0, 16.0]))
    def pass_time(self, seconds: float) -> None:
        """The clock looks after a while."""
        self.now += seconds
        self.lapsed([it for it in self.sending() if (it.until or 0) < self.now], None)
        self.ledger.write(lambda it: recovery.make_due(it, self.now))
        for it in self.model.values():
            if it.state == "waiting" and it.due <= self.now:
                it.state = "queued"

    @rule(owner=st.sampled_from(OWNERS))
    def owner_dies(self, owner: str) -> None:
        self.lapsed([it for it in self.sending() if it.owner == owner], owner)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ids = self.some_ids(data)
        wanted = {key for key in ids if self.model[key].state in ("held", "queued", "waiting")}
        assert set(self.ledger.write(lambda it: verbs.cancel(it, ids, "by hand", self.now))) == wanted
        for key in wanted:
            self.model[key].leave("cancelled")
        self.release({self.model[key].event for key in wanted})

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        ids = self.some_ids(data)
        self.ledger.write(lambda it: verbs.queue_again(it, deliveries.c.id.in_(ids), self.now))
        for key in ids:
            it = self.model[key]
            if it.state in ("dead", "delivered"):
                it.state, it.spent, it.due = "queued", 0, self.now
            elif it.state == "waiting":
                it.state, it.due = "queued", self.now
        restored = [key for key in ids if self.model[key].state == "cancelled"]
        for key in restored:
            it = self.model[key]
            it.state, it.spent, it.due = "held", 0, self.now
        self.release({self.model[key].event for key in restored})

    # --- The model's own

    def some_ids(self, data: st.DataObject) -> list[str]:
        return sorted(data.draw(st.sets(st.sampled_from(sorted(self.model)), max_size=3))) if self.model else []

    def sending(self) -> list[Modelled]:
        return [it for it in self.model.values() if it.state == "sending"]

    def release(self, of: set[str], only: set[str] | None = None) -> None:
        """Queue what waits for deliveries of these events that have ended."""
        states = {(it.event, it.sink): it.state for it in self.model.values()}
        for it in self.model.values():
            waits = it.sink == LATER and states[it.event, "ops"] not in ENDED
            if it.event in of and it.state == "held" and not waits and (only is None or it.id in only):
                it.state, it.due = "queued", self.now

    def lapsed(self, those: list[Modelled], owner: str | None) -> None:
        work = recovery.lapse_claims if owner is None else lambda it, now: recovery.release_claims(it, owner, now)
        assert self.ledger.write(lambda it: work(it, self.now)) == len(those)
        there = self.rows()
        for it in those:
            before = 0
            while it.outcomes.get(it.attempts - before - 1) == "lapsed":
                before += 1
            it.outcomes.setdefault(it.attempts, "lapsed")
            it.spent += before > 0
            it.leave("dead" if before >= 3 else "queued")
            if not before:
                it.due = self.now
            elif before < 3:  # spread over some time
                it.due = there[it.id].due_at
                assert self.now < it.due <= self.now + 20
        self.release({it.event for it in those if it.state == "dead"})

    def rows(self) -> dict[str, Any]:
        rows = self.ledger.read(lambda it: it.execute(sa.select(deliveries)).all())
        return {row.id: row for row in rows}

    @invariant()
    def ledger_has_what_the_model_has(self) -> None:
        found = {
            row.id: (row.state, row.due_at, row.attempts, row.spent, row.claim_owner, row.claim_until)
            for row in self.rows().values()
        }
        assert found == {
            it.id: (it.state, it.due, it.attempts, it.spent, it.owner, it.until) for it in self.model.values()
        }
        query = sa.select(attempt_rows.c.delivery_id, attempt_rows.c.number, attempt_rows.c.outcome)
        made = self.ledger.read(lambda it: it.execute(query).all())
        wanted = [(it.id, number, word) for it in self.model.values() for number, word in it.outcomes.items()]
        assert sorted(map(tuple, made)) == sorted(wanted)


def born(key: str, event: str, now: float) -> Claimed:
    """A delivery that was recorded as claimed, as its runner holds it."""
    return Claimed(
        *(key, event, "ops", "ops", "everything", 1, 0, False, "skyvern", "tsk", "completed", "webhook", "", NOW),
        labels={},
        after=(),
    )


def test_deliveries_are_what_a_model_says(ledger: Ledger) -> None:
    kind = type("OnLedger", (Deliveries,), {"ledger": ledger})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=40 if ledger.dialect == "sqlite" else 10,
            stateful_step_count=50,
            deadline=None,
            phases=[Phase.generate],  # to shrink a failure takes minutes
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
