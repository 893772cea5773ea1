"""The pages on API, command line and their generated parts are current."""

import json
import re
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

import pytest

from receiver.api.catalogue import ENDPOINTS
from receiver.api.openapi import ERRORS
from receiver.api.responses import problem_of
from receiver.cli.commands import COMMANDS
from receiver.errors import Invalid, NotAsExpected
from scripts.reference import FOLDER, committed, generated
from tests.support.paths import ROOT

PAGES = committed()


@pytest.mark.parametrize("name", PAGES)
def test_generated_part_of_a_page_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name], "run: python scripts/reference.py"


def test_commands_page_has_every_command_and_option() -> None:
    page = generated()["commands.md"]

    assert [name for name in COMMANDS if f"### runhook {name}" not in page] == []
    section = page.partition("### runhook replay\n")[2].partition("\n### ")[0]
    assert {"--dry-run", "--expect", "filters"} <= set(re.findall(r"--[\w-]+|filters", section))


def test_calls_page_has_every_call_with_its_parameters() -> None:
    page = generated()["api-calls.md"]

    assert page.count("\n## ") >= len(ENDPOINTS)
    assert "- `name` (required): " in page.partition("## POST /keys\n")[2].partition("\n## ")[0]
    runs = page.partition("## GET /runs\n")[2].partition("\n## ")[0]
    assert "Scope: view." in runs
    assert "- Shared: filters, `event_id route sink state limit after" in runs
    assert "- Items: `source run_id " in runs


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


CLI_PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text()
LOCAL_ONLY = CLI_PAGE.partition("These commands work on this machine only")[2].partition("\n## ")[0]
# Commands of the modules whose name is not that of their only local command.
NAMES = {"sinks": {"sink columns"}, "inbox": {"inbox", "spool"}}


def test_page_gives_a_reason_for_each_local_command() -> None:
    modules = {path.stem for path in (ROOT / "receiver" / "cli").glob("*.py") if "\n@here_only\n" in path.read_text()}
    reasons = dict(re.findall(r"^\| `([\w ]+)` \| (\w.+) \|$", LOCAL_ONLY, flags=re.MULTILINE))

    assert set(reasons) == set().union(*(NAMES.get(each, {each}) for each in modules))
