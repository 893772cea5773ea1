"""`runhook mcp`: a model's client, the official one, over each transport; what it may do, and how much it is told.

The official SDK is imported where it is used: it takes longer to import than all else that is collected here.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.cli.client import LocalClient
from receiver.config.settings import Settings
from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Ledger, operations
from receiver.mcp.tools import RESULT_BYTES, bounded, instructions, tools
from tests.servers.skyvern import SkyvernSimulator
from tests.servers.submitting import Submitting
from tests.support.command import Said
from tests.support.ledger import claim, new_event, record, settle, with_tables
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from mcp import Client

RUNHOOK = [sys.executable, "-m", "receiver.cli"]


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Ledger]:
    config = {"sources": {"skyvern": {"secrets": ["s"]}}, "sinks": {"ops": {"type": "files", "path": "/tmp/never"}}}
    (tmp_path / "c.json").write_text(json.dumps({**config, "routes": [{"name": "all", "to": ["ops"]}]}))
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    yield ledger
    ledger.close()


@pytest.fixture
def local(book: Ledger, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """A client of the tools on the ledger of this machine, in this process."""
    from mcp import Client

    from receiver.mcp.server import server_of

    environ = {"DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db", "REDIS_URL": "redis://127.0.0.1:1/0"}
    settings = Settings.from_env(environ, data=tmp_path, config=tmp_path / "c.json")
    with ExitStack() as stack:

        def make(*allow: str) -> Client:
            found = tools(LocalClient(settings, stack), allow, None)
            return Client(server_of(found, instructions(found, "a test")))

        yield make


def said(result: Any) -> Any:
    (content,) = result.content
    assert not result.is_error, content.text
    return json.loads(content.text)


async def refusal(client: Client, tool: str, arguments: dict[str, Any]) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)


async def test_tools_only_look_unless_more_is_allowed(local: Callable[..., Client]) -> None:
    async with local() as client:
        looking = (await client.list_tools()).tools
        # A model reads all of it before it does anything
        assert len(json.dumps([tool.model_dump(by_alias=True, exclude_none=True) for tool in looking])) < 42_000
        (runs,) = (tool for tool in looking if tool.name == "list_runs")
        assert {"title", "status", "since", "after"} <= runs.input_schema["properties"].keys()
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in looking)
        assert {"list_runs", "get_run", "get_status", "explain", "wait_for_run", "tail"} <= {t.name for t in looking}
        assert "unknown tool replay" in await refusal(client, "replay", {"ids": ["dlv_000000000000"]})
    async with local("operate") as client:
        acting = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(acting) > {tool.name for tool in looking} | {"replay", "cancel", "pause_sink"}
        assert acting["cancel"].annotations.destructive_hint
        assert not acting["pause_sink"].annotations.destructive_hint
        # What makes secrets is no model's business
        assert not {"create_key", "revoke_keys", "submit_task"} & set(acting)


async def test_cursor_continues_where_a_shortened_page_ends(local: Callable[..., Client], book: Ledger) -> None:
    record(book, *(new_event(f"tsk_{number:03}", "ops", title="t" * 900) for number in range(70)))
    seen: list[str] = []
    async with local() as client:
        after, sizes = "", []
        while after is not None:
            result = await client.call_tool("list_runs", {"limit": 60, "after": after})
            sizes.append(len(result.content[0].text))
            page = said(result)
            assert "cut" not in page
            seen += [row["run_id"] for row in page["result"]["items"]]
            after = page["result"]["next"]
    assert sorted(seen) == [f"tsk_{number:03}" for number in range(70)]
    assert max(sizes) <= RESULT_BYTES
    assert len(sizes) >= 4


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=300),
        lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=200), inner, max_size=30),
        max_leaves=60,
    )
)
def test_result_is_never_longer_than_its_bound(value: Any) -> None:
    assert bounded(value, 10**7) == {"result": value}
    for wrapped in (value, [value] * 300, {str(number): [value] for number in range(300)}, [[[[[[[[value]]]]]]]] * 99):
        assert len(orjson.dumps(bounded(wrapped, RESULT_BYTES))) <= RESULT_BYTES


async def test_mistakes_are_told_with_what_would_be_right(local: Callable[..., Client]) -> None:
    async with local() as client:
        assert "did you mean status?" in await refusal(client, "list_runs", {"statuss": ["failed"]})
        assert "not_found: run tsk_nobody: " in await refusal(client, "get_run", {"run_id": "tsk_nobody"})
        assert (await refusal(client, "list_runs", {"limit": 0})).startswith("invalid: limit: must be ")
        wanted = {"body": {"run_id": "tsk_1", "status": "completed"}}
        found = said(await client.call_tool("explain", wanted))["result"]
        assert [(each["route"], each["matched"]) for each in found["routes"]] == [("all", True)]


async def test_a_replay_by_filter_is_counted_first(local: Callable[..., Client], book: Ledger) -> None:
    record(book, *(new_event(f"tsk_{number}", "ops") for number in range(3)))
    settle(book, claim(book, "ops"), DeliveryMove.DIE)
    async with local("operate") as client:
        preview = said(await client.call_tool("replay", {"sink": "ops", "dry_run": True}))["result"]
        assert (preview["count"], book.read(operations.list_operations)) == (3, [])
        wanted = {"sink": "ops", "until": preview["until"]}
        assert "expect" in await refusal(client, "replay", wanted)
        assert "not_as_expected: " in await refusal(client, "replay", {**wanted, "expect": 2})
        made = said(await client.call_tool("replay", {**wanted, "expect": 3}))["result"]
        assert [each.id for each in book.read(operations.list_operations)] == [made["operation"]["id"]]


async def test_a_wait_ends_in_time_and_goes_on_when_it_is_asked_again(
    local: Callable[..., Client], book: Ledger
) -> None:
    wanted = {"run_id": "tsk_1", "seconds": 0.2}
    async with local() as client:
        waited = said(await client.call_tool("wait_for_run", wanted))["result"]
        assert waited == {"ended": False, "run": None}
        waiting = asyncio.create_task(client.call_tool("wait_for_run", {**wanted, "seconds": 30}))
        await asyncio.sleep(0)
        record(book, new_event("tsk_1", "ops"))
        ended = said(await waiting)["result"]
        assert (ended["ended"], ended["run"]["outcome"]) == (True, "completed")


async def test_a_run_is_submitted_once_and_waited_for_over_stdio(
    submitting: Callable[..., Submitting], skyvern_simulator: SkyvernSimulator
) -> None:
    from mcp import Client, StdioServerParameters

    # Given a deployed service, and a key that may look and submit
    service = submitting(skyvern_simulator.url)
    key = service.key("view", "submit", "read")
    environ = {**os.environ, "RUNHOOK_URL": service.url, "RUNHOOK_KEY": key}
    server = StdioServerParameters(
        command=RUNHOOK[0], args=[*RUNHOOK[1:], "mcp", "--allow", "submit", "--allow", "operate"], env=environ
    )
    async with Client(server, mode="legacy") as client:
        # When a model submits a task, and does so again since it has lost the answer
        task = {"prompt": "complete", "title": "one", "labels": {"team": "a"}, "idempotency_key": "key-of-this-run"}
        run = said(await client.call_tool("submit_task", task))["result"]
        again = said(await client.call_tool("submit_task", task))["result"]
        # Then there is one run, and its end comes
        assert run["run_id"] == again["run_id"]
        assert len(service.rows()) == 1
        ended: dict[str, Any] = {"ended": False}
        while not ended["ended"]:
            ended = said(await client.call_tool("wait_for_run", {"run_id": run["run_id"], "seconds": 5}))["result"]
        assert ended["run"]["labels"] == {"team": "a"}
        # And what the key may not do, no option allows
        assert "forbidden: this needs the scope operate" in await refusal(client, "pause_sink", {"sink": "callback"})


@contextmanager
def served(environ: dict[str, str]) -> Iterator[str]:
    """`runhook mcp --http 0`, and where it is."""
    process = subprocess.Popen([*RUNHOOK, "mcp", "--http", "0"], env=environ, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        yield re.sub(r"^runhook: MCP at (http\S+/mcp)\n$", r"\1", line)
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
        process.stderr.close()


async def test_over_http_a_client_needs_the_token(book: Ledger, served_http: str) -> None:
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    record(book, new_event("tsk_1", "ops"))
    headers = {"authorization": "Bearer a-token-of-the-tests"}
    for mode in ("legacy", "auto"):  # of the protocol: with a handshake, and without
        async with (
            httpx2.AsyncClient(headers=headers, timeout=PATIENCE, trust_env=False) as http,
            Client(streamable_http_client(served_http, http_client=http), mode=mode) as client,
        ):
            rows = said(await client.call_tool("list_runs", {}))["result"]["items"]
            assert [row["run_id"] for row in rows] == ["tsk_1"]
    async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http:
        for given in ({}, {"authorization": "Bearer wrong"}):
            assert (await http.post(served_http, json={}, headers=given)).status_code == 401


@pytest.fixture
def served_http(book: Ledger, tmp_path: Path) -> Iterator[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RUNHOOK_")}
    environ |= {"DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db", "RUNHOOK_DATA": str(tmp_path)}
    with served({**environ, "RUNHOOK_MCP_TOKEN": "a-token-of-the-tests"}) as url:
        yield url


async def test_unfinished_requests_do_not_shut_clients_out(book: Ledger, served_http: str) -> None:
    # Given 300 connections that never finish the head of their request
    host, port = urlsplit(served_http).hostname, urlsplit(served_http).port
    with ExitStack() as stack:
        for _ in range(300):
            held = stack.enter_context(socket.create_connection((host, port), timeout=PATIENCE))
            held.sendall(b"POST /mcp HTTP/1.1\r\nhost: x\r\n")
        # Then a client is served
        from mcp import Client
        from mcp.client.streamable_http import streamable_http_client

        headers = {"authorization": "Bearer a-token-of-the-tests"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=PATIENCE, trust_env=False) as http,
            Client(streamable_http_client(served_http, http_client=http), mode="auto") as client,
        ):
            assert said(await client.call_tool("list_runs", {}))["result"]["items"] == []


def test_a_port_that_is_in_use_is_one_line_and_no_token_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: Callable[..., Said]
) -> None:
    monkeypatch.setenv("RUNHOOK_DATA", str(tmp_path))
    monkeypatch.delenv("RUNHOOK_MCP_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = f"runhook: can't listen on 127.0.0.1:{port}: the port is in use; choose another with --http\n"
        assert said("mcp", "--http", str(port)) == (3, "", line)
