"""The simulated API over HTTP, about what an account has besides runs: agents, schedules, uploads, the Test button."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from simulator import agents, schedules
from simulator.agents import SimAgent
from simulator.requests import (
    AgentDefinition,
    Handler,
    PressedTest,
    Rejection,
    ScheduleRequest,
    apply_faults,
    json_of,
    key_of,
    validated,
    world_of,
)
from simulator.runs import now
from simulator.schedules import SimSchedule, cron_runs
from simulator.world import World


async def _called(request: Request) -> World:
    """Return the World, once the key is checked and the faults of this call have had their way."""
    world, _ = world_of(request), key_of(request)
    world.stats["account_calls"] += 1
    await apply_faults(world)
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
    found = [each for each in reversed(world.agents.values()) if sought in each.title.lower()]
    return JSONResponse([agents.body(each) for each in found[(page - 1) * size : page * size]])


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
    """Return the definition in the request. Raises Rejection (422) for none, and for one in the form of an answer."""
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


# Schedules. A simulation knows no limit of their number.


def _schedule(request: Request, world: World) -> SimSchedule:
    agent, schedule_id = _agent(request, world), request.path_params["schedule_id"]
    schedule = world.schedules.get(schedule_id)
    if schedule is None or schedule.workflow_id != agent.id:
        raise Rejection(404, f"Schedule {schedule_id} not found")
    return schedule


async def _list_schedules(request: Request) -> Response:
    """Answer GET /v1/schedules: those of all agents, newest first."""
    world = await _called(request)
    page, size = _number(request, "page", 1), _number(request, "page_size", 10, 100)
    status, sought = request.query_params.get("status"), request.query_params.get("search", "").lower()
    found = [
        (each, world.agent(each.workflow_id).title)
        for each in reversed(world.schedules.values())
        if status is None or each.enabled == (status == "active")
    ]
    found = [(each, title) for each, title in found if sought in f"{title}\n{each.name or ''}".lower()]
    moment = datetime.now(UTC)
    shown = [schedules.listed(each, title, moment) for each, title in found[(page - 1) * size : page * size]]
    return JSONResponse({"schedules": shown, "total_count": len(found), "page": page, "page_size": size})


async def _agent_schedules(request: Request) -> Response:
    world = await _called(request)
    agent = _agent(request, world)
    own = [schedules.body(each) for each in world.schedules.values() if each.workflow_id == agent.id]
    return JSONResponse({"schedules": own})


async def _create_schedule(request: Request) -> Response:
    world = await _called(request)
    agent = _agent(request, world)
    fields = _cadence(validated(ScheduleRequest, await json_of(request)))
    return _shown(world.add_schedule(agent.id, fields))


async def _get_schedule(request: Request) -> Response:
    return _shown(_schedule(request, await _called(request)))


async def _update_schedule(request: Request) -> Response:
    schedule = _schedule(request, await _called(request))
    if schedule.run_at is not None and schedule.dispatch_status != "pending":
        raise Rejection(409, f"Schedule {schedule.id} already fired or was canceled, so it can no longer change")
    for name, value in _cadence(validated(ScheduleRequest, await json_of(request))).items():
        setattr(schedule, name, value)
    schedule.modified_at = datetime.now(UTC)
    return _shown(schedule)


async def _enable(request: Request) -> Response:
    schedule = _schedule(request, await _called(request))
    if schedule.run_at is not None:
        raise Rejection(422, "A one-time schedule cannot be paused or resumed; cancel it, or update run_at to move it")
    schedule.enabled = request.url.path.rstrip("/").endswith("/enable")
    schedule.fired = datetime.now(UTC)  # what it missed while it was paused it does not make up for
    return _shown(schedule)


async def _delete_schedule(request: Request) -> Response:
    world = await _called(request)
    del world.schedules[_schedule(request, world).id]
    return JSONResponse({"ok": True})


def _shown(schedule: SimSchedule) -> Response:
    return JSONResponse(schedules.with_next_runs(schedule, datetime.now(UTC)))


def _cadence(asked: ScheduleRequest) -> dict[str, Any]:
    """Return the fields of a SimSchedule. Raises Rejection (400) for an invalid cron expression or time zone."""
    try:
        ZoneInfo(asked.timezone)
        if asked.cron_expression is not None:
            cron_runs(asked.cron_expression, asked.timezone, datetime.now(UTC), 1)
    except (ValueError, LookupError) as error:
        raise Rejection(400, str(error)) from None
    fields = asked.model_dump(exclude={"cron_expression", "enabled", "parameters"})
    if asked.interval_seconds is not None and asked.first_fire_at is None:
        fields["first_fire_at"] = datetime.fromtimestamp(datetime.now(UTC).timestamp() + asked.interval_seconds, UTC)
    return {
        **fields,
        "cron": asked.cron_expression,
        "enabled": asked.enabled is not False,
        "parameters": {name: value for name, value in (asked.parameters or {}).items() if value is not None},
    }


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


_ONE = "/{workflow_id}/schedules/{schedule_id}"

ACCOUNT_ROUTES: list[tuple[str, str, Handler]] = [
    *_both("GET", "", _list_agents),
    *_both("POST", "", _create_agent),
    *_both("GET", "/{workflow_id}", _get_agent),
    *_both("POST", "/{workflow_id}", _update_agent),
    ("GET", "/api/v1/workflows", _list_agents),  # n8n's node asks here
    ("GET", "/api/v1/workflows/{workflow_id}", _get_agent),
    ("PUT", "/api/v1/workflows/{workflow_id}", _update_agent),
    ("GET", "/v1/schedules", _list_schedules),
    *_both("GET", "/{workflow_id}/schedules", _agent_schedules),
    *_both("POST", "/{workflow_id}/schedules", _create_schedule),
    *_both("GET", _ONE, _get_schedule),
    *_both("PUT", _ONE, _update_schedule),
    *_both("DELETE", _ONE, _delete_schedule),
    *_both("POST", _ONE + "/enable", _enable),
    *_both("POST", _ONE + "/disable", _enable),
    ("POST", "/v1/upload_file", _upload),
    ("POST", "/v1/internal/test-webhook", _press_test),
]
