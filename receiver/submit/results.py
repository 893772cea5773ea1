"""GET of a run: from the ledger once it is final, else from Skyvern; on request held until it has ended.

An end that Skyvern shows before its webhook is returned to the caller at once, and noted in the ledger: the clock
polls it when the webhook has had its time to come.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from urllib.parse import quote

from receiver.domain.run import Run, RunKey, parse_outline
from receiver.domain.webhook_grace import may_be_removed
from receiver.ledger import LedgerDataError, LedgerUnavailable, polls, runs
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.ledger.runs import RunResult
from receiver.ledger.submissions.records import webhook_of
from receiver.skyvern.responses import Answer, Answered, Unreachable, expires_at
from receiver.submit.callback_mask import mask_callbacks
from receiver.submit.json_object import NotAnObject, with_members
from receiver.submit.limits import SubmitLimits
from receiver.submit.long_poll import LongPoll
from receiver.submit.polling_body import polling_body
from receiver.submit.replies import (
    EVENT_HEADER,
    RETRIED_BY_HEADER,
    RETRIED_FROM_HEADER,
    SOURCE_HEADER,
    STATUS_HEADER,
    SUBMISSION_HEADER,
    SUBMITTED_RUN_HEADER,
    WEBHOOK_HEADER,
    for_submission,
    read_failed,
    relay,
)
from receiver.submit.request_record import CALL, masked_members
from receiver.submit.source import Caller, Source
from receiver.submit.waited_runs import WaitedRun
from receiver.web.limits import WaiterLimit
from receiver.web.responses import Reply, error
from receiver.web.work import SingleFlight, off_loop

# Seconds for which the signed URLs of the ledger's body must still be valid; else Skyvern is asked for new ones.
URL_MARGIN = 30.0
# Characters of a URL that a header may have too; not %, so that all can be decoded again.
_UNQUOTED = ":/?&=#+@,;~*()'!$[]"
_SharedKey = tuple[RunKey, str]  # with the id of an API key: what one may see, another may not


class Results:
    """Results for callers. `states`: of the runs that requests wait for.

    `grace`: seconds that a noted end waits for its webhook. `kept`: seconds for which events are kept; None: for ever.
    """

    def __init__(
        self,
        ledger: AsyncLedger,
        states: LongPoll[RunKey, WaitedRun],
        places: WaiterLimit,
        limits: SubmitLimits,
        grace: float,
        kept: float | None = None,
    ) -> None:
        self._ledger = ledger
        self._states = states
        self._places = places
        self._limits = limits
        self._grace = grace
        self._kept = kept
        self._from_ledger_once: SingleFlight[_SharedKey, Reply | None] = SingleFlight()
        self._fetch_once: SingleFlight[RunKey, Answer] = SingleFlight()

    async def get(self, caller: Caller, run_id: str, wait: float = 0.0) -> Reply:
        """Return the run. `wait`: seconds to wait until it has ended; only then LedgerUnavailable may be raised, and
        TooManyWaiters."""
        if wait <= 0:
            try:
                reply = await self.from_ledger(caller, run_id)
            except LedgerUnavailable:
                reply = None
            return reply or await self.from_skyvern(caller, run_id)
        last = await self.last_of_chain((caller.source.name, run_id))
        reply = await self.from_ledger(caller, last)
        if reply is None and not await self.is_known(caller.source, last):
            skyvern_reply = await self.from_skyvern(caller, last)
            if skyvern_reply.status == HTTPStatus.NOT_FOUND and last != run_id:
                last, reply = run_id, await self.from_ledger(caller, run_id)
            elif skyvern_reply.status != 200 or (await _parsed(skyvern_reply.body)).final:
                return skyvern_reply
        if reply is None:
            with self._places.place(caller.key.id):
                last, state = await self.wait(caller.source, last, wait)
            reply = await self.after_wait(caller, last, state)
            if reply.status == HTTPStatus.NOT_FOUND and last != run_id:  # how it ended itself is known
                last, reply = run_id, await self.from_ledger(caller, run_id) or reply
        if last != run_id and reply.status == 200:
            reply = reply.with_headers(**{RETRIED_FROM_HEADER: quote(run_id, safe="")})
        return reply

    async def get_from_skyvern(self, caller: Caller, run_id: str) -> Reply:
        """Return Skyvern's current answer. Raises LedgerUnavailable.

        Skyvern does not know the webhook that the caller asked for: a header has it, percent-encoded, if `key` may see
        it.
        """
        run = (caller.source.name, run_id)
        status = (await self._ledger.read(lambda connection: runs.run_statuses(connection, [run]))).get(run)
        submission, visible = await self._ledger.read(lambda connection: webhook_of(connection, run, caller.key))
        reply = await self.from_skyvern(caller, run_id, is_recorded=status is not None and status.final)
        if status is not None and status.retried_by and reply.status == 200:
            reply = reply.with_headers(**{RETRIED_BY_HEADER: quote(status.retried_by, safe="")})
        if submission is None or reply.status != 200:
            return reply
        webhook = {WEBHOOK_HEADER: quote(submission.webhook_url, safe=_UNQUOTED)} if visible else {}
        first = {SUBMITTED_RUN_HEADER: quote(submission.run_id, safe="")}
        return for_submission(reply, submission.id).with_headers(**webhook, **first)

    async def get_request(self, caller: Caller, run_id: str) -> Reply:
        """Return the request that made the run, as it is kept: for the key that made it, and for those that submit for
        others. Raises LedgerUnavailable."""
        submission, visible = await self._ledger.read(
            lambda connection: webhook_of(connection, (caller.source.name, run_id), caller.key)
        )
        if submission is None:
            return error(404, f"Run {run_id} was not submitted here")
        if not visible:
            return error(403, "The request can be seen with the key that made it, or one with the scope resubmit")
        if submission.request is None:
            return error(
                404,
                "The request was not kept: it was too large or nested too deeply",
            )
        members = {name: value for name, value in submission.request.items() if name != CALL}
        content = {
            "submission_id": submission.id,
            "run_id": submission.run_id,
            **submission.request.get(CALL, {}),
            "webhook_url": submission.webhook_url or None,
            "request": members,
            "masked": masked_members(members),
        }
        answer = Answered(200, json.dumps(content).encode(), {"content-type": "application/json"})
        return for_submission(relay(answer, caller.source.secrets), submission.id).with_headers(
            **{SOURCE_HEADER: "submission"}
        )

    async def wait(self, source: Source, run_id: str, seconds: float) -> tuple[str, WaitedRun | None]:
        """Wait until the run, and each that Skyvern started again for it, has ended. Returns the id of the last of
        them, and its state; None for the state after `seconds`, or when the process stops."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        believed = True  # an end that is only noted
        followed = {run_id}  # runs that name each other in a circle end the chain
        while True:
            state = await self._states.wait_until(
                (source.name, run_id), WaitedRun.has_ended if believed else WaitedRun.is_proven, until - loop.time()
            )
            if state is None:
                return run_id, None
            if state.status and state.status.retried_by not in {"", *followed}:
                run_id, believed = state.status.retried_by, True
                followed.add(run_id)
            elif state.is_proven():
                return run_id, state
            else:  # a poll has shown the end
                answer = await self._fetch(source, run_id)
                if isinstance(answer, Answered) and answer.ok and (await _parsed(answer.body)).final:
                    return run_id, state.with_answer(answer)
                believed = False

    async def after_wait(self, caller: Caller, run_id: str, state: WaitedRun | None) -> Reply:
        """Return the run as it is after a wait that ended with `state`. When the process stops, all waits end at once,
        and Skyvern has less time to answer."""
        if state is not None and state.is_known() and (reply := await self.from_ledger(caller, run_id)):
            return reply
        if state is not None and state.answer is not None:
            return await self._reply(caller, state.answer)
        try:
            async with asyncio.timeout(self._limits.after_stop if self._states.stopped else self._limits.after_wait):
                return await self.from_skyvern(caller, run_id)
        except TimeoutError:
            if self._states.stopped:
                return error(503, "The receiver is being stopped; ask again", retry_after="2")
            return error(
                504, "No end of the run is known, and Skyvern did not respond in time; ask again", retry_after="5"
            )

    async def is_known(self, source: Source, run_id: str) -> bool:
        """Return whether the run is in the ledger: then Skyvern need not be asked whether it exists."""
        key = (source.name, run_id)
        return await self._ledger.read(
            lambda connection: bool(runs.run_statuses(connection, [key])) or runs.is_ours(connection, *key)
        )

    async def last_of_chain(self, run: RunKey) -> str:
        """Return the id of the run that Skyvern started last for this one; or its own."""
        return await self._ledger.read(lambda connection: runs.last_of_chain(connection, *run))

    async def from_ledger(self, caller: Caller, run_id: str) -> Reply | None:
        """Return the final run as the ledger has it, with new URLs where those in it have expired. None: ask Skyvern.

        Concurrent requests with one key share one answer: a thousand that wait for a run are woken at once. Raises
        LedgerUnavailable.
        """
        shared = ((caller.source.name, run_id), caller.key.id)
        return await self._from_ledger_once.run(shared, lambda: self._read_final(caller, run_id))

    async def _read_final(self, caller: Caller, run_id: str) -> Reply | None:
        result = await self._ledger.read(lambda connection: runs.result(connection, caller.source.name, run_id))
        if result is None or not result.body:  # it was erased here
            return None
        body, origin = result.body, "ledger"
        expiry = await off_loop(len(body), expires_at, body)
        if expiry is not None and expiry < time.time() + URL_MARGIN:
            answer = await self._fetch(caller.source, run_id)
            # Skyvern is asked for its URLs only: the run's outcome is in the ledger.
            if isinstance(answer, Answered) and answer.ok and (await _parsed(answer.body)).run_id == run_id:
                body, origin = answer.body, "skyvern"
            else:
                origin = "ledger; urls=lapsed"
        return await self._result_reply(caller, result, body, origin)

    async def _result_reply(self, caller: Caller, result: RunResult, body: bytes, origin: str) -> Reply | None:
        """Return the reply to a GET: in the form of Skyvern's own, whatever the event's body lacks or has beside it."""
        status = result.status
        headers = {"content-type": "application/json", SOURCE_HEADER: origin, EVENT_HEADER: status.event_id}
        more: dict[str, object] = {}
        if status.retried_by:
            last = await self.last_of_chain((status.source, status.run_id))
            headers[RETRIED_BY_HEADER] = quote(last, safe="")
            more["retried_by_workflow_run_id"] = last
        callback = caller.source.callback_url(status.submission_id) if status.submission_id else ""
        polled = await off_loop(len(body), polling_body, result, body, callback, more)
        if polled is None:
            return None
        body, skyvern_status = polled
        if status.submission_id:
            headers[SUBMISSION_HEADER] = status.submission_id
        if skyvern_status != status.outcome:
            headers[STATUS_HEADER] = quote(skyvern_status[:100], safe="")
        body = await mask_callbacks(self._ledger, caller.source.name, caller.key, body)
        reply = await off_loop(len(body), relay, Answered(200, body, headers), caller.source.secrets)
        return Reply(200, reply.body, headers) if reply.status == 200 else reply

    async def from_skyvern(self, caller: Caller, run_id: str, *, is_recorded: bool = False) -> Reply:
        """Return Skyvern's answer. `is_recorded`: the ledger has the result, so that its end need not be noted."""
        answer = await self._fetch(caller.source, run_id)
        reply = await self._reply(caller, answer)
        if reply.status == 200 and not is_recorded and isinstance(answer, Answered):
            await self.note_end(caller.source.name, await _parsed(answer.body))
        return reply

    async def _fetch(self, source: Source, run_id: str) -> Answer:
        """GET a run of Skyvern. Requests that come while the answer is on its way share it."""
        return await self._fetch_once.run((source.name, run_id), lambda: source.api.get_run(run_id))

    async def _reply(self, caller: Caller, answer: Answer) -> Reply:
        if isinstance(answer, Unreachable):
            return read_failed(answer)
        if answer.ok and not isinstance(await off_loop(len(answer.body), answer.json_outline), dict):
            return error(502, "Skyvern's answer was not understood")
        reply = await off_loop(len(answer.body), relay, answer, caller.source.secrets)
        if reply.status != 200:
            return reply
        run = await _parsed(answer.body)
        body = await mask_callbacks(self._ledger, caller.source.name, caller.key, reply.body)
        headers = {**reply.headers, SOURCE_HEADER: "skyvern"}
        if run.outcome and run.outcome != run.status:
            headers[STATUS_HEADER] = quote(run.status, safe="")
            with suppress(NotAnObject):  # one with a number too long stays as Skyvern gave it
                body = await off_loop(len(body), with_members, body, status=run.outcome)
        return Reply(200, body, headers)

    async def note_end(self, source: str, run: Run, *, at_once: bool = False) -> None:
        """Have a run polled whose end Skyvern shows. If that fails, the request continues: a run that was submitted
        here is polled when it is overdue. `at_once`: do not wait for its webhook."""
        if not run.final or run.problem:
            return
        if not at_once and may_be_removed(run, time.time(), self._kept):
            return  # what was removed was reported once
        now = self._ledger.now()
        due = {run.run_id: now if at_once else now + self._grace}
        ask = partial(polls.ask, source=source, due_times=due, now=now, grace=self._grace, soon=0.0)
        with suppress(LedgerUnavailable, LedgerDataError):
            await self._ledger.write(ask)


async def _parsed(body: bytes) -> Run:
    return await off_loop(len(body), parse_outline, body)
