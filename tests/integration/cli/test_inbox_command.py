"""`runhook inbox`: what was set aside is shown, put back under our signature, or dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner, Result

from receiver.cli.inbox import app
from receiver.domain.event import short_id
from receiver.domain.frame import FORGED, EntryKeys
from receiver.errors import NotStarted, UsageError
from receiver.inbox import ASIDE, STREAM
from receiver.inbox.reader import InboxReader
from receiver.inbox.set_aside import list_set_aside, set_aside
from tests.support.events import body, event
from tests.support.inbox import append

KEYS = EntryKeys({"skyvern": ["a-secret"]})
Command = Callable[..., Result]


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as it:
        yield it


@pytest.fixture
def command(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    config = tmp_path / "c.yaml"
    config.write_text("sources: {skyvern: {secrets: [a-secret]}}\n")
    monkeypatch.setenv("REDIS_URL", redis_url)
    return lambda *words: CliRunner().invoke(app, [*words, "--config", str(config), "--data", str(tmp_path / "var")])


@pytest.mark.parametrize(
    ("url", "todo"),
    [
        ("redis://:sekret@127.0.0.1:1/0", "Connection refused; start it, or fix REDIS_URL"),
        ("", "No such file or directory; `runhook dev` starts it, or set REDIS_URL"),
    ],
    ids=["another's", "our own"],
)
def test_unavailable_redis_is_one_line_with_a_fix(
    command: Command, monkeypatch: pytest.MonkeyPatch, url: str, todo: str
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    ended = command("list").exception
    assert isinstance(ended, NotStarted)
    assert str(ended).startswith("Redis can't be used (")
    assert str(ended).endswith(todo)
    assert "sekret" not in str(ended)


def test_an_entry_that_was_set_aside_is_accepted_or_dropped(
    command: Command, redis_url: str, client: redis.Redis
) -> None:
    # Given an entry of a receiver that signs nothing, and one of a stranger
    append(redis_url, event(body("tsk_1")))
    client.xadd(STREAM, {"e": b"\xff", "why": "because"})
    reader = InboxReader(client, "d", KEYS)
    reader.ensure()
    set_aside(client, reader.read())
    # Then both are listed, with why
    shown = command("list").output
    assert FORGED in shown
    assert short_id(event(body("tsk_1")).id) in shown
    assert "because" not in shown, "a stranger's own words"
    ours, theirs = (each.aside_id for each in list_set_aside(client))
    # And one that is no event can't be accepted, nor one that is not there
    for wrong in (theirs, "1-1"):
        assert isinstance(command("accept", wrong).exception, UsageError)
    # And the other comes out of the inbox as one of ours
    assert command("accept", ours).output == "1 accepted.\n"
    (entry,) = reader.read()
    assert entry.event is not None
    assert entry.event.body == body("tsk_1")
    # And what is left is dropped
    assert isinstance(command("drop").exception, UsageError)
    assert command("drop", "--all").output == "1 dropped.\n"
    assert list(list_set_aside(client)) == []
    assert command("list").output == "no entry was set aside\n"


@pytest.mark.parametrize("since", ["", "soon", "nan", "1e300"])
def test_what_a_stranger_has_put_aside_is_listed_and_dropped(command: Command, client: redis.Redis, since: str) -> None:
    client.xadd(ASIDE, {"why": "\x1b[2J" + "x" * 1000, "since": since} if since else {"a": "b"})
    shown = command("list")
    assert shown.exception is None
    assert "\x1b" not in shown.output
    assert command("drop", "--all").output == "1 dropped.\n"
