"""The simulated API over HTTP: agents, schedules, uploads, the Test button."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from simulator import agents, schedules
from simulator.agents import SimAgent
from simulator.requests import (
    AgentDefinition,
    Handler,
    PressedTest,
    Rejection,
    called,
    json_of,
    validated,
)
from simulator.runs import now
from simulator.world import World


async def _called(request: Request) -> World:
    world, *_ = await called(request, "account_calls")
    return world


def _number(request: Request, name: str, default: int, most: int | None = None) -> int:
    given = request.query_params.get(name, str(default))
    if not given.isdigit() or int(given) < 1 or (most is not None and int(given) > most):
        problem = {"type": "int_parsing", "loc": ["query", name], "msg": "Input should be a valid page", "input": given}
        raise Rejection(422, [problem])
    return int(given)


# Agents.


def _agent(request: Request, world: World) -> SimAgent:
    workflow_id = request.path_params["workflow_id"]
    agent = world.agents.get(workflow_id)
    if agent is None:
        raise Rejection(404, f"Workflow not found. [workflow_permanent_id={workflow_id}]")
    return agent


async def _list_agents(request: Request) -> Response:
    world = await _called(request)
    page, size = _number(request, "page", 1), _number(request, "page_size", 10)
    sought = request.query_params.get("search_key", "").lower()
    matching = [each for each in reversed(world.agents.values()) if sought in each.title.lower()]
    return JSONResponse([agents.body(each) for each in matching[(page - 1) * size : page * size]])


async def _get_agent(request: Request) -> Response:
    world = await _called(request)
    return JSONResponse(agents.body(_agent(request, world)) | {"effective_default_engine": None})


async def _create_agent(request: Request) -> Response:
    world = await _called(request)
    given, definition = await _definition(request)
    agent = world.add_agent(definition.title)
    agent.update(given, now())
    agent.version = 1
    return JSONResponse(agents.body(agent))


async def _update_agent(request: Request) -> Response:
    world = await _called(request)
    agent = _agent(request, world)
    expected = request.query_params.get("expected_version")
    given, _ = await _definition(request)
    if expected is not None and expected != str(agent.version):
        raise Rejection(409, f"Concurrent update detected for workflow {agent.id}")
    agent.update(given, now())
    return JSONResponse(agents.body(agent))


async def _definition(request: Request) -> tuple[dict[str, Any], AgentDefinition]:
    """Return the definition in the request. Raises Rejection (422) if it is missing or has the form of an answer."""
    given = await json_of(request)
    if request.method == "POST":
        given = given.get("json_definition") or {}
        if not given:
            raise Rejection(
                422, "Invalid workflow definition. Workflow should be provided in either yaml or json format."
            )
    definition = validated(AgentDefinition, given)
    answered = [each for each in definition.workflow_definition.get("blocks") or () if "output_parameter" in each]
    if answered:
        problem = {"type": "extra_forbidden", "loc": ["body", "blocks", "output_parameter"], "msg": "Not permitted"}
        raise Rejection(422, [problem])
    return given, definition


# Schedules are made by /_sim/schedules (control.py).


async def _list_schedules(request: Request) -> Response:
    """Answer GET /v1/schedules: those of all agents, newest first."""
    world = await _called(request)
    page, size = _number(request, "page", 1), _number(request, "page_size", 10, 100)
    status, sought = request.query_params.get("status"), request.query_params.get("search", "").lower()
    matching = [
        (each, world.agent(each.workflow_id).title)
        for each in reversed(world.schedules.values())
        if status is None or each.enabled == (status == "active")
    ]
    matching = [(each, title) for each, title in matching if sought in f"{title}\n{each.name or ''}".lower()]
    moment = datetime.now(UTC)
    shown = [schedules.listed(each, title, moment) for each, title in matching[(page - 1) * size : page * size]]
    return JSONResponse({"schedules": shown, "total_count": len(matching), "page": page, "page_size": size})


# Uploads and the Test button.


async def _upload(request: Request) -> Response:
    """Take in a file, whatever is in it: only its id matters here."""
    world = await _called(request)
    await request.body()
    file_id = world.upload()
    uri = f"s3://simulated-bucket/uploads/{file_id}"
    return JSONResponse({"s3_uri": uri, "presigned_url": f"{uri}?signed", "file_id": file_id, "expires_at": None})


async def _press_test(request: Request) -> Response:
    world = await _called(request)
    asked = validated(PressedTest, await json_of(request))
    return JSONResponse(await world.press_test_button(asked.run_type, asked.webhook_url, asked.run_id))


def _both(method: str, path: str, handler: Handler) -> list[tuple[str, str, Handler]]:
    """Return a route under both names that an agent has: agents and workflows."""
    return [(method, f"/v1/{name}{path}", handler) for name in ("agents", "workflows")]


ACCOUNT_ROUTES: list[tuple[str, str, Handler]] = [
    *_both("GET", "", _list_agents),
    *_both("POST", "", _create_agent),
    *_both("GET", "/{workflow_id}", _get_agent),
    *_both("POST", "/{workflow_id}", _update_agent),
    ("GET", "/api/v1/workflows", _list_agents),  # n8n's node asks here
    ("GET", "/api/v1/workflows/{workflow_id}", _get_agent),
    ("PUT", "/api/v1/workflows/{workflow_id}", _update_agent),
    ("GET", "/v1/schedules", _list_schedules),
    ("POST", "/v1/upload_file", _upload),
    ("POST", "/v1/internal/test-webhook", _press_test),
]
