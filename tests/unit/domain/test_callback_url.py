"""No token of ours is left in a body, and nothing else of it is touched."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.callback_url import STARS, mask_bytes, tokens_in

TOKEN = "sub_0123456789abcdef0123456789abcdef"
OTHER = "sub_ffffffffffffffffffffffffffffffff"
OURS = f"https://hooks.example/webhooks/skyvern/{TOKEN}"
PREFIXED = f"http://[::1]:8080/a%20b/webhooks/two-words/{OTHER}"
THEIRS = "https://app.example/done?ünï=1"
TEXT = f"Failed to send webhook to {OURS}. task_id=tsk_1"

_TOKEN = re.compile(r"(webhooks(?:/|%2[Ff])[^/\\%\"\x00-\x20]{1,200}(?:/|%2[Ff]))(sub_[0-9a-f]{32})")
_ONLY_A_URL = re.compile(rf"https?:[^\"\\\x00-\x20]{{1,2000}}/{_TOKEN.pattern}")


def masked_data(value: Any, shown: dict[str, str]) -> Any:
    """Do to parsed JSON what `mask_bytes` does to its text."""
    if isinstance(value, str):
        found = _ONLY_A_URL.fullmatch(value)
        return (shown.get(found[2]) or None) if found else _TOKEN.sub(rf"\1{STARS}", value)
    if isinstance(value, dict):
        return {_TOKEN.sub(rf"\1{STARS}", name): masked_data(item, shown) for name, item in value.items()}
    return [masked_data(item, shown) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("member", "shown", "masked"),
    [
        (OURS, {}, None),
        (OURS, {TOKEN: THEIRS}, THEIRS),
        (OURS, {TOKEN: ""}, None),
        (OURS, {OTHER: THEIRS}, None),
        (PREFIXED, {}, None),
        (TEXT, {TOKEN: THEIRS}, TEXT.replace(TOKEN, STARS)),
        (f"{OURS}?again", {}, f"{OURS}?again".replace(TOKEN, STARS)),
        (f"to={OURS}".replace("/", "%2F"), {}, f"to={OURS}".replace("/", "%2F").replace(TOKEN, STARS)),
        ([OURS, {"a": TEXT, OURS: OURS}], {}, [None, {"a": TEXT.replace(TOKEN, STARS), OURS[:-36] + STARS: None}]),
        # Nothing of ours: other words, other paths, other ids.
        (TOKEN, {}, TOKEN),
        ("https://pay.example/subs/sub_0123456789abcdef", {}, "https://pay.example/subs/sub_0123456789abcdef"),
        (f"https://x.example/{TOKEN}", {}, f"https://x.example/{TOKEN}"),
        ("https://hooks.example/webhooks/skyvern", {}, "https://hooks.example/webhooks/skyvern"),
        (THEIRS, {TOKEN: "x"}, THEIRS),
    ],
)
def test_callback_urls_are_replaced_and_tokens_masked(member: Any, shown: dict[str, str], masked: Any) -> None:
    body = {"webhook_callback_url": member, "run_request": {"webhook_url": member}, "n": 12345678901234567890}
    expected = body | {"webhook_callback_url": masked, "run_request": {"webhook_url": masked}}
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    assert masked_data(body, shown) == expected
    assert mask_bytes(text, shown) == json.dumps(expected, ensure_ascii=False, separators=(",", ":")).encode()


def test_a_body_without_a_token_is_the_same_object() -> None:
    body = b'{"webhook_callback_url": "https://app.example/webhooks/sub_1",  "output": 1.0}'
    assert mask_bytes(body) is body


@pytest.mark.parametrize("slash", ["/", "\\/", "\\u002f", "\\u002F", "%2F", "%2f"])
def test_a_token_is_found_however_its_slashes_are_written(slash: str) -> None:
    body = json.dumps({"a": PREFIXED, "b": TEXT, "c": THEIRS}).replace("/", slash).encode()
    assert tokens_in(body) == [TOKEN, OTHER]
    assert tokens_in(body.replace(b"webhooks", b"hooks")) == []


def test_escaped_slashes_hide_no_token() -> None:
    body = json.dumps({"a": OURS, "b": TEXT}).replace("/", "\\/").encode()
    assert json.loads(mask_bytes(body)) == {"a": None, "b": TEXT.replace(TOKEN, STARS)}


_words = st.sampled_from([OURS, PREFIXED, TEXT, OURS.replace("/", "%2f"), "\u2028</script>", "x"]) | st.text(max_size=5)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | _words | st.builds("".join, st.lists(_words, max_size=3)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_words, _json, max_size=4), st.booleans())
def test_masked_text_and_data_agree_and_hold_no_token(data: Any, spaced: bool) -> None:
    text = json.dumps(data, ensure_ascii=False, separators=(" , ", " : ") if spaced else (",", ":"))
    shown = {TOKEN: THEIRS}
    masked = mask_bytes(text.encode("utf-8", "surrogatepass"), shown)
    assert TOKEN.encode() not in masked
    assert OTHER.encode() not in masked
    assert json.loads(masked.decode("utf-8", "surrogatepass")) == masked_data(data, shown)
