"""What must not be written down is masked, at any depth and in bodies that can't be parsed; nothing else changes."""

import copy
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.config.models import DEFAULT_REDACT
from receiver.domain.redaction import MASK, Redactor
from receiver.domain.run import parse
from receiver.errors import ConfigError
from simulator import samples

NOW = 1_790_000_000.0


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def redact(value: dict[str, Any], *paths: str) -> Any:
    body = compact(value)
    before = copy.deepcopy(value)
    masked_body, masked = Redactor(paths).apply(body, value)
    assert value == before, "the argument is not changed"
    assert masked_body == compact(masked), "body and data say the same"
    assert (masked_body is body) == (masked is value), "unchanged means the same objects"
    return masked


@pytest.mark.parametrize(
    ("path", "given", "masked"),
    [
        ("token", {"token": "s", "a": {"token": "t"}}, {"token": MASK, "a": {"token": "t"}}),
        ("**.token", {"token": "s", "a": [{"token": "t"}]}, {"token": MASK, "a": [{"token": MASK}]}),
        ("a.token", {"token": "s", "a": {"token": "t"}}, {"token": "s", "a": {"token": MASK}}),
        ("a.*.token", {"a": {"token": 1, "b": {"token": 2}}}, {"a": {"token": 1, "b": {"token": MASK}}}),
        ("a.*", {"a": {"x": 1, "y": None}, "b": 1}, {"a": {"x": MASK, "y": None}, "b": 1}),
        ("a.token", {"a": [{"token": 1, "b": 2}]}, {"a": [{"token": MASK, "b": 2}]}),
        ("a.*.token", {"a": [{"token": 1}, {"b": 2}]}, {"a": [{"token": MASK}, {"b": 2}]}),
        ("a.1", {"a": ["x", "y", "z"]}, {"a": ["x", MASK, "z"]}),
        ("a.*", {"a": ["x", None]}, {"a": [MASK, None]}),
        ("a.**.token", {"token": 1, "a": {"b": {"token": 2}}}, {"token": 1, "a": {"b": {"token": MASK}}}),
        ("**.a.**.b", {"x": {"a": {"y": {"b": 1}}, "b": 2}}, {"x": {"a": {"y": {"b": MASK}}, "b": 2}}),
        ("**.a.b", {"a": {"a": {"b": 1}}, "b": 2}, {"a": {"a": {"b": MASK}}, "b": 2}),
        ("**.h", {"h": {"Authorization": "Bearer s", "n": 3}}, {"h": {"Authorization": MASK, "n": MASK}}),
        ("**.h", {"h": ["s", {"a": True}]}, {"h": [MASK, {"a": MASK}]}),
        ("**.größe", {"größe": 1}, {"größe": MASK}),
    ],
)
def test_what_a_path_names_is_masked_and_keeps_its_shape(
    path: str, given: dict[str, Any], masked: dict[str, Any]
) -> None:
    assert redact(given, path) == masked


@pytest.mark.parametrize(
    "value",
    [
        {"token": None}, {"token": ""}, {"token": {}}, {"token": {"a": None, "b": []}}, {"token": MASK},
        {"text": 'a "token":"in a string"'}, {"tokens": "s", "a_token": "s"}, {"a": "token"},
    ],
)  # fmt: skip
def test_where_nothing_is_hidden_the_very_same_objects_come_back(value: dict[str, Any]) -> None:
    assert redact(value, "**.token", "token.**.x") is value


@pytest.mark.parametrize("name", [path.removeprefix("**.") for path in DEFAULT_REDACT])
def test_the_defaults_mask_a_workflow_run_in_both_places(name: str) -> None:
    body = json.loads(samples.build("workflow_run.completed", now=NOW))
    body[name] = body["run_request"][name] = "s3cret"

    masked, data = Redactor(DEFAULT_REDACT).apply(compact(body), body)

    assert b"s3cret" not in masked
    assert data[name] == data["run_request"][name] == MASK


def test_all_but_the_mask_is_byte_for_byte_what_skyvern_wrote() -> None:
    odd = '{"run_id":"r","n":12345678901234567890,"f":0.1,"g":1e-07,"u":"Ü\u2028</script>","totp_url":%s,"z":[1,null]}'
    body = (odd % '"s"').encode()

    masked, _ = Redactor(DEFAULT_REDACT).apply(body, parse(body).data)

    assert masked == (odd % f'"{MASK}"').encode()


def test_a_name_that_is_spelt_with_escapes_is_masked_too() -> None:
    body = b'{"totp\\u005furl":"s3cret"}'

    masked, _ = Redactor(DEFAULT_REDACT).apply(body, parse(body).data or json.loads(body))

    assert b"s3cret" not in masked


def test_a_body_of_the_greatest_depth_is_masked() -> None:
    body = b'{"run_id":"r","status":"completed","a":' + b'{"a":' * 390 + b'{"totp_url":"s3cret"}' + b"}" * 391
    run = parse(body)

    masked, _ = Redactor(["**.totp_url", "a.**.b"]).apply(body, run.data)

    assert run.problem == ""
    assert b"s3cret" not in masked
    assert MASK.encode() in masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (b'{"token":"s","x":1', b'{"token":"[redacted]","x":1'),
        (b'{"token" : "s\\"t", "x":1', b'{"token" : "[redacted]", "x":1'),
        (b'{"token":{"a":"}","b":[1,{}]},"x":1', b'{"token":"[redacted]","x":1'),
        (b'{"token":["s","t"],"x"', b'{"token":"[redacted]","x"'),
        (b'{"token":17,"x":1', b'{"token":"[redacted]","x":1'),
        (b'{"token":true}]', b'{"token":"[redacted]"}]'),
        (b'{"token":"cut of', b'{"token":"[redacted]"'),
        (b'{"token":{"cut":"of', b'{"token":"[redacted]"'),
        (b'[{"token":"s"},{"token":"t"}]', b'[{"token":"[redacted]"},{"token":"[redacted]"}]'),
        (b'{"token":{"token":"s"},"x":"y"', b'{"token":"[redacted]","x":"y"'),
        (b'"{\\"token\\":\\"s\\\\\\"t\\",\\"x\\":1}', b'"{\\"token\\":\\"[redacted]\\",\\"x\\":1}'),
        (b'"{\\"token\\":\\"cut","x":1', b'"{\\"token\\":\\"[redacted]\\"","x":1'),
        (b'{"token":null,"x":1', b'{"token":null,"x":1'),
        (b'{"token":"","x":1', b'{"token":"","x":1'),
        (b'{"token":"[redacted]","x":1', b'{"token":"[redacted]","x":1'),
        (b'{"tokens":"s"', b'{"tokens":"s"'),
        (b'{"token":', b'{"token":'),
        (b"\xff\x00token", b"\xff\x00token"),
        (b"", b""),
    ],
)
def test_a_body_that_can_not_be_parsed_is_masked_as_text(text: bytes, masked: bytes) -> None:
    redactor = Redactor(["**.token", "a.*"])

    result, data = redactor.apply(text, {})

    assert (result, data) == (masked, {})
    assert redactor.apply(result, {})[0] is result, "masking twice changes nothing"


@pytest.mark.parametrize("path", ["", "a..b", ".a", "a.", "**", "a.**"])
def test_a_path_that_names_nothing_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="redact"):
        Redactor([path])


def test_no_path_masks_nothing() -> None:
    body = b'{"token":"s"}'

    assert Redactor([]).apply(body, {"token": "s"})[0] is body
    assert Redactor([]).apply(b"[1", {})[0] == b"[1"


json_values = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["token", "a", "b", "größe"]), inner, max_size=4)
    ),
    max_leaves=15,
)
paths = st.lists(
    st.lists(st.sampled_from(["a", "b", "token", "*", "**"]), min_size=1, max_size=4)
    .filter(lambda names: names[-1] != "**")
    .map(".".join),
    max_size=3,
)


def leaves(value: Any) -> set[str]:
    """The texts of the values that a path ending in `token` at any depth must hide."""
    if isinstance(value, dict):
        return set().union(*(texts(v) if k == "token" else leaves(v) for k, v in value.items()))
    return set().union(*map(leaves, value)) if isinstance(value, list) else set()


def texts(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(texts, value.values()))
    if isinstance(value, list):
        return set().union(*map(texts, value))
    return {value} if isinstance(value, str) else set()


@given(st.dictionaries(st.sampled_from(["token", "a", "b"]), json_values, max_size=4), paths)
def test_whatever_is_masked_stays_json_of_the_same_shape(value: dict[str, Any], some: list[str]) -> None:
    body = compact(value)
    redactor = Redactor([*some, "**.token"])

    masked_body, masked = redactor.apply(body, value)

    assert json.loads(masked_body) == masked
    assert leaves(masked) <= {MASK, ""}
    assert redactor.apply(masked_body, masked)[0] is masked_body, "masking twice changes nothing"
    assert same_shape(value, masked)


def same_shape(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same_shape(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same_shape, one, other))
    return other == one or (other == MASK and one is not None)


@given(st.binary(max_size=80) | st.text(alphabet='"\\tokn:{}[],x ', max_size=60).map(str.encode))
def test_any_text_can_be_masked(text: bytes) -> None:
    masked, _ = Redactor(["**.token", "**.to"]).apply(text, {})

    assert Redactor(["**.token", "**.to"]).apply(masked, {})[0] == masked


@pytest.mark.parametrize(
    "text", [b"\\" * 1_000_000, b'"token":"' * 50_000, b'"token":{' * 50_000, b'"token":"' + b'\\"' * 300_000]
)
def test_hostile_text_takes_no_more_time_than_its_length(text: bytes) -> None:
    start = time.thread_time()
    Redactor(["**.token"]).apply(text, {})

    assert time.thread_time() - start < 5


def test_lone_surrogate_beside_a_mask_stays_an_escape() -> None:
    body = b'{"extra_http_headers":{"a":"b"},"text":"\\ud800","word":"\xc3\xbc"}'
    masked_body, masked = Redactor(DEFAULT_REDACT).apply(body, json.loads(body))
    assert json.loads(masked_body) == masked
    assert masked["text"] == "\ud800"
    assert masked["word"] == "\xfc"
    assert b'"b"' not in masked_body
