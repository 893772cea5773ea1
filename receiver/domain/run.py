"""Parses the body of a webhook into a Run. Pure, and never raises, whatever the bytes are.

Three parsers, because each breaks on something that the real world sends (measured on a body of 2 kB):
    orjson          4 µs   refuses NaN, 1e400 and lone surrogates, but makes floats of integers from 2**64 on, silently;
                           1,024 levels deep
    pydantic_core   9 µs   keeps integers of up to 4,300 digits, but lets 1e400 through as infinity; 200 levels deep
    json           20 µs   with hooks, takes the rest: what can be rescued is, as said below
An ordinary body is read by the first. One that may hold a long integer, or many levels, is checked by the first and
read by the second.

In `Run.data` every string is text that any database takes (NUL and lone surrogates are U+FFFD), every number is an int
or a finite float, NaN and Infinity are null, and a number that no float or int holds is the string of its digits.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson
from pydantic_core import from_json

from handlers.support import run_body
from handlers.support.run_body import attempt_number, prompts, titles
from handlers.support.timestamps import epoch
from receiver.domain.bounded_json import MOST_MEMORY, SMALL, NoMembers, outline, state_of, too_much

RunKey = tuple[str, str]  # (source, run id)

FINAL: Final = run_body.FINAL
# Outcomes after which Skyvern, or a person in its UI, may start a workflow's run again as another.
RESTARTABLE: Final = run_body.FAILED

# Levels. Python's own json goes to about 990 less the depth of the caller's stack; Skyvern is written in Python.
MAX_DEPTH = 400
MAX_RUN_ID = 200
MAX_WORD = 100  # run types and statuses
MAX_TITLE = 500
MAX_PROMPT = 120  # of its first line
MAX_REASON = 20_000
MAX_DIGITS = 4300  # Python's own limit between text and int

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# What the Test button of Skyvern's UI makes up (services/webhook_service.py of 1.0.56): the id of the run, unless one
# was chosen, and always that of the browser session. The ids of real ones end in digits alone.
_SAMPLE_RUN = re.compile(r"[a-z]{1,10}_sample_[0-9A-Za-z_]{1,100}", re.ASCII)
SAMPLE_SESSION = "pbs_sample_"

# One of Skyvern's ids, none of a page's: tsk_1, tsk_v2_1, wr_1.
_ID_IN_BEGINNING = re.compile(
    rb'"(?:run_id|task_id|workflow_run_id)"\s*:\s*"([a-z0-9]{1,16}(?:_[A-Za-z0-9]{1,64}){1,4})"'
)
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")

# The sentence of Skyvern 1.0.50's FailedToSendWebhook, alone or after "Failed to run task 2.0: ". It ends in ids. A
# reason that an LLM or a workflow block wrote ("The page said: failed to send webhook") must not match.
_UNDELIVERED = re.compile(
    r"(?:Failed to run task [^:\n]{1,20}:\s*)?Failed to send webhook(?:\s*$|[.:])"
    r"|.*\bFailed to send webhook\.\s+(?:workflow_run_id|workflow_id|task_id|task_v2_id)=",
    re.IGNORECASE | re.DOTALL,
)


class Run(NamedTuple):
    """What one body says of its run. A tuple, for one is made several times for each event.

    `status` is as sent; `outcome` is the status after correction: a run that failed only because its webhook could not
    be delivered, its output there, is completed. `attempt`: from 1. Times: seconds since the epoch, or None.
    `prompt`: its first line. `retried_from`, `retried_by`: ids of the runs that Skyvern started again as this one, and
    for this one.
    `test`: it is a test webhook of Skyvern's UI, about a run that never was.
    `data`: the whole body ({} unless it is a JSON object). `left_out`: the members that are too much for the memory; a
    text that tells them apart stands for each. `problem`: why the body can't be understood, or "";
    it holds nothing of the payload. With a problem any other field may be empty.
    """

    run_id: str = ""
    run_type: str = ""
    status: str = ""
    outcome: str = ""
    attempt: int = 1
    retry_pending: bool = False
    created_at: float | None = None
    modified_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    failure_reason: str | None = None
    title: str | None = None
    prompt: str | None = None
    workflow_id: str | None = None
    retried_from: str | None = None
    retried_by: str | None = None
    test: bool = False
    data: dict[str, Any] = {}  # noqa: RUF012 - a field of a tuple, never changed
    problem: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def reading_note(self) -> str:
        """What an operator should know of a body that could be read only in part; "" when it was read whole."""
        names = ", ".join(self.left_out)
        most = MOST_MEMORY >> 20
        return f"{names} would take more than {most} MiB to be read: rules and columns lack it" if names else ""

    @property
    def final(self) -> bool:
        """No more is to come of this run: it has ended, and no retry of it is pending."""
        return self.status in FINAL and not self.retry_pending

    def with_data(self, data: dict[str, Any]) -> Run:
        """Return this run with other `data`, masked or completed, and the texts that come from it. The rest stays."""
        if data is self.data:
            return self
        return Run._make((*self[:_FIRST_TEXT], *_texts(data), self.test, data, self.problem, self.left_out))


def parse(body: bytes) -> Run:
    """Parse `body` into a run. Never raises: with a `problem` when it can't be parsed."""
    data, problem, left_out = _load(body)
    if problem:
        return Run(problem=problem)
    run_id, problem = _run_id(data)
    status = _text(data.get("status"), MAX_WORD) or ""
    if not status:
        problem = problem or "it has no status"
    reason, title, prompt, workflow_id, retried_from, retried_by = _texts(data)
    return Run(
        run_id=run_id,
        run_type=_text(data.get("run_type"), MAX_WORD) or "",
        status=status,
        outcome="completed" if status == "failed" and undelivered(data) else status,
        attempt=attempt_number(data.get("attempt")),
        retry_pending=data.get("retry_pending") is True,
        created_at=epoch(data.get("created_at")),
        modified_at=epoch(data.get("modified_at")),
        started_at=epoch(data.get("started_at")),
        finished_at=epoch(data.get("finished_at")),
        failure_reason=reason,
        title=title,
        prompt=prompt,
        workflow_id=workflow_id,
        retried_from=retried_from,
        retried_by=retried_by,
        test=_is_test(run_id, data),
        data=data,
        problem=problem,
        left_out=left_out,
    )


def members(body: bytes) -> dict[str, Any]:
    """Return the members of `body` as `parse` has them in a run's `data`; {} when it can't be parsed. Never raises."""
    return _load(body)[0]


def _is_test(run_id: str, data: dict[str, Any]) -> bool:
    session = data.get("browser_session_id")
    return ("_sample_" in run_id and _SAMPLE_RUN.fullmatch(run_id) is not None) or (
        isinstance(session, str) and session.startswith(SAMPLE_SESSION)
    )


# The place of the first of the fields that `_texts` returns.
_FIRST_TEXT: Final = Run._fields.index("failure_reason")


def _texts(data: dict[str, Any]) -> tuple[str | None, ...]:
    """Return the fields that are texts: a run's failure reason, title, prompt, workflow and linked runs."""
    get = data.get
    return (
        _text(get("failure_reason"), MAX_REASON),
        title_of(data),
        prompt_of(data),
        _text(get("workflow_permanent_id"), MAX_RUN_ID) or _text(get("workflow_id"), MAX_RUN_ID),
        _text(get("retried_from_workflow_run_id"), MAX_RUN_ID) or None,
        _text(get("retried_by_workflow_run_id"), MAX_RUN_ID) or None,
    )


def title_of(data: Mapping[str, Any]) -> str | None:
    """Return the title of a run with these members, or of the run that they request."""
    return next((title[:MAX_TITLE] for title in titles(data) if title), None)


def prompt_of(data: Mapping[str, Any]) -> str | None:
    """Return the first line of a run's prompt, cut to MAX_PROMPT characters, as `title_of` does the title."""
    for prompt in prompts(data):
        if text := prompt[: MAX_PROMPT * 8].strip():
            line = text.splitlines()[0].rstrip()
            return line if len(line) <= MAX_PROMPT else line[: MAX_PROMPT - 1] + "…"
    return None


def storable(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return members of other JSON than a run, such as a request, in the form of `parse`.

    Those that are nested too deeply for a body are left out.
    """
    kept: dict[str, Any] = {}
    for name, value in members.items():
        try:
            kept[_UNSTORABLE.sub(REPLACEMENT, name)] = _cleaned(value, MAX_DEPTH - 2)  # they may become run_request's
        except RecursionError:
            continue
    return kept


def parse_outline(body: bytes) -> Run:
    """Return what a body says of a run's state, without its large members: in `data` a text stands for each."""
    return parse(state_of(body))


def scan_run_id(beginning: bytes) -> str:
    """Return the id of the run that a body is about, of which only `beginning` is there; "" when it does not tell.

    Skyvern writes the ids of a run first, before anything that a page or a model wrote.
    """
    match = _ID_IN_BEGINNING.search(beginning)
    return match[1].decode() if match else ""


def undelivered(data: dict[str, Any]) -> bool:
    """Whether a run that says `failed` did its work, and only its webhook could not be delivered (Skyvern 1.0.50)."""
    reason = data.get("failure_reason")
    return (
        isinstance(reason, str)
        and data.get("output") not in (None, [], {})
        and not data.get("errors")
        and data.get("retry_pending") is not True
        and _UNDELIVERED.match(reason) is not None
    )


def _load(body: bytes) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """Return the JSON object in `body`, clean, the problem with it, and the members that are left out."""
    left_out: tuple[str, ...] = ()
    try:
        if too_much(body):
            body, left_out = outline(body, SMALL)
        data = _read(body, MAX_DEPTH)
    except NoMembers as error:
        return {}, f"its values would take more than {MOST_MEMORY >> 20} MiB of memory, and {error}", ()
    except json.JSONDecodeError as error:
        return {}, f"it is not JSON: {error.msg.removesuffix(' at')} at character {error.pos}", ()
    except RecursionError:
        return {}, f"it is nested deeper than {MAX_DEPTH} levels", ()
    if not isinstance(data, dict):
        return {}, f"it is {_KINDS.get(type(data), 'a number')}, not a JSON object", ()
    return data, "", tuple(_UNSTORABLE.sub(REPLACEMENT, name) for name in left_out)


# What `_read` looks for: each digit becomes 0, each bracket "[".
_SHAPE: Final = bytes.maketrans(b"123456789{", b"000000000[")
_LONG_INTEGER: Final = b"0" * 19  # digits of the shortest one that orjson may turn into a float
_MANY_LEVELS: Final = 200  # that pydantic_core does not read


def _read(text: bytes, levels: int) -> Any:
    """Return the JSON value in `text`, clean. Raises json.JSONDecodeError, RecursionError."""
    shape = text.translate(_SHAPE)
    try:
        if _LONG_INTEGER in shape or shape.count(b"[") >= _MANY_LEVELS:
            orjson.loads(text)
            value = from_json(text, cache_strings="keys")
        else:
            value = orjson.loads(text)
    except ValueError:
        return _cleaned(_rescue(text), levels)
    # Python never escapes what it need not: an ordinary body has no \u in it, and a NUL can't be written without. Most
    # have no backslash at all, and a single byte is found much sooner than six.
    return _cleaned(value, levels) if b"\\" in text and b"\\u0000" in text else value


_KINDS: dict[type, str] = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}


def _rescue(body: bytes) -> Any:
    return json.loads(
        body.decode("utf-8-sig", errors="replace"),
        strict=False,  # control characters in strings
        parse_int=lambda digits: int(digits) if len(digits) <= MAX_DIGITS else digits,
        parse_float=_finite,
        parse_constant=lambda _: None,  # NaN and the infinities
    )


def _finite(digits: str) -> float | str:
    value = float(digits)
    return digits if value in (float("inf"), float("-inf")) else value


def _cleaned(value: Any, levels: int) -> Any:
    """Return `value` with all its text storable. One frame a level. Raises RecursionError past `levels`."""
    kind = type(value)
    if kind is str:
        return _UNSTORABLE.sub(REPLACEMENT, value)
    if kind is float and not math.isfinite(value):
        return None
    if kind is not dict and kind is not list:
        return value
    if not levels:
        raise RecursionError
    if kind is dict:
        fields: dict[str, Any] = {}
        for key, item in value.items():
            fields[_UNSTORABLE.sub(REPLACEMENT, key)] = _cleaned(item, levels - 1)
        return fields
    items: list[Any] = []
    for item in value:
        items.append(_cleaned(item, levels - 1))  # noqa: PERF401 - a comprehension is a frame more a level
    return items


def _run_id(data: dict[str, Any]) -> tuple[str, str]:
    """Return the run's id and the problem with it. A task in a workflow names the workflow's run too: that is last."""
    for key in ("run_id", "task_id", "workflow_run_id"):
        value = data.get(key)
        if isinstance(value, str) and value:
            if len(value) > MAX_RUN_ID:
                return "", f"its {key} is longer than {MAX_RUN_ID} characters"
            return value, ""
    return "", "it has no run_id"


def _text(value: Any, limit: int) -> str | None:
    return value[:limit] if isinstance(value, str) else None
