"""Bodies that would take more memory than there is: known before anything is built, and read as far as they fit."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from receiver.domain import bounded_json
from receiver.domain.bounded_json import (
    MAX_LEVELS,
    MAX_MEMBERS,
    MOST_MEMORY,
    SMALL,
    NoMembers,
    fitting_members,
    memory_of,
    outline,
)
from receiver.domain.event import Event, event_id
from receiver.domain.parsed_event import parse_event
from receiver.domain.redaction import Redactor
from receiver.domain.run import parse

HEAD = b'{"run_id":"tsk_1","run_type":"task_v2","status":"completed",'
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits a hundred times smaller, so that the bodies here need not be large."""
    monkeypatch.setattr(bounded_json, "MOST_MEMORY", MOST_MEMORY // 128)
    monkeypatch.setattr(bounded_json, "SMALL", SMALL // 128)
    monkeypatch.setattr(bounded_json, "_WINDOW", 8 * KIB)


def many(unit: bytes, size: int) -> bytes:
    return b"[" + unit * (size // len(unit)) + b"1]"


def of(output: bytes, more: bytes = b"") -> bytes:
    return HEAD + b'"output":' + output + more + b"}"


def real(text: bytes) -> int:
    """The bytes that the values of `text` take."""
    tracemalloc.start()
    value = from_json(text, cache_strings="keys")
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del value
    return taken


ROW = b'{"id":17,"name":"item 17","price":25.5,"in_stock":true},'
WIDE = json.dumps({f"field_{n}": n for n in range(12)}).encode() + b","


@pytest.mark.parametrize(
    "unit",
    [
        *(b"[],", b"[1],", b"[[[[]]]],", b"{},", b'{"a":1},', b'{"a":{"b":{"c":[]}}},', b'"abc",', b'"a longer text",'),
        *(b"1,", b"1234567,", b"1.5,", b"null,", b"true,", ROW, WIDE, '"größe ☃",'.encode(), '"😀😀😀",'.encode()),
        b'"[{,:}] and [{,:}] and [{,:}] in a text",',
    ],
)
def test_memory_is_estimated_from_the_text(unit: bytes) -> None:
    text = many(unit, 100_000)
    assert 0.95 * real(text) < memory_of(text) < 2.1 * real(text)
    assert memory_of(text) <= bounded_json._rough(text), "the quick look is never too small"


@pytest.mark.parametrize(
    "text",
    [
        many(ROW, 200 * KIB),
        many(WIDE, 200 * KIB),
        many(b"7,", 200 * KIB),
        many(b"1234567,", 200 * KIB),
        b'"' + b"x" * (600 * KIB) + b'"',
        b'"' + b'[{,:}]\\"' * (75 * KIB) + b'"',
        many(b'"' + b'{[,:]}\\"' * 30 + b'",', 600 * KIB),
    ],
    ids=["rows", "wide rows", "small numbers", "numbers", "text", "brackets in a text", "brackets in texts"],
)
def test_an_ordinary_body_of_the_largest_size_is_read_whole(text: bytes) -> None:
    """A body of 16 MiB is as this one, many times."""
    assert memory_of(text) * (16 * MIB) / len(text) <= MOST_MEMORY


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'{"a":1},', b"[[]],", b'{"":{}},'])
@pytest.mark.usefixtures("small_machine")
def test_what_would_take_too_much_is_known_before_it_is_built(unit: bytes) -> None:
    body = of(many(unit, 128 * KIB), b',"failure_reason":"because","title":"Invoices"')
    tracemalloc.start()
    run = parse(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The facts are there, and the rest is left out and says so
    assert (run.run_id, run.status, run.outcome, run.final, run.problem) == (
        "tsk_1",
        "completed",
        "completed",
        True,
        "",
    )
    assert (run.failure_reason, run.title) == ("because", "Invoices")
    assert run.left_out == ("output",)
    assert run.note == "output would take more than 128 MiB to be read: rules and columns lack it"
    assert peak < 4 * len(body)


@pytest.mark.usefixtures("small_machine")
def test_two_outputs_that_are_left_out_are_told_apart() -> None:
    one, same, other = (
        parse(of(many(b"[],", 128 * KIB), more)) for more in (b"", b',"title":"x"', b',"outputs":{"a":1}')
    )
    assert one.data["output"] == same.data["output"]
    assert other.data["outputs"] == {"a": 1}
    assert parse(of(many(b"[],", 128 * KIB + 3))).data["output"] != one.data["output"]


@pytest.mark.usefixtures("small_machine")
def test_of_several_members_the_smaller_ones_are_read() -> None:
    half, more = many(b"[],", 20 * KIB), many(b"[],", 24 * KIB)
    run = parse(HEAD + b'"a":' + half + b',"output":' + more + b',"b":' + many(b"[],", 10 * KIB) + b',"c":[1]}')
    assert run.left_out == ("output",)
    assert run.data["c"] == [1]
    assert len(run.data["a"]) > len(run.data["b"]) > 1000


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (many(b"[],", 128 * KIB), "it is not a JSON object"),
        (of(many(b"[],", 128 * KIB))[:-5], "it is not JSON"),
        (of(many(b"[],", 128 * KIB), b',"a" 1'), "it is not JSON"),
        (of(b"[" * (128 * KIB)), f"it is nested deeper than {MAX_LEVELS} levels"),
        (of(b'{"a":' * (30 * KIB)), f"it is nested deeper than {MAX_LEVELS} levels"),
        (HEAD + b",".join(b'"%d":[[],[],[]]' % n for n in range(10_000)) + b"}", f"it has more than {MAX_MEMBERS}"),
    ],
)
@pytest.mark.usefixtures("small_machine")
def test_a_body_that_is_too_much_and_no_object_is_marked(body: bytes, problem: str) -> None:
    run = parse(body)
    assert run.problem.startswith("its values would take more than 128 MiB of memory, and " + problem)
    assert (run.data, run.left_out) == ({}, ())


@pytest.mark.usefixtures("small_machine")
def test_what_is_left_out_is_masked_in_the_text_and_the_rest_as_ever() -> None:
    secret = b'{"token":"the-secret","rest":' + many(b"[],", 128 * KIB) + b"}"
    body = of(secret, b',"title":"x","extra":{"token":"another"}')
    event = Event(event_id("s", body), "s", body, 1.7e9)
    parsed = parse_event(event, Redactor(["**.token"]))
    assert b"the-secret" not in parsed.body
    assert b"another" not in parsed.body
    assert parsed.run.data["extra"] == {"token": "[redacted]"}
    assert len(parsed.body) > 128 * KIB, "it is kept whole but for that"
    assert parsed.facts is not None
    assert not parsed.facts.output_null


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=12), values, max_size=8), st.sampled_from([None, 1]), st.booleans())
def test_members_are_told_apart_whatever_is_in_them(data: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    members, over = fitting_members(text, 0)
    assert {name: json.loads(value) for name, value in members.items()} == data
    assert not over


@given(st.dictionaries(st.text(max_size=12), values, max_size=8), st.integers(1, 9), st.sampled_from([None, 1]))
def test_an_outline_has_the_small_members_as_they_are_whatever_windows_cut(
    data: dict[str, Any], window: int, indent: int | None
) -> None:
    text = json.dumps(data, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bounded_json, "_WINDOW", window)
        patched.setattr(bounded_json, "OUTLINED", 30)
        found = json.loads(outline(text).decode("utf-8", "surrogatepass"))
    assert found.keys() == data.keys()
    assert all(found[name] == data[name] or str(found[name]).endswith(" bytes)") for name in data)
    assert len(text) > 30 or found == data


def test_an_outline_tells_a_runs_state_without_its_output() -> None:
    body = HEAD + b'"output":[' + b"[]," * 200_000 + b'[]],"failure_reason":null,"retry_pending":false}'
    run = parse(outline(body))
    assert (run.run_id, run.status, run.final, run.problem) == ("tsk_1", "completed", True, "")
    assert run.data["output"] == f"({600_004} bytes)"
    for wrong in (body[:-1], body[:-20], b"[" + body + b"]", body.replace(b"[],", b"[", 1)):
        assert outline(wrong) == b""


@given(st.binary(max_size=200))
def test_no_bytes_are_an_error_of_ours(body: bytes) -> None:
    with suppress(NoMembers):
        fitting_members(body, 0)
    assert memory_of(body) >= 0


def test_a_small_body_is_not_looked_at() -> None:
    assert bounded_json.too_much(b"[" * SMALL) == 0
    assert memory_of(many(b'{"a":1},', 100_000)) / 100_000 * SMALL < MOST_MEMORY
