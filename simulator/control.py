"""Calls that only a simulation has, under /_sim: show its state, start runs and schedules. They need no key."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from receiver.domain.members import names
from simulator import bodies, schedules
from simulator.faults import check
from simulator.requests import (
    Handler,
    Rejection,
    base_of,
    json_of,
    key_of,
    validated,
    world_of,
)
from simulator.runs import RUN_TYPES, WORKFLOW


class OutsideRun(BaseModel):
    """The body of POST /_sim/start: a run that was not submitted through the API's documented calls.

    `webhook_url`: what the UI's form, n8n or Zapier sends; None: nothing; the run's agent may have a URL of its own.
    """

    model_config = ConfigDict(extra="forbid")

    workflow_id: str | None = None
    engine: Literal[tuple(RUN_TYPES)] = "skyvern-1.0"  # type: ignore[valid-type]
    prompt: str = "started in the UI"
    title: str | None = None
    parameters: dict[str, Any] = {}
    webhook_url: str | None = None
    trigger: Literal["manual", "scheduled", "webhook"] = "manual"


class ControlledAgent(BaseModel):
    """The body of POST /_sim/agents: an agent with a chosen id."""

    model_config = ConfigDict(extra="forbid")

    workflow_id: str | None = None
    title: str
    webhook_callback_url: str | None = None


class ControlledSchedule(BaseModel):
    """The body of POST /_sim/schedules: a schedule, with any creation time and interval."""

    model_config = ConfigDict(extra="forbid")

    workflow_id: str
    cron: str | None = None
    interval_seconds: int | None = None
    first_fire_at: AwareDatetime | None = None
    run_at: AwareDatetime | None = None
    created_at: AwareDatetime | None = None
    timezone: str = "UTC"
    parameters: dict[str, Any] = {}
    name: str | None = None


async def _echo(request: Request) -> Response:
    """Return the request as it was received, for tests of the proxy; of its key only the number is shown."""
    key = key_of(request)
    headers = {name: value for name, value in request.headers.items() if name != "x-api-key"}
    head = {"method": request.method, "path": request.url.path, "query": request.url.query, "headers": headers}
    number = list(world_of(request).options.api_keys).index(key) if key else None
    return JSONResponse({**head, "body": (await request.body()).decode("utf-8", "replace"), "key": number})


async def _stats(request: Request) -> Response:
    world = world_of(request)
    statuses = Counter(run.status for run in world.runs.values())
    active = sum(not run.final for run in world.runs.values())
    counted = {**world.stats, "runs": len(world.runs), "active": active, "unreported": len(world.unreported())}
    return JSONResponse({**counted, "statuses": statuses})


async def _runs(request: Request) -> Response:
    same = names("status final settled title callback polls webhooks reported trigger retried_from retried_by")
    return JSONResponse(
        [
            {name: getattr(run, name) for name in same}
            | {"run_id": run.id, "run_type": run.type, "faults": sorted(run.faults)}
            for run in world_of(request).runs.values()
        ]
    )


async def _change_faults(request: Request) -> Response:
    """Replace ratios of faults: {"lose": 0.2, "429": 0}."""
    options = world_of(request).options
    try:
        options.change(check(await json_of(request)))
    except (ValueError, TypeError) as error:
        raise Rejection(400, str(error)) from None
    return JSONResponse(options.ratios)


async def _start(request: Request) -> Response:
    """Start a run as Skyvern's UI, n8n, Zapier or Make does."""
    world, asked, base = world_of(request), validated(OutsideRun, await json_of(request)), base_of(request)
    if asked.workflow_id:
        fields = {"workflow_id": asked.workflow_id, "title": asked.title, "parameters": asked.parameters}
        own: dict[str, Any] = {"workflow_id": asked.workflow_id, "trigger": asked.trigger}
        run = world.create(WORKFLOW, fields, None, base, callback=asked.webhook_url, **own)
    else:
        fields = {"prompt": asked.prompt, "title": asked.title}
        key = world.options.api_keys[-1]
        run = world.create(RUN_TYPES[asked.engine], fields, key, base, callback=asked.webhook_url)
    return JSONResponse({"run_id": run.id})


async def _add_agent(request: Request) -> Response:
    world, asked = world_of(request), validated(ControlledAgent, await json_of(request))
    agent = world.add_agent(asked.title, asked.workflow_id, asked.webhook_callback_url)
    return JSONResponse({"workflow_id": agent.id})


async def _add_schedule(request: Request) -> Response:
    world, asked = world_of(request), validated(ControlledSchedule, await json_of(request))
    world.agent(asked.workflow_id)
    cadence = asked.model_dump(exclude={"workflow_id"}, exclude_none=True)
    return JSONResponse(schedules.body(world.add_schedule(asked.workflow_id, cadence)))


async def _stop_schedules(request: Request) -> Response:
    """Stop or resume the automatic firing of schedules: {"stopped": true}."""
    options = world_of(request).options
    options.schedules_stopped = bool((await json_of(request)).get("stopped"))
    return JSONResponse({"stopped": options.schedules_stopped})


async def _fire(request: Request) -> Response:
    """Let a schedule fire now."""
    world = world_of(request)
    schedule = world.schedules.get(request.path_params["schedule_id"])
    if schedule is None:
        raise Rejection(404, f"Schedule {request.path_params['schedule_id']} not found")
    return JSONResponse(bodies.first_answer(world.fire(schedule, base_of(request))))


CONTROL_ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/v1/_sim/echo", _echo),
    ("POST", "/v1/_sim/echo", _echo),
    ("GET", "/_sim/stats", _stats),
    ("GET", "/_sim/runs", _runs),
    ("POST", "/_sim/faults", _change_faults),
    ("POST", "/_sim/start", _start),
    ("POST", "/_sim/agents", _add_agent),
    ("POST", "/_sim/schedules", _add_schedule),
    ("POST", "/_sim/schedules/stop", _stop_schedules),
    ("POST", "/_sim/schedules/{schedule_id}/fire", _fire),
]
