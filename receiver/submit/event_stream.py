"""The server-sent events of a run: its status now, each change of it, and the whole run at its end."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from receiver.domain.run import Run, RunKey, parse_outline
from receiver.submit.long_poll import LongPoll
from receiver.submit.replies import EVENT_HEADER
from receiver.submit.results import Results
from receiver.submit.run_watch import WaitedRun
from receiver.submit.source import Caller
from receiver.web.limits import TooManyWaiters, WaiterLimit
from receiver.web.responses import Refusal, Reply, sse_event, sse_keep_alive, sse_retry
from receiver.web.work import off_loop


class EventStreams:
    """Streams of the runs of all sources. `states`: of runs that are waited for. `keep_alive`: seconds between two
    signs of life."""

    def __init__(
        self, results: Results, states: LongPoll[RunKey, WaitedRun], places: WaiterLimit, keep_alive: float
    ) -> None:
        self._keep_alive = keep_alive
        self._results = results
        self._states = states
        self._places = places

    async def open(self, caller: Caller, run_id: str) -> AsyncGenerator[bytes, None]:
        """Return the run's events until it has ended.

        Raises LedgerUnavailable, Refusal when there is no such run, and TooManyWaiters.
        """
        last = await self._results.last_of_chain((caller.source.name, run_id))
        first = await self._results.from_ledger(caller, last)
        if first is None:
            first = await self._results.from_skyvern(caller, last)
            if first.status != 200 and not await self._results.is_known(caller.source, last):
                own = await self._results.from_ledger(caller, run_id) if last != run_id else None
                if own is None:
                    raise Refusal(first)
                last, first = run_id, own
        with self._places.place(caller.key.id):
            pass  # the place is held from the first event on: an unread stream never begins
        return self._held(caller, last, first)

    async def _held(self, caller: Caller, run_id: str, first: Reply) -> AsyncGenerator[bytes, None]:
        try:
            with self._places.place(caller.key.id):
                async for event in self._events(caller, run_id, first):
                    yield event
        except TooManyWaiters as problem:
            yield sse_event("error", "", json.dumps({"detail": str(problem)}).encode())

    async def _events(self, caller: Caller, run_id: str, first: Reply) -> AsyncIterator[bytes]:
        yield sse_retry(2.0)
        now = await off_loop(len(first.body), parse_outline, first.body) if first.status == 200 else Run()
        if now.final:
            yield await off_loop(len(first.body), _result, first)
            return
        sent: _StatusEvent | None = None
        if now.status:
            sent = _StatusEvent(run_id, now.run_type, now.outcome, now.attempt)
            yield sent.event("")
        known: WaitedRun | None = None
        followed = {run_id}  # runs that name each other in a circle end the chain
        while True:
            state = await self._states.wait_for_change((caller.source.name, run_id), known, self._keep_alive)
            if state is None and self._states.stopped:
                return  # the client connects again, to the next process
            if state is None:
                yield sse_keep_alive()
                continue
            if state.has_ended():
                if state.status and state.status.retried_by not in {"", *followed}:
                    run_id, known = state.status.retried_by, None
                    followed.add(run_id)
                    continue
                reply = await self._results.after_wait(caller, run_id, state)
                if reply.status == 200 and (await off_loop(len(reply.body), parse_outline, reply.body)).final:
                    yield await off_loop(len(reply.body), _result, reply)
                    return
                if state.is_known():  # its body was erased, and Skyvern does not have it: no change will come
                    yield sse_event("error", "", reply.body)
                    return
            newest = _newest(run_id, state, known)
            known = state
            if newest is not None and newest[0] != sent:
                sent, event_id = newest
                yield sent.event(event_id)


class _StatusEvent(NamedTuple):
    """What an event of kind `status` says."""

    run_id: str
    run_type: str
    status: str
    attempt: int
    final: bool = False

    def event(self, event_id: str) -> bytes:
        return sse_event("status", event_id, json.dumps(self._asdict()).encode())


def _newest(run_id: str, state: WaitedRun, last: WaitedRun | None) -> tuple[_StatusEvent, str] | None:
    """Return what is new in `state`, with the id of the event that said it; "" when a look at Skyvern did."""
    status, look = state.status, state.look
    if status is not None and status.event_id and status != (last.status if last else None):
        return _StatusEvent(run_id, status.run_type, status.outcome, status.attempt, status.final), status.event_id
    if look is not None and look != (last.look if last else None):
        return _StatusEvent(run_id, look.run_type, look.status, look.attempt, look.final), ""
    return None


def _result(reply: Reply) -> bytes:
    return sse_event("result", reply.headers.get(EVENT_HEADER, ""), reply.body)
