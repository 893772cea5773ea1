"""Deduplication: the facts of an event, compared with those known of its run. Pure.

Skyvern sends several webhooks for one run, so neither the body's hash nor the run's id shows a repeat. Two events say
the same when attempt, outcome, retry_pending and statement (output, failure reason, errors) are the same; what Skyvern
writes again in every response (signed URLs, modified_at) is not a fact. `modified_at` only orders. An event with the
same facts and more files or members than all earlier ones (see extent.py) is an update, any other a repeat.
The rules and their reasons are in docs/decisions/0003-what-makes-a-repeat.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import orjson

from receiver.domain.extent import Extent, extent_of
from receiver.domain.run import Run

Disposition = Literal["new", "interim", "update", "repeat", "superseded", "test"]

# At any depth of output, Skyvern puts fresh signed URLs here whenever it answers.
VOLATILE = frozenset(
    {
        "task_screenshots",
        "workflow_screenshots",
        "downloaded_file_urls",
        "recording_url",
        "recording_urls",
        "screenshot_url",
        "screenshot_urls",
    }
)
FILES = "downloaded_files"
CANCELED = "canceled"
VOLATILE_IN_FILE = frozenset({"url", "modified_at"})


class Facts(NamedTuple):
    """The facts of one event that decide whether it is a repeat.

    `outcome`: see `domain.run.Run`. `modified_at`: seconds since the epoch, or None when the body had none.
    `statement`: see `statement_of`. `output_null`: see `has_no_output`. `seq`: the order in which events were recorded.
    """

    event_id: str
    attempt: int
    outcome: str
    retry_pending: bool
    final: bool
    modified_at: float | None
    statement: str
    extent: Extent
    output_null: bool
    seq: int


@dataclass(frozen=True, slots=True)
class Classification:
    """What an event is. `repeat_of`: the id of the first event that said the same, for a repeat or an update.

    `late`: it is new for the output that it brings, but older than what gives the run its status.
    """

    disposition: Disposition
    repeat_of: str | None = None
    late: bool = False


# A test webhook is compared with nothing: each press of the Test button counts, and none is a result of its run.
TEST = Classification("test")


def facts_of(event_id: str, run: Run, data: Mapping[str, Any], members: Mapping[str, Any]) -> Facts:
    """Return the facts of event `event_id`, if it is the first of its run. `data`: the members of its body; `members`:
    what is known of the run from the body and from elsewhere."""
    return Facts(
        event_id=event_id,
        attempt=run.attempt,
        outcome=run.outcome,
        retry_pending=run.retry_pending,
        final=run.final,
        modified_at=run.modified_at,
        statement=statement_of(run, data),
        extent=extent_of(members),
        output_null=has_no_output(data),
        seq=1,
    )


def classify(new: Facts, history: Sequence[Facts]) -> Classification:
    """Classify `new`, given the events recorded so far for the same source and run: repeats too, in any order."""
    if not history:
        return Classification("new" if new.final else "interim")
    newest = max(_standing(history), key=_rank)
    loses_output = any(_keeps_output(old, new) for old in history)
    same = [old for old in history if says_same(old, new)]
    if same:
        still = says_same(newest, new)
        if loses_output or still or not _newer(new, newest):  # else A, B, A: the run is at A again
            more = still and new.extent.exceeds(old.extent for old in same)
            return Classification("update" if more else "repeat", min(same, key=lambda old: old.seq).event_id)
    if loses_output:
        return Classification("superseded")
    if any(_outranks(old, new) for old in history):
        late = new.final and not new.output_null and all(old.output_null for old in history)
        return Classification("new", late=True) if late else Classification("superseded")
    return Classification("new" if new.final else "interim")


def _standing(history: Sequence[Facts]) -> list[Facts]:
    """Return the events without those that brought nothing where another of their series has output."""
    brought = {_series(each) for each in history if not each.output_null}
    return [each for each in history if not each.output_null or _series(each) not in brought]


def _keeps_output(old: Facts, new: Facts) -> bool:
    """Whether `old` has output that nothing of `new` may take the place of: a second call to cancel is answered with
    nulls, after the outputs were sent. So the time of a null says nothing of an output's of its series either."""
    return new.output_null and not old.output_null and _series(old) == _series(new)


def may_lack_output(history: Sequence[Facts]) -> bool:
    """Whether a final run may have output that no event has brought: it was cancelled, and Skyvern sends the output of
    cancelled runs in a second webhook, after clean-up."""
    newest = max((each.attempt for each in history), default=1)
    ends = [each for each in history if each.final and each.attempt == newest]
    return bool(ends) and all(each.outcome == CANCELED and each.output_null for each in ends)


def _series(event: Facts) -> tuple[int, str, bool]:
    return event.attempt, event.outcome, event.retry_pending


def says_same(event: Facts, other: Facts) -> bool:
    """Whether both events tell the same result, whatever files and further members they have."""
    return _series(event) == _series(other) and event.statement == other.statement


def _rank(event: Facts) -> tuple[int, float, bool, int]:
    """Return the sort key of a run's events. Of two at the same instant the final one is the newer."""
    return event.attempt, float("-inf") if event.modified_at is None else event.modified_at, event.final, event.seq


def _newer(new: Facts, old: Facts) -> bool:
    """Whether `new` is known to be newer. An event without modified_at is not known to be anything."""
    if new.attempt != old.attempt:
        return new.attempt > old.attempt
    return new.modified_at is not None and old.modified_at is not None and new.modified_at > old.modified_at


def _outranks(old: Facts, new: Facts) -> bool:
    """Whether `old`, recorded before, makes `new` a thing of the past.

    Within one attempt nothing comes after a final event, so an interim one never supersedes it, whatever
    its clock says: the result would be lost. So would be output that is sent between two nulls.
    """
    if _keeps_output(new, old):
        return False
    if old.attempt == new.attempt:
        if new.final and not old.final:
            return False
        if old.final and not new.final and old.modified_at is not None and old.modified_at == new.modified_at:
            return True
    return _newer(old, new)


def statement_of(run: Run, data: Mapping[str, Any]) -> str:
    """Return 32 hex digits, the same for two bodies with the same output, failure reason and errors, whatever files
    they have. `data`: the members of the body. A millisecond for an output of 100 kB."""
    reason = None if run.outcome != run.status else _normal(data.get("failure_reason")) or None
    statement = b"[%b,%b,%b]" % (_dump(_output(data)), _dump(reason), _dump(_normal(data.get("errors"))))
    return hashlib.sha256(statement).hexdigest()[:32]


_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False)


def _dump(value: Any) -> bytes:
    """Return JSON of which the same value always has the same: the ledger keeps hashes of it."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer of more than 64 bits, half a character, or more than 254 levels
        return _ENCODER.encode(value).encode("ascii")


# The names of output: tasks send it as extracted_information too, workflows as outputs.
_OUTPUT: Final = ("output", "outputs", "extracted_information")


def _output(data: Mapping[str, Any]) -> Any:
    for name in _OUTPUT:
        value = _normal(data.get(name))
        if value is not None:
            return value
    return None


def has_no_output(data: Mapping[str, Any]) -> bool:
    """Whether there is no output: null, absent, empty, or nothing but fields that are."""
    for name in _OUTPUT:  # noqa: SIM110 - `all` takes twice the time for so few
        if not _is_null(data.get(name)):
            return False
    return True


def _is_null(value: Any) -> bool:
    """Whether `_normal` makes None of `value`. It looks no further than to the first leaf that stays."""
    kind = type(value)
    if kind is dict:
        of_file = VOLATILE_IN_FILE if "checksum" in value and "url" in value and "filename" in value else ()
        for key, item in value.items():  # noqa: SIM110 - `all` is a frame more a level
            if not (item is None or key in VOLATILE or key in of_file or _is_null(item)):
                return False
        return True
    return not value if kind is list else value is None


def _normal(value: Any) -> Any:
    """Normalize `value`, so that equal facts are equal text: null, [] and {} are None, without a key; 1500.0 is 1500.

    One frame a level, so that any body that `parse` takes can be walked.
    """
    kind = type(value)
    if kind is dict:
        if "checksum" in value and "url" in value and "filename" in value:
            value = {key: item for key, item in value.items() if key not in VOLATILE_IN_FILE}
        fields: dict[str, Any] = {}
        for key, item in value.items():
            if item is None or key in VOLATILE or key == FILES:  # a block's files are saved as late as those of the run
                continue
            kind = type(item)
            if kind is str or kind is int:
                fields[key] = item
                continue
            if (normal := _normal(item)) is not None:
                fields[key] = normal
        return fields or None
    if kind is list:
        items: list[Any] = []
        for item in value:
            kind = type(item)
            items.append(item if kind is str or kind is int else _normal(item))
        return items or None
    if kind is float and value.is_integer():
        return int(value)
    return value
