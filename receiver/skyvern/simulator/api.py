"""The simulated API over HTTP: Skyvern's paths, answers and errors. What happens behind it is in world.py."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from receiver.skyvern.simulator import bodies
from receiver.skyvern.simulator.artifacts import byte_range
from receiver.skyvern.simulator.faults import Fault, chance, check
from receiver.skyvern.simulator.options import Options
from receiver.skyvern.simulator.requests import (
    Agent,
    BulkCancel,
    DownloadFiles,
    Dropped,
    LegacyRun,
    LegacyTask,
    Login,
    Page,
    Rejection,
    Task,
    base_of,
    callback_of,
    checked,
    drop,
    json_of,
    key_of,
    max_steps_of,
    misbehave,
    no_such,
    page_of_html,
    refused,
    run_of,
    world_of,
)
from receiver.skyvern.simulator.runs import RUN_TYPES, WORKFLOW, SimRun
from receiver.skyvern.simulator.world import World, marked

REROUTED = 0.1
"""Ratio of tasks without an engine that Skyvern runs with another one than its default."""

Handler = Callable[[Request], Awaitable[Response]]


def create_app(options: Options | None = None) -> Starlette:
    """The simulation as an ASGI app. Its World is `app.state.world` once it has started."""
    chosen = options or Options()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.world = World(chosen)
        try:
            yield
        finally:
            await app.state.world.aclose()

    app = _Simulation(
        routes=[
            Route(path + slash, handler, methods=[method]) for method, path, handler in ROUTES for slash in ("", "/")
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: no_such, Rejection: refused, Dropped: drop},
    )
    app.router.redirect_slashes = False
    return app


class _Simulation(Starlette):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["server_send"] = send
        await super().__call__(scope, receive, send)


# Submits.


async def run_task(request: Request) -> Response:
    async def create(world: World, given: dict[str, Any], key: str | None) -> SimRun:
        task = checked(Task, given)
        run_type = RUN_TYPES[task.engine]
        if "engine" not in given and chance(world.options.seed, "reroute", len(world.runs) + 1) < REROUTED:
            run_type = "task_v3"
        return world.create(
            run_type, given, key, base_of(request), callback=callback_of(task.webhook_url), max_steps=task.max_steps
        )

    return await _submit(request, create, bodies.first_answer)


async def run_legacy_task(request: Request) -> Response:
    async def create(world: World, given: dict[str, Any], key: str | None) -> SimRun:
        task = checked(LegacyTask, given)
        callback = callback_of(task.webhook_callback_url)
        return world.create("task_v1", given, key, base_of(request), callback=callback, max_steps=max_steps_of(request))

    return await _submit(request, create, lambda run: {"task_id": run.id})


async def run_agent(request: Request) -> Response:
    async def create(world: World, given: dict[str, Any], key: str | None) -> SimRun:
        agent = checked(Agent, given)
        workflow_id = agent.agent_id or agent.workflow_id
        if not workflow_id:
            missing = {"type": "missing", "loc": ["body", "agent_id"], "msg": "Field required", "input": given}
            raise Rejection(422, [missing])
        if workflow_id == "wpid_unknown":
            raise Rejection(404, f"Workflow not found. [workflow_permanent_id={workflow_id}]")
        return world.create(
            WORKFLOW,
            given,
            key,
            base_of(request),
            callback=callback_of(agent.webhook_url),
            workflow_id=workflow_id,
            max_steps=max_steps_of(request),
        )

    return await _submit(request, create, bodies.first_answer)


async def login(request: Request) -> Response:
    return await _run_made(request, Login)


async def download_files(request: Request) -> Response:
    return await _run_made(request, DownloadFiles)


async def _run_made(request: Request, kind: type[Login | DownloadFiles]) -> Response:
    """Skyvern makes a workflow of one block for these, and runs it."""

    async def create(world: World, given: dict[str, Any], key: str | None) -> SimRun:
        callback, made = callback_of(checked(kind, given).webhook_url), f"wpid_{kind.__name__.lower()}"
        return world.create(WORKFLOW, given, key, base_of(request), callback=callback, workflow_id=made)

    return await _submit(request, create, bodies.first_answer)


async def run_legacy_workflow(request: Request) -> Response:
    workflow_id = str(request.path_params["workflow_id"])

    async def create(world: World, given: dict[str, Any], key: str | None) -> SimRun:
        callback = callback_of(checked(LegacyRun, given).webhook_callback_url)
        steps = max_steps_of(request)
        return world.create(
            WORKFLOW, given, key, base_of(request), callback=callback, workflow_id=workflow_id, max_steps=steps
        )

    return await _submit(request, create, lambda run: {"workflow_id": workflow_id, "workflow_run_id": run.id})


async def _submit(
    request: Request,
    create: Callable[[World, dict[str, Any], str | None], Awaitable[SimRun]],
    answer: Callable[[SimRun], dict[str, Any]],
) -> Response:
    world, key = world_of(request), key_of(request)
    given = await json_of(request)
    faults = await misbehave(world, marked(given))
    run = await create(world, given, key)
    if Fault.DROP in run.faults:
        world.stats["answers_dropped"] += 1
        raise Dropped
    return page_of_html() if Fault.GARBAGE in faults else JSONResponse(answer(run))


# Runs.


async def get_run(request: Request) -> Response:
    world, _ = world_of(request), key_of(request)
    world.stats["polls"] += 1
    garbage = Fault.GARBAGE in await misbehave(world)
    run = run_of(request)
    run.polls += 1
    return (
        page_of_html()
        if garbage
        else JSONResponse(bodies.answer(run, world.link, attempts=world.options.tells_attempts))
    )


async def list_runs(request: Request) -> Response:
    world, _ = world_of(request), key_of(request)
    world.stats["lists"] += 1
    await misbehave(world)
    query = request.query_params
    given: dict[str, Any] = {name: query[name] for name in ("page", "page_size", "search_key") if name in query}
    given |= {name: query.getlist(name) for name in ("status", "run_type") if name in query}
    asked = checked(Page, given, "query")
    found = world.search(asked.status, asked.run_type, asked.search_key or "")
    start = (asked.page - 1) * asked.page_size
    return JSONResponse([bodies.listed(run) for run in found[start : start + asked.page_size]])


async def cancel_run(request: Request) -> Response:
    world, key = world_of(request), key_of(request)
    world.stats["cancels"] += 1
    await misbehave(world)
    await world.cancel(run_of(request, "Run not found {}"), key)
    return JSONResponse(None)


async def cancel_runs(request: Request) -> Response:
    world, key = world_of(request), key_of(request)
    world.stats["cancels"] += 1
    await misbehave(world)
    run_ids = dict.fromkeys(checked(BulkCancel, await json_of(request)).run_ids)
    known = [world.runs[run_id] for run_id in run_ids if run_id in world.runs]
    await asyncio.gather(*(world.cancel(run, key) for run in known))
    return JSONResponse(
        {"cancelled": [run.id for run in known], "failed": [each for each in run_ids if each not in world.runs]}
    )


async def retry_webhook(request: Request) -> Response:
    world, key = world_of(request), key_of(request)
    world.stats["webhook_retries"] += 1
    await misbehave(world)
    given = await json_of(request) if await request.body() else {}
    run = run_of(request, "Run {} not found")
    if not run.final:
        raise Rejection(400, f"Run {run.id} has not reached a terminal state (status={run.status}).")
    url = (given or {}).get("webhook_url") or run.callback
    if not url:
        raise Rejection(400, "No webhook URL configured for the run.")
    return JSONResponse(await world.retry_webhook(run, str(url), key or world.options.api_keys[-1]))


# Artifacts.


async def list_artifacts(request: Request) -> Response:
    world, _ = world_of(request), key_of(request)
    world.stats["artifact_lists"] += 1
    await misbehave(world)
    run = world.runs.get(request.path_params["run_id"])
    wanted = request.query_params.getlist("artifact_type")
    return JSONResponse(
        [
            bodies.artifact(stored, run, world.link(stored))
            for stored in (run.artifacts if run else ())
            if run and (not wanted or stored.type in wanted)
        ]
    )


async def artifact_content(request: Request) -> Response:
    world = world_of(request)
    query, artifact_id = request.query_params, request.path_params["artifact_id"]
    signed = all(name in query for name in ("expiry", "kid", "sig"))
    if not signed:
        key_of(request)
    elif not world.verify(f"/v1/artifacts/{artifact_id}/content", query["expiry"], query["kid"], query["sig"]):
        world.stats["contents_refused"] += 1
        raise Rejection(403, "Invalid or expired artifact URL")
    stored = world.artifacts.get(artifact_id)
    if stored is None:
        raise Rejection(404, f"Artifact not found {artifact_id}")
    world.stats["contents"] += 1
    disposition = f'attachment; filename="{stored.name}"' if stored.name else "inline"
    headers = {"Content-Disposition": disposition, "Accept-Ranges": "bytes", "X-Content-Type-Options": "nosniff"}
    length = len(stored.content)
    part = byte_range(request.headers.get("range"), length)
    if part == "unsatisfiable":
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{length}"})
    if part is None:
        return Response(stored.content, media_type=stored.content_type, headers=headers)
    headers["Content-Range"] = f"bytes {part[0]}-{part[1]}/{length}"
    return Response(stored.content[part[0] : part[1] + 1], 206, headers, stored.content_type)


# The rest, and what only a simulation has.


async def heartbeat(_: Request) -> Response:
    return PlainTextResponse("Server is running.")


async def list_workflows(request: Request) -> Response:
    key_of(request)
    workflow = {"workflow_id": "w_1", "workflow_permanent_id": "wpid_1", "title": "Download invoices", "version": 1}
    return JSONResponse([workflow])


async def echo(request: Request) -> Response:
    """What arrived, for tests of a pass-through; whose key it came with is told, the key is not."""
    key = key_of(request)
    headers = {name: value for name, value in request.headers.items() if name != "x-api-key"}
    said = {"method": request.method, "path": request.url.path, "query": request.url.query, "headers": headers}
    number = list(world_of(request).options.api_keys).index(key) if key else None
    return JSONResponse({**said, "body": (await request.body()).decode("utf-8", "replace"), "key": number})


async def stats(request: Request) -> Response:
    world = world_of(request)
    statuses = Counter(run.status for run in world.runs.values())
    going = sum(not run.final for run in world.runs.values())
    counted = {**world.stats, "runs": len(world.runs), "going": going, "unheard": len(world.unheard())}
    return JSONResponse({**counted, "statuses": statuses})


async def sim_runs(request: Request) -> Response:
    return JSONResponse(
        [
            {
                "run_id": run.id,
                "run_type": run.type,
                "status": run.status,
                "final": run.final,
                "title": run.title,
                "callback": run.callback,
                "faults": sorted(run.faults),
                "polls": run.polls,
                "webhooks": run.webhooks,
                "told": run.told,
            }
            for run in world_of(request).runs.values()
        ]
    )


async def change_faults(request: Request) -> Response:
    """Other ratios from now on: {"lose": 0.2, "429": 0}."""
    options = world_of(request).options
    try:
        options.change(check(await json_of(request)))
    except (ValueError, TypeError) as error:
        raise Rejection(400, str(error)) from None
    return JSONResponse(options.ratios)


ROUTES: list[tuple[str, str, Handler]] = [
    ("POST", "/v1/run/tasks", run_task),
    ("POST", "/v1/run/agents", run_agent),
    ("POST", "/v1/run/workflows", run_agent),
    ("POST", "/v1/run/tasks/login", login),
    ("POST", "/v1/run/tasks/download_files", download_files),
    ("POST", "/api/v1/tasks", run_legacy_task),
    ("POST", "/api/v1/workflows/{workflow_id}/run", run_legacy_workflow),
    ("GET", "/v1/runs", list_runs),
    ("POST", "/v1/runs/cancel", cancel_runs),
    ("GET", "/v1/runs/{run_id}", get_run),
    ("POST", "/v1/runs/{run_id}/cancel", cancel_run),
    ("POST", "/v1/runs/{run_id}/retry_webhook", retry_webhook),
    ("GET", "/v1/runs/{run_id}/artifacts", list_artifacts),
    ("GET", "/v1/artifacts/{artifact_id}/content", artifact_content),
    ("GET", "/v1/agents", list_workflows),
    ("GET", "/v1/workflows", list_workflows),
    ("GET", "/api/v1/heartbeat", heartbeat),
    ("GET", "/v1/_sim/echo", echo),
    ("POST", "/v1/_sim/echo", echo),
    ("GET", "/_sim/stats", stats),
    ("GET", "/_sim/runs", sim_runs),
    ("POST", "/_sim/faults", change_faults),
]
