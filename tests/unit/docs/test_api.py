"""docs/reference/api.md lists each error; its examples work."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

import pytest

from receiver.api.catalogue import ENDPOINTS
from receiver.api.openapi import ERRORS
from receiver.api.responses import problem_of
from receiver.errors import Invalid, NotAsExpected
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")


def test_every_error_is_on_the_page() -> None:
    assert [each.code for each in (*ERRORS, NotAsExpected) if f"| {each.status} | `{each.code}` |" not in PAGE] == []


def test_the_problem_that_is_shown_is_one() -> None:
    shown = json.loads(re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0])
    with pytest.raises(Invalid) as caught:
        next(each for each in ENDPOINTS if each.name == "get_run").parse({"run_id": "tsk_1"}, [("sorce", "x")])
    # The title is the status's in HTTP, which Python 3.13 calls as RFC 9110 does: Unprocessable Content.
    assert shown | {"title": HTTPStatus(shown["status"]).phrase} == problem_of(caught.value)
    assert shown["title"] in ("Unprocessable Entity", "Unprocessable Content")


def test_each_example_is_a_call_that_there_is() -> None:
    commands = re.findall(r"curl (?:\\\n|[^`\n])*", PAGE)
    assert len(commands) >= 5
    for command in commands:
        address = re.search(r'"\$URL/api/v1(/[^"]*)"', command)
        assert address, command
        wanted = urlsplit(address[1])
        body = re.search(r"-d '(\{.*?\})'", command)
        method = "POST" if body else "GET"
        endpoint, path = next(
            (each, found.groupdict())
            for each in ENDPOINTS
            if each.method == method
            and (found := re.fullmatch(re.sub(r"{(\w+)(?::path)?}", r"(?P<\1>[^/]+)", each.path), wanted.path))
        )
        endpoint.parse(path, parse_qsl(wanted.query), body[1].encode() if body else b"")
