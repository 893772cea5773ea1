"""What a call of the simulated API must be like, and how it is refused: in Skyvern's words and shapes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from json import JSONDecodeError
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from receiver.skyvern.simulator.faults import Fault
from receiver.skyvern.simulator.runs import RUN_TYPES, STATUSES, WORKFLOW, SimRun
from receiver.skyvern.simulator.world import World

M = TypeVar("M", bound=BaseModel)


class Submit(BaseModel):
    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    title: str | None = None


class Task(Submit):
    prompt: str
    url: str | None = None
    engine: Literal[tuple(RUN_TYPES)] = "skyvern-1.0"  # type: ignore[valid-type]
    max_steps: int | None = None
    webhook_url: str | None = None


class LegacyTask(Submit):
    url: str
    navigation_goal: str | None = None
    webhook_callback_url: str | None = None


class Agent(Submit):
    agent_id: str | None = None
    workflow_id: str | None = None
    parameters: dict[str, Any] | None = None
    webhook_url: str | None = None


class Login(Submit):
    credential_type: Literal["skyvern", "bitwarden", "1password", "azure_vault"]
    url: str | None = None
    webhook_url: str | None = None


class DownloadFiles(Submit):
    navigation_goal: str
    url: str | None = None
    webhook_url: str | None = None


class LegacyRun(Submit):
    data: dict[str, Any] | None = None
    webhook_callback_url: str | None = None


class BulkCancel(BaseModel):
    run_ids: list[str] = Field(max_length=100)


class Page(BaseModel):
    page: int = Field(1, ge=1, le=100)
    page_size: int = Field(10, ge=1, le=100)
    status: list[Literal[STATUSES]] = []  # type: ignore[valid-type]
    run_type: list[Literal[(*RUN_TYPES.values(), WORKFLOW)]] = []  # type: ignore[valid-type]
    search_key: str | None = Field(None, min_length=3)


def world_of(request: Request) -> World:
    world: World = request.app.state.world
    return world


def base_of(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def key_of(request: Request) -> str | None:
    """The caller's API key; None when a good one came as a Bearer token. Raises 403 for a bad or missing one."""
    keys = world_of(request).options.api_keys
    given = request.headers.get("x-api-key")
    if given in keys:
        return given
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if given is None and scheme.lower() == "bearer" and token in keys:
        return None
    world_of(request).stats["bad_keys"] += 1
    raise Rejection(403, "Invalid credentials")


def run_of(request: Request, words: str = "Task run not found {}") -> SimRun:
    run_id = request.path_params["run_id"]
    if run_id not in world_of(request).runs:
        raise Rejection(404, words.format(run_id))
    return world_of(request).runs[run_id]


async def misbehave(world: World, text: str = "") -> frozenset[Fault]:
    """Wait or refuse where this call's faults say so; what is left of them."""
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


async def json_of(request: Request) -> dict[str, Any]:
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


def checked(model: type[M], given: Mapping[str, Any], where: str = "body") -> M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems = [
            {**problem, "loc": [where, *problem["loc"]]}
            for problem in error.errors(include_url=False, include_context=False)
        ]
        raise Rejection(422, problems) from None


def callback_of(url: str | None) -> str | None:
    if url and not url.strip().startswith(("http://", "https://")):
        raise Rejection(
            400, f"Invalid URL: {url}. Skyvern supports HTTP and HTTPS urls with max 2083 character length."
        )
    return url


def max_steps_of(request: Request) -> int | None:
    given = request.headers.get("x-max-steps-override", "")
    return int(given) if given.isdigit() else None


def page_of_html() -> Response:
    return HTMLResponse("<html><body><h1>Welcome to nginx!</h1></body></html>")


class Rejection(Exception):
    """Answered with `status` and {"detail": …}: text, or on 422 a list of {type, loc, msg}."""

    def __init__(self, status: int, detail: str | list[dict[str, Any]], headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.answer = JSONResponse({"detail": detail}, status, headers)


class Dropped(Exception):
    """The connection is to break without an answer."""


async def refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Rejection)
    return error.answer


async def no_such(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


async def drop(request: Request, _: Exception) -> Response:
    # uvicorn has no way to say this: its `send` is a method of the object that holds the transport.
    transport = getattr(getattr(request.scope["server_send"], "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()
    return Response(status_code=502)  # nobody reads it
