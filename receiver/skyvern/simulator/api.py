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
    abort_connection,
    apply_faults,
    callback_of,
    http_error,
    json_of,
    key_of,
    max_steps_of,
    rejection,
    run_of,
    validated,
    world_of,
)
from receiver.skyvern.simulator.runs import RUN_TYPES, WORKFLOW, SimRun
from receiver.skyvern.simulator.world import World, marked

# Ratio of tasks without an engine that Skyvern runs with another one than its default.
REROUTED = 0.1

_GARBAGE = "<html><body><h1>Welcome to nginx!</h1></body></html>"

Handler = Callable[[Request], Awaitable[Response]]


def create_app(options: Options | None = None) -> Starlette:
    """Return the simulation as an ASGI app. Its World is `app.state.world` once it has started."""
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
        exception_handlers={HTTPException: http_error, Rejection: rejection, Dropped: abort_connection},
    )
    app.router.redirect_slashes = False
    return app


class _Simulation(Starlette):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["server_send"] = send
        await super().__call__(scope, receive, send)


# Submits. One function an endpoint returns the arguments of World.create that the request stands for.


def _task(request: Request, given: dict[str, Any]) -> dict[str, Any]:
    task, world = validated(Task, given), world_of(request)
    run_type = RUN_TYPES[task.engine]
    if "engine" not in given and chance(world.options.seed, "reroute", len(world.runs) + 1) < REROUTED:
        run_type = "task_v3"
    return {"run_type": run_type, "callback": callback_of(task.webhook_url), "max_steps": task.max_steps}


def _legacy_task(request: Request, given: dict[str, Any]) -> dict[str, Any]:
    callback = callback_of(validated(LegacyTask, given).webhook_callback_url)
    return {"run_type": "task_v1", "callback": callback, "max_steps": max_steps_of(request)}


def _agent(request: Request, given: dict[str, Any]) -> dict[str, Any]:
    agent = validated(Agent, given)
    workflow_id = agent.agent_id or agent.workflow_id
    if not workflow_id:
        raise Rejection(
            422, [{"type": "missing", "loc": ["body", "agent_id"], "msg": "Field required", "input": given}]
        )
    if workflow_id == "wpid_unknown":
        raise Rejection(404, f"Workflow not found. [workflow_permanent_id={workflow_id}]")
    return _workflow(workflow_id, agent.webhook_url) | {"max_steps": max_steps_of(request)}


def _login(_: Request, given: dict[str, Any]) -> dict[str, Any]:
    return _workflow("wpid_login", validated(Login, given).webhook_url)


def _download_files(_: Request, given: dict[str, Any]) -> dict[str, Any]:
    return _workflow("wpid_download", validated(DownloadFiles, given).webhook_url)


def _legacy_workflow(request: Request, given: dict[str, Any]) -> dict[str, Any]:
    callback = validated(LegacyRun, given).webhook_callback_url
    return _workflow(str(request.path_params["workflow_id"]), callback) | {"max_steps": max_steps_of(request)}


def _workflow(workflow_id: str, callback: str | None) -> dict[str, Any]:
    return {"run_type": WORKFLOW, "callback": callback_of(callback), "workflow_id": workflow_id}


def _submit(
    arguments: Callable[[Request, dict[str, Any]], dict[str, Any]],
    answer: Callable[[SimRun], dict[str, Any]] = bodies.first_answer,
) -> Handler:
    """Return the handler of an endpoint that creates runs."""

    async def handle(request: Request) -> Response:
        world, key = world_of(request), key_of(request)
        given = await json_of(request)
        faults = await apply_faults(world, marked(given))
        base = str(request.base_url).rstrip("/")
        run = world.create(request=given, key=key, base=base, **arguments(request, given))
        if Fault.DROP in run.faults:
            world.stats["answers_dropped"] += 1
            raise Dropped
        return _answer(answer(run), faults)

    return handle


def _answer(body: Any, faults: frozenset[Fault]) -> Response:
    return Response(_GARBAGE, media_type="text/html") if Fault.GARBAGE in faults else JSONResponse(body)


# Runs.


async def _get_run(request: Request) -> Response:
    world, _ = world_of(request), key_of(request)
    world.stats["polls"] += 1
    faults = await apply_faults(world)
    run = run_of(request)
    run.polls += 1
    return _answer(bodies.answer(run, world.link, attempts=world.options.shows_attempts), faults)


async def _list_runs(request: Request) -> Response:
    world, _ = world_of(request), key_of(request)
    world.stats["lists"] += 1
    await apply_faults(world)
    query = request.query_params
    given: dict[str, Any] = {name: query[name] for name in ("page", "page_size", "search_key") if name in query}
    given |= {name: query.getlist(name) for name in ("status", "run_type") if name in query}
    page = validated(Page, given, "query")
    found = world.search(page.status, page.run_type, page.search_key or "")
    start = (page.page - 1) * page.page_size
    return JSONResponse([bodies.listed(run) for run in found[start : start + page.page_size]])


async def _cancel_run(request: Request) -> Response:
    world, key = world_of(request), key_of(request)
    world.stats["cancels"] += 1
    await apply_faults(world)
    await world.cancel(run_of(request, "Run not found {}"), key)
    return JSONResponse(None)


async def _cancel_runs(request: Request) -> Response:
    world, key = world_of(request), key_of(request)
    world.stats["cancels"] += 1
    await apply_faults(world)
    run_ids = dict.fromkeys(validated(BulkCancel, await json_of(request)).run_ids)
    known = [world.runs[run_id] for run_id in run_ids if run_id in world.runs]
    await asyncio.gather(*(world.cancel(run, key) for run in known))
    return JSONResponse(
        {"cancelled": [run.id for run in known], "failed": [each for each in run_ids if each not in world.runs]}
    )


async def _retry_webhook(request: Request) -> Response:
    world, key = world_of(request), key_of(request)
    world.stats["webhook_retries"] += 1
    await apply_faults(world)
    given = await json_of(request) if await request.body() else {}
    run = run_of(request, "Run {} not found")
    if not run.final:
        raise Rejection(400, f"Run {run.id} has not reached a terminal state (status={run.status}).")
    url = (given or {}).get("webhook_url") or run.callback
    if not url:
        raise Rejection(400, "No webhook URL configured for the run.")
    return JSONResponse(await world.retry_webhook(run, str(url), key or world.options.api_keys[-1]))


# Artifacts.


async def _list_artifacts(request: Request) -> Response:
    world, _ = world_of(request), key_of(request)
    world.stats["artifact_lists"] += 1
    await apply_faults(world)
    run = world.runs.get(request.path_params["run_id"])
    wanted = request.query_params.getlist("artifact_type")
    return JSONResponse(
        [
            bodies.artifact(stored, run, world.link(stored))
            for stored in (run.artifacts if run else ())
            if run and (not wanted or stored.type in wanted)
        ]
    )


async def _artifact_content(request: Request) -> Response:
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


async def _heartbeat(_: Request) -> Response:
    return PlainTextResponse("Server is running.")


async def _list_workflows(request: Request) -> Response:
    key_of(request)
    workflow = {"workflow_id": "w_1", "workflow_permanent_id": "wpid_1", "title": "Download invoices", "version": 1}
    return JSONResponse([workflow])


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
                "reported": run.reported,
            }
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


ROUTES: list[tuple[str, str, Handler]] = [
    ("POST", "/v1/run/tasks", _submit(_task)),
    ("POST", "/v1/run/agents", _submit(_agent)),
    ("POST", "/v1/run/workflows", _submit(_agent)),
    ("POST", "/v1/run/tasks/login", _submit(_login)),
    ("POST", "/v1/run/tasks/download_files", _submit(_download_files)),
    ("POST", "/api/v1/tasks", _submit(_legacy_task, lambda run: {"task_id": run.id})),
    (
        "POST",
        "/api/v1/workflows/{workflow_id}/run",
        _submit(_legacy_workflow, lambda run: {"workflow_id": run.workflow_id, "workflow_run_id": run.id}),
    ),
    ("GET", "/v1/runs", _list_runs),
    ("POST", "/v1/runs/cancel", _cancel_runs),
    ("GET", "/v1/runs/{run_id}", _get_run),
    ("POST", "/v1/runs/{run_id}/cancel", _cancel_run),
    ("POST", "/v1/runs/{run_id}/retry_webhook", _retry_webhook),
    ("GET", "/v1/runs/{run_id}/artifacts", _list_artifacts),
    ("GET", "/v1/artifacts/{artifact_id}/content", _artifact_content),
    ("GET", "/v1/agents", _list_workflows),
    ("GET", "/v1/workflows", _list_workflows),
    ("GET", "/api/v1/heartbeat", _heartbeat),
    ("GET", "/v1/_sim/echo", _echo),
    ("POST", "/v1/_sim/echo", _echo),
    ("GET", "/_sim/stats", _stats),
    ("GET", "/_sim/runs", _runs),
    ("POST", "/_sim/faults", _change_faults),
]
