"""The options of the sink `slack`."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from handlers.slack import SlackOptions


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "either webhook_url, or token and channel"),
        (
            {"webhook_url": "https://hooks.slack.com/services/T/B/x", "token": "x", "channel": "C1"},
            "either webhook_url",
        ),
        ({"token": "xoxb-hush"}, "token needs channel"),
        ({"webhook_url": "hooks.slack.com/services/hush"}, "must be an address like https://hooks.slack.com/services"),
        ({"webhook_url": "http://hooks.slack.com/services/hush"}, "must begin with https://"),
        ({"webhook_url": "https://hooks.slack.com/hush hush"}, "must be an address like"),
        ({"webhook_url": "ftp://hooks.slack.com/hush"}, "must be an address like"),
        ({"webhook_url": "https://[hush"}, "must be an address like"),
        ({"webhook_url": "https://hooks.slack.com/x", "channel": "#ops"}, "channel goes with token"),
        ({"webhook_url": "https://hooks.slack.com/x", "thread": "run"}, "thread: run needs a bot token"),
        ({"token": "xoxb-hush", "channel": "#ops", "thread": "incident"}, "thread needs the channel's id"),
        ({"token": "xoxb\nhush", "channel": "#ops"}, "characters that no token has"),
        ({"token": "xoxb-hush", "channel": "#ops", "api_url": "http://slack.example/api/"}, "must begin with https://"),
        ({"webhook_url": "https://a.example/x", "templates": {"failed": "{{ hush"}}, "body, line 1"),
        (
            {"webhook_url": "https://a.example/x", "templates": {"failed": {"title": "{{ rum }}"}}},
            "unknown variable rum",
        ),
        ({"webhook_url": "https://a.example/x", "templates": {"fialed": "x"}}, "templates.fialed"),
        ({"webhook_url": "https://a.example/x", "window": 1}, "window"),
    ],
)
def test_wrong_options_say_what_would_be_right_and_no_secret(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SlackOptions.model_validate(options)
    assert words in str(caught.value)
    assert "hush" not in str(caught.value).replace("{{ hush", "")
