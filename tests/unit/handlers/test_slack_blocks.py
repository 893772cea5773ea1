"""What a run looks like in Slack, and that nothing in a payload can mention, link, or break out of where it stands."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.contract import Artifact, Delivery
from handlers.slack import escape
from handlers.slack.blocks import BLOCKS_MAX, build
from handlers.slack.incidents import (
    RECENT,
    IncidentCount,
    normalized_reason,
    repeat_line,
    repeat_reply,
    seen_run,
    topic_of,
)
from handlers.slack.templates import TemplateOption, Templates
from handlers.support import wording
from handlers.testing.conformance import BODIES, make_delivery, sample_run
from tests.servers.slack import fits

HOSTILE = [
    "<!channel>", "<!here|here>", "<!everyone>", "<@U0123456>", "<#C0123456|general>", "<!subteam^S01|@team>",
    "<https://evil.example|Open the run>", "https://evil.example", "@here", "@channel @everyone", "```", "`",
    "``` <!here> ```", "*bold* _it_ ~no~", "&lt;!channel&gt;", "&", "&amp", "\u202egnp.exe", "a\0b", "\ud800", "\u200b",
    "line\nline\r\n> quote", "|", "mailto:a@b.example", "<!date^1^{date}|x>", ":tada:",
]  # fmt: skip
hostile = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=40), max_size=8).map("".join) | st.text(max_size=6000)

# All that may follow a raw "<" in our messages: a link of ours.
LINK = re.compile(r"<(https?://[^<>|\s`]+)\|([^<>|`\n]+)>")


def texts(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every text object of the message's blocks."""
    for block in message["blocks"]:
        yield from [block["text"]] if "text" in block else []
        yield from block.get("fields", [])
        yield from block.get("elements", [])


def hostile_delivery(**run: Any) -> Delivery:
    """A delivery of a run that any text may stand in, lone surrogates too."""
    return make_delivery(body=json.dumps(sample_run(**run)).encode())


def blocks_of(delivery: Delivery, *words: str, **more: Any) -> dict[str, Any]:
    return build(delivery, *words, **more).to_dict()


def all_text(message: dict[str, Any]) -> str:
    return "\n".join(text["text"] for text in texts(message))


def assert_harmless(message: dict[str, Any], hosts: frozenset[str] = frozenset({"app.example"})) -> None:
    """Slack takes it, and there is no mention and no link but to `hosts`."""
    assert 0 < len(message["blocks"]) <= BLOCKS_MAX
    assert [block for block in message["blocks"] if not fits(block)] == []
    for text in [*texts(message), {"type": "mrkdwn", "text": message["text"], "verbatim": True}]:
        words = text["text"]
        assert not wording.INVISIBLE.search(words.replace(escape.WORD_JOINER, ""))
        assert not re.search(r"@(here|channel|everyone)", words, re.IGNORECASE)
        if text["type"] == "plain_text":
            assert not re.search(r"[<>\n]", words)
            continue
        assert text["verbatim"] is True
        assert len(words) <= 3000
        rest = LINK.sub("", words)
        assert not re.search(r"[<>]", rest), words
        assert not re.search(r"&(?!amp;|lt;|gt;)", rest), words
        assert words.count("```") in (0, 2)
        assert words.count("`") % 2 == 0
        assert {match[1].split("/")[2] for match in LINK.finditer(words)} <= hosts


@given(text=hostile)
def test_payload_text_cannot_mention_link_or_break_the_message(text: str) -> None:
    delivery = hostile_delivery(
        failure_reason=text, workflow_title=text, title=text, run_type=text, attempt=2, step_count=text,
        errors=[{"error_code": text, "reasoning": text}, text], failure_category=[{"category": text}],
        output={text: text}, downloaded_files=[{"url": text, "filename": text}], app_url="https://app.example/x",
    )  # fmt: skip
    receipts = {
        "archive": {"id": "x", "urls": {text: "https://app.example/f", "b": "https://app.example/" + text}},
        "b": None,
    }
    delivery = replace(delivery, receipts=receipts, labels={text: text})
    for status in ("failed", "completed"):
        assert_harmless(blocks_of(replace(delivery, status=status)))
    assert_harmless(blocks_of(replace(delivery, problem=text or "?")))


@given(text=hostile, limit=st.integers(10, 300))
def test_escaped_text_is_never_cut_within_an_escape(text: str, limit: int) -> None:
    for made in (escape.mrkdwn(text, limit), escape.code(text, limit), escape.code_block(text, limit)):
        assert escape.utf16_length(made) <= limit
        assert not re.search(r"&(?!amp;|lt;|gt;)", made)
    assert escape.utf16_length(escape.plain(text, limit)) <= limit


@given(text=st.sampled_from(HOSTILE) | st.text())
def test_only_an_http_address_becomes_a_link(text: str) -> None:
    for url in (text, "https://" + text, "https://app.example/" + text, "javascript:" + text):
        made = escape.link(url, "label")
        assert made == "" or LINK.fullmatch(made)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "file:///etc/passwd", "//evil.example", "https://", "https://a@evil.example/", "http://[::1",
        "https://app.example\n/", " https://app.example", "slack://open", "data:text/html,x", None, 17,
        "https://" + "a" * 5000,
    ],
)  # fmt: skip
def test_an_address_that_is_no_web_address_is_left_out(url: object) -> None:
    assert escape.link(url, "Open the run") == ""


def test_special_characters_are_encoded_in_an_address() -> None:
    assert escape.link("https://app.example/a|b?q=<x>`y é", "open") == (
        "<https://app.example/a%7Cb?q=%3Cx%3E%60y%20%C3%A9|open>"
    )


@pytest.mark.parametrize(
    ("status", "sign", "words"),
    [
        ("completed", "✅", "completed"),
        ("failed", "❌", "failed"),
        ("terminated", "⛔", "terminated"),
        ("timed_out", "⌛", "timed out"),
        ("canceled", "🚫", "canceled"),
        ("running", "▶️", "is running"),
        ("melted", "ℹ️", "is melted"),
    ],
)
def test_the_headline_says_what_became_of_which_run(status: str, sign: str, words: str) -> None:
    message = blocks_of(make_delivery(sample_run(workflow_title="Weekly invoices"), status=status))
    assert message["blocks"][0]["text"]["text"] == f"{sign} Weekly invoices {words}"
    assert message["text"].startswith(f"{sign} Weekly invoices {words}")


FAILED_RUN = sample_run(
    workflow_title="Weekly invoices", run_type="workflow_run", failure_reason="No login form", attempt=2,
    errors=[{"error_code": "NO_FORM", "reasoning": "The page was empty"}], failure_category=[{"category": "LOGIN"}],
    app_url="https://app.example/runs/wr_1", run_id="wr_1",
)  # fmt: skip
SIGNED = {"artifacts": [Artifact("recording", "recording.webm", "https://signed.example/r?sig=1&kid=k")]}
URLS = {"run.json": "https://files.example/run.json", "recording.webm": "s3://bucket/recording.webm"}
PLACE = {"id": "var/archive/wr_1/", "keys": ["var/archive/wr_1/run.json"]}
# (delivery, how it is built, words that are shown, words that are not)
SHOWN: dict[str, tuple[Delivery, dict[str, Any], list[str], list[str]]] = {
    "a failed run says why, how long it took and where to look": (
        make_delivery(FAILED_RUN), {}, [
            "`wr_1` · workflow run · attempt 2", "*Why*\n```\nNo login form\n```", "• `NO_FORM` `The page was empty`",
            "*Duration*\n2 min 2 s", "*Steps*\n3", "*Category*\n`LOGIN`", "source `skyvern` · route `everything`",
            "<https://app.example/runs/wr_1|Open the run>",
        ], ["*Output*"],
    ),
    "a completed run shows its output and no reason": (
        make_delivery(sample_run(status="completed", output={"total": 1500}, failure_reason="left over")), {},
        ['*Output*\n```\n{\n "total": 1500\n}\n```'], ["left over"],
    ),
    "the outcome counts and not the status that was sent": (
        make_delivery(sample_run(status="failed", failure_reason="Failed to send webhook"), status="completed"), {},
        ["✅ Task completed"], ["Failed to send webhook"],
    ),
    "a run that is tried again says when": (
        make_delivery(sample_run(retry_pending=True, next_attempt_at="2026-03-01T10:05:00.5")), {},
        ["failed and will be tried again", "*Next attempt*\n2026-03-01 10:05:00 UTC"], [],
    ),
    "mirrored files are linked instead of signed links": (
        make_delivery(receipts={"archive": {"id": "x", "urls": URLS}}), SIGNED,
        ["<https://files.example/run.json|run.json>"], ["signed.example", "s3://"],
    ),
    "signed links are shown where nothing was mirrored": (
        make_delivery(), SIGNED,
        ["<https://signed.example/r?sig=1&kid=k|recording.webm>", "expire within hours"], [],
    ),
    "signed links can be switched off": (make_delivery(), {**SIGNED, "link_to": ("run",)}, [], ["signed.example"]),
    "a place without a link is named": (
        make_delivery(receipts={"archive": PLACE}), {}, ["kept by `archive` as `var/archive/wr_1/`"], []
    ),
    "a sink that failed is named": (
        make_delivery(receipts={"archive": None}), {}, ["The sink `archive` did not take this result"], []
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SHOWN)
def test_message_shows_what_matters_of_a_run(case: str) -> None:
    delivery, how, shown, hidden = SHOWN[case]
    message = blocks_of(delivery, **how)
    text = message["text"] + all_text(message)
    assert [words for words in shown if words not in text] == []
    assert [words for words in hidden if words in text] == []


def test_many_files_are_counted_instead_of_shown() -> None:
    urls = {f"file{number}.pdf": f"https://files.example/{number}" for number in range(60)}
    message = blocks_of(make_delivery(receipts={"archive": {"id": "x", "urls": urls}}))
    assert "and 41 more" in all_text(message)
    assert_harmless(message, frozenset({"app.example", "files.example"}))


def test_parts_that_are_not_wanted_are_left_out() -> None:
    message = blocks_of(make_delivery(), show=("why",))
    assert [block["type"] for block in message["blocks"]] == ["header", "section", "section"]


@pytest.mark.parametrize("kind", BODIES)
def test_any_body_makes_a_message_that_slack_takes(kind: str) -> None:
    assert_harmless(blocks_of(make_delivery(body=BODIES[kind])))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_a_duration_reads_as_people_say_it(seconds: float, words: str) -> None:
    assert wording.format_duration(seconds) == words


# --- Templates


def test_operators_words_replace_the_text_and_values_are_escaped() -> None:
    templates = Templates(
        {
            "failed": TemplateOption(
                title="{{ title }} & co broke",
                body="*Reason:* {{ reason }}, see {{ link(run.app_url, run.name) }}\n<!here> {{ link(run.bad, 'x') }}",
            )
        }
    )
    run = sample_run(
        title="A <b>", failure_reason="<!channel> ``` @here", name="a|b>", app_url="https://app.example/1", bad="x:y"
    )
    delivery = make_delivery(run)
    message = blocks_of(delivery, *templates.words(delivery))
    assert message["blocks"][0]["text"]["text"] == "A ‹b› & co broke"
    body = message["blocks"][2]["text"]["text"]
    assert body.startswith("*Reason:* &lt;!channel&gt; ˋˋˋ @\u2060here, see <https://app.example/1|a¦b&gt;>\n<!here> x")
    assert "*Why*" not in all_text(message)
    assert "Open the run" in all_text(message)


@given(text=hostile)
@settings(max_examples=40)
def test_no_value_in_a_template_can_mention_or_link(text: str) -> None:
    body = "a {{ reason }} `{{ reason }}` {{ link(run.evil, reason) }} {{ run.evil | upper }}"
    templates = Templates({"default": TemplateOption.model_validate({"title": "{{ reason }}", "body": body})})
    delivery = hostile_delivery(failure_reason=text, evil=text, app_url="https://app.example/x")
    message = build(delivery, *templates.words(delivery))
    assert [block for block in message.blocks if not fits(block)] == []
    for block in message.blocks[2:]:
        words = block.get("text", {}).get("text", "")
        assert not re.search(r"<[!@#]", words)
        assert not re.search(r"[<>]", LINK.sub("", words))


def test_a_long_body_is_laid_out_in_sections_that_fit() -> None:
    templates = Templates(
        {"default": TemplateOption(body="{% for n in range(400) %}line {{ n }} & more\n{% endfor %}{{ run.long }}")}
    )
    delivery = make_delivery(sample_run(long="<x>" * 3000))
    message = blocks_of(delivery, *templates.words(delivery))
    assert [block for block in message["blocks"] if not fits(block)] == []
    assert "line 399" in all_text(message)


# --- Incidents


def failing(reason: str, **changes: Any) -> Delivery:
    return make_delivery(sample_run(failure_reason=reason, workflow_id="wpid_1", **changes))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Connect call failed ('127.0.0.1', 22997)", "Connect call failed ('127.0.0.2', 3)"),
        ("run wr_600635719026225438 timed out after 31.5 s", "run wr_1795529218148002 timed  out after 12 s"),
        ("GET https://shop.example/a?x=1 gave 500", "GET https://shop.example/b/c gave 500"),
        ("Block 3f2504e0-4f89-11d3-9a0c-0305e82c3301 is gone", "block 9b2504e0-4f89-11d3-9a0c-0305e82c33aa is gone"),
    ],
)
def test_reasons_that_differ_in_ids_and_numbers_are_one(one: str, other: str) -> None:
    assert normalized_reason(failing(one)) == normalized_reason(failing(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [("No login form", "No search form"), ("GET https://a.example/ failed", "GET https://b.example/ failed")],
)
def test_other_reasons_are_other_incidents(one: str, other: str) -> None:
    assert normalized_reason(failing(one)) != normalized_reason(failing(other))


def test_an_incident_is_one_workflow_failing_in_one_way() -> None:
    def key(delivery: Delivery) -> str:
        topic = topic_of(delivery, "incident", 3600, 1e9)
        assert topic is not None
        return topic.key

    first = key(failing("No login form"))
    assert key(failing("No login form")) == first
    assert key(replace(failing("No login form"), status="terminated")) != first
    assert key(make_delivery(sample_run(failure_reason="No login form", workflow_id="wpid_2"))) != first
    assert key(replace(failing("No login form"), sink="other")) != first


def test_hidden_parts_of_large_bodies_cost_little() -> None:
    run = sample_run(errors=[{"error_code": "E", "reasoning": "x" * 20}] * 200_000)
    run["app_url"] = "https://app.example/" + "<" * 5_000_000
    delivery = make_delivery(run)
    began = time.thread_time()
    message = build(delivery).to_dict()
    assert time.thread_time() - began < 2
    assert "… and 199995 more" in all_text(message)
    assert wording.safe_url("https://a.example/" + "a" * wording.URL_MAX) == ""


def test_only_failures_are_incidents() -> None:
    for status in ("completed", "canceled", "running"):
        assert topic_of(replace(failing("x"), status=status), "incident", 3600, 1e9) is None
    assert topic_of(failing("x"), "none", 3600, 1e9) is None
    assert topic_of(replace(failing("x"), test=True), "incident", 3600, 1e9) is None


def test_count_includes_each_delivery_once() -> None:
    seen = {
        f"mark{number}": seen_run(make_delivery(sample_run(f"wr_{number}", app_url="https://app.example/1")))
        for number in range(30)
    }
    count = IncidentCount().add(seen).add(seen)
    assert (count.repeats, len(count.recent)) == (30, RECENT)
    back = IncidentCount.from_metadata(json.loads(json.dumps(count.to_metadata("t")))["event_payload"])
    assert back == count
    assert len(json.dumps(count.to_metadata("t"))) < 8000
    message = repeat_reply(count).to_dict()
    assert_harmless(message)
    assert "Seen again: 31 times by now" in message["text"]
    assert "and 20 before" in all_text(message)
    assert_harmless(repeat_line(build(failing("No login form")), 10, 90).to_dict())


@pytest.mark.parametrize(
    "payload", [{}, {"count": "x", "deliveries": 3, "recent": "y"}, {"count": -1, "recent": [1, {}, None]}]
)
def test_a_count_that_was_tampered_with_starts_anew(payload: dict[str, Any]) -> None:
    assert IncidentCount.from_metadata(payload).repeats == 0
