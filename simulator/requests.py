"""Validation of requests to the simulated API, and its errors, in Skyvern's words and shapes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from json import JSONDecodeError
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from simulator.faults import Fault
from simulator.runs import RUN_TYPES, STATUSES, WORKFLOW, SimRun
from simulator.world import World

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]


class _Submit(BaseModel):
    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    title: str | None = None


class Task(_Submit):
    """The body of POST /v1/run/tasks."""

    prompt: str
    url: str | None = None
    engine: Literal[tuple(RUN_TYPES)] = "skyvern-1.0"  # type: ignore[valid-type]
    max_steps: int | None = None
    webhook_url: str | None = None


class LegacyTask(_Submit):
    """The body of POST /api/v1/tasks."""

    url: str
    navigation_goal: str | None = None
    webhook_callback_url: str | None = None


class Agent(_Submit):
    """The body of POST /v1/run/agents and /v1/run/workflows."""

    agent_id: str | None = None
    workflow_id: str | None = None
    parameters: dict[str, Any] | None = None
    webhook_url: str | None = None


class Login(_Submit):
    """The body of POST /v1/run/tasks/login, which Skyvern runs as a workflow of one block."""

    credential_type: Literal["skyvern", "bitwarden", "1password", "azure_vault"]
    url: str | None = None
    webhook_url: str | None = None


class DownloadFiles(_Submit):
    """The body of POST /v1/run/tasks/download_files, which Skyvern runs as a workflow of one block."""

    navigation_goal: str
    url: str | None = None
    webhook_url: str | None = None


class LegacyRun(_Submit):
    """The body of POST /api/v1/workflows/{workflow_id}/run."""

    data: dict[str, Any] | None = None
    webhook_callback_url: str | None = None


class PressedTest(BaseModel):
    """The body of POST /v1/internal/test-webhook, which the Test button of Skyvern's UI calls."""

    webhook_url: str
    run_type: Literal["task", "workflow_run"]
    run_id: str | None = None


class AgentDefinition(_Submit):
    """The definition in the body of a call that makes or changes an agent."""

    title: str
    webhook_callback_url: str | None = None
    workflow_definition: dict[str, Any]


class BulkCancel(BaseModel):
    """The body of POST /v1/runs/cancel."""

    run_ids: list[str] = Field(max_length=100)


class ListQuery(BaseModel):
    """The query of GET /v1/runs."""

    page: int = Field(1, ge=1, le=100)
    page_size: int = Field(10, ge=1, le=100)
    status: list[Literal[STATUSES]] = []  # type: ignore[valid-type]
    run_type: list[Literal[(*RUN_TYPES.values(), WORKFLOW)]] = []  # type: ignore[valid-type]
    search_key: str | None = Field(None, min_length=3)
    workflow_permanent_id: list[str] = Field([], max_length=50)


def world_of(request: Request) -> World:
    """Return the World that serves the request."""
    world: World = request.app.state.world
    return world


def base_of(request: Request) -> str:
    """Return where the caller reached this server, without a slash at the end."""
    return str(request.base_url).rstrip("/")


def key_of(request: Request) -> str | None:
    """Return the caller's API key; None for a valid one that came as a Bearer token. Raises Rejection (403)."""
    keys = world_of(request).options.api_keys
    given = request.headers.get("x-api-key")
    if given in keys:
        return given
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if given is None and scheme.lower() == "bearer" and token in keys:
        return None
    world_of(request).stats["bad_keys"] += 1
    raise Rejection(403, "Invalid credentials")


def run_of(request: Request, message: str = "Task run not found {}") -> SimRun:
    """Return the run that the path names. Raises Rejection (404) with `message` for an unknown run."""
    run_id = request.path_params["run_id"]
    run = world_of(request).find(run_id)
    if run is None:
        raise Rejection(404, message.format(run_id))
    return run


async def apply_faults(world: World, text: str = "") -> frozenset[Fault]:
    """Wait, or raise Rejection, as this call's faults require, and return them. `text`: of a submit; may name some."""
    faults = world.call_faults(text)
    if Fault.SLOW in faults:
        world.stats["calls_slow"] += 1
        await asyncio.sleep(world.options.pause(world.options.slow_seconds))
    if Fault.THROTTLE in faults:
        world.stats["calls_429"] += 1
        raise Rejection(429, "Rate limit exceeded. Please try again later.")
    if Fault.BUSY in faults:
        world.stats["calls_503"] += 1
        headers = {"Retry-After": f"{max(round(world.options.pause(world.options.retry_after)), 1)}"}
        raise Rejection(
            503, "The server is busy dispatching other runs. No run was created; retry this request.", headers
        )
    if Fault.CRASH in faults:
        world.stats["calls_500"] += 1
        error = Rejection(500, "")
        error.answer = JSONResponse({"error": "Unexpected error: RuntimeError"}, 500)
        raise error
    return faults


async def called(request: Request, counter: str) -> tuple[World, str | None, frozenset[Fault]]:
    """Check the key, count the call, and apply its faults. Returns the World, the key and the faults."""
    world, key = world_of(request), key_of(request)
    world.stats[counter] += 1
    return world, key, await apply_faults(world)


async def json_of(request: Request) -> dict[str, Any]:
    """Return the request's body. Raises Rejection (422) unless it is a JSON object."""
    try:
        parsed = await request.json()
    except (JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        where = error.pos if isinstance(error, JSONDecodeError) else 0
        problem = {"type": "json_invalid", "loc": ["body", where], "msg": "JSON decode error", "input": {}}
        raise Rejection(422, [problem]) from None
    if not isinstance(parsed, dict):
        problem = {
            "type": "model_attributes_type",
            "loc": ["body"],
            "msg": "Input should be a valid dictionary or object to extract fields from",
            "input": parsed,
        }
        raise Rejection(422, [problem])
    return parsed


def validated(model: type[M], given: Mapping[str, Any], where: str = "body") -> M:
    """Return `given` as a model. Raises Rejection (422), which names the fields. `where`: body or query."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems = [
            {**problem, "loc": [where, *problem["loc"]]}
            for problem in error.errors(include_url=False, include_context=False)
        ]
        raise Rejection(422, problems) from None


def callback_of(url: str | None) -> str | None:
    """Return `url` itself. Raises Rejection (400) for one that Skyvern does not support."""
    if url and not url.strip().startswith(("http://", "https://")):
        raise Rejection(
            400, f"Invalid URL: {url}. Skyvern supports HTTP and HTTPS urls with max 2083 character length."
        )
    return url


def max_steps_of(request: Request) -> int | None:
    """Return the limit in the header x-max-steps-override, or None."""
    given = request.headers.get("x-max-steps-override", "")
    return int(given) if given.isdigit() else None


class Rejection(Exception):
    """An answer with `status` and {"detail": …}: a text, or on 422 a list of {type, loc, msg}."""

    def __init__(self, status: int, detail: str | list[dict[str, Any]], headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.answer = JSONResponse({"detail": detail}, status, headers)


class Dropped(Exception):
    """The connection is to be aborted without an answer."""


async def rejection(_: Request, error: Exception) -> Response:
    """Return the answer to a request that raised Rejection."""
    assert isinstance(error, Rejection)
    return error.answer


async def http_error(_: Request, error: Exception) -> Response:
    """Return the answer to a request for an unknown path or method."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


async def caller_gone(_: Request, error: Exception) -> Response:
    """Return an unread response to a request whose caller disconnected before its end."""
    assert isinstance(error, ClientDisconnect)
    return Response(status_code=400)


async def abort_connection(request: Request, _: Exception) -> Response:
    """Abort the connection of a request that raised Dropped."""
    # uvicorn has no way to say this: its `send` is a method of the object that holds the transport.
    transport = getattr(getattr(request.scope["server_send"], "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()
    return Response(status_code=502)  # never read
