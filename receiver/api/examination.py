"""What `runhook doctor` tries, tried by the service itself: bounded, and once at a time."""

from __future__ import annotations

import threading
from typing import Final

from pydantic import Field

from handlers.support.daemon_pool import in_thread
from receiver.api.endpoint import Endpoint
from receiver.api.models import Parameters, Result
from receiver.api.service import Actor, Service
from receiver.domain.api_key import OPERATE
from receiver.errors import Busy

# Seconds after which is told what was found by then: the answer must come before a call is given up.
TIME: Final = 15.0

# It opens connections to each server and sink.
_examining = threading.Lock()


class FindingRow(Result):
    """One thing that was tried."""

    check: str = Field(description="A fixed word, such as redis.durability.")
    ok: bool
    note: bool = Field(description="Not as it should be, but nobody has to do something at once.")
    what: str
    todo: str = Field(description="What to do about it; empty when it is well.")


class Examination(Result):
    """What was found, in the order in which it should be fixed."""

    items: list[FindingRow]
    complete: bool = Field(description="Whether all was tried in the time that there is.")


def get_doctor(service: Service, _actor: Actor, _wanted: Parameters) -> Examination:
    """Try all that the service needs, from the process that answers, and say what to do where it fails."""
    from receiver.doctor.examination import examine  # with all sinks, which no other call needs

    if not _examining.acquire(blocking=False):
        raise Busy("an examination is under way", retry_after=5)
    found: list[FindingRow] = []

    def work() -> None:
        try:
            for each in examine(service.settings):
                row = FindingRow(check=each.check, ok=each.ok, note=each.note, what=each.what, todo=each.todo)
                found.append(row)
        finally:
            _examining.release()

    examining = in_thread("examination", work)
    try:
        examining.result(TIME)
    except TimeoutError:  # of what hangs too: what was found before is told
        return Examination(items=[*found], complete=False)
    return Examination(items=found, complete=True)


GET_DOCTOR = Endpoint("get_doctor", "GET", "/doctor", OPERATE, Parameters, Examination, get_doctor, all_sources=True)
ENDPOINTS = (GET_DOCTOR,)
