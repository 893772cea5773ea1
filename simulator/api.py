"""The simulated API over HTTP, about runs: Skyvern's paths, answers and errors. The state is in world.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from simulator import agents, bodies
from simulator.account_api import ACCOUNT_ROUTES
from simulator.control import CONTROL_ROUTES
from simulator.faults import Fault, chance
from simulator.options import Options
from simulator.requests import (
    Agent,
    BulkCancel,
    DownloadFiles,
    Dropped,
    Handler,
    LegacyRun,
    LegacyTask,
    ListQuery,
    Login,
    Rejection,
    Task,
    abort_connection,
    apply_faults,
    base_of,
    callback_of,
    called,
    caller_gone,
    http_error,
    json_of,
    key_of,
    max_steps_of,
    rejection,
    run_of,
    validated,
    world_of,
)
from simulator.runs import RUN_TYPES, TASK_V2, WORKFLOW, SimRun
from simulator.world import World, marked

# Maximum runs that a search finds.
MOST_MATCHES = 1000
# Ratio of tasks without an engine that Skyvern runs with another one than its default.
REROUTED = 0.1

_GARBAGE = "<html><body><h1>Welcome to nginx!</h1></body></html>"


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
        exception_handlers={
            HTTPException: http_error,
            Rejection: rejection,
            Dropped: abort_connection,
            ClientDisconnect: caller_gone,
        },
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
        asked = arguments(request, given)
        taken = [each for each in given.get("file_ids") or () if world.files.get(each, "gone")]
        if taken:
            raise Rejection(
                422,
                "These file ids are not available to attach — each must name a file uploaded by this organization"
                f" that is not deleted and not already attached to another run: {', '.join(map(str, taken))}",
            )
        run = world.create(request=given, key=key, base=base_of(request), **asked)
        if Fault.DROP in run.faults:
            world.stats["answers_dropped"] += 1
            raise Dropped
        return _answer(answer(run), faults)

    return handle


def _answer(body: Any, faults: frozenset[Fault]) -> Response:
    return Response(_GARBAGE, media_type="text/html") if Fault.GARBAGE in faults else JSONResponse(body)


# Runs.


async def _get_run(request: Request) -> Response:
    world, _, faults = await called(request, "polls")
    run = run_of(request)
    run.polls += 1
    return _answer(bodies.answer(run, world.storage.link), faults)


async def _get_whole(request: Request) -> Response:
    """Answer one of the calls of Skyvern's own UI about a run: each knows runs of its own kind only."""
    world, _, faults = await called(request, "looks")
    path = request.url.path
    kind = "workflows" if "/workflows/" in path else "v2" if path.startswith("/api/v2/") else "v1"
    run = run_of(request)
    if kind != {WORKFLOW: "workflows", TASK_V2: "v2"}.get(run.type, "v1"):
        raise Rejection(404, f"Task run not found {run.id}")
    body = bodies.whole(run, world.storage.link)
    if path.startswith("/v1/") and run.workflow_id:
        body |= {"workflow": agents.body(world.agent(run.workflow_id))}
    return _answer(body, faults)


async def _list_runs(request: Request) -> Response:
    world, *_ = await called(request, "lists")
    query = request.query_params
    given: dict[str, Any] = {name: query[name] for name in ("page", "page_size", "search_key") if name in query}
    several = ("status", "run_type", "workflow_permanent_id")
    given |= {name: query.getlist(name) for name in several if name in query}
    page = validated(ListQuery, given, "query")
    if (page.search_key or page.workflow_permanent_id) and (page.page - 1) * page.page_size >= MOST_MATCHES:
        raise Rejection(
            400, f"Search pagination is limited to the first {MOST_MATCHES} matches. Use a narrower search."
        )
    matching = world.search(page.status, page.run_type, page.search_key or "", page.workflow_permanent_id)
    if page.search_key or page.workflow_permanent_id:
        matching = matching[:MOST_MATCHES]
    start = (page.page - 1) * page.page_size
    return JSONResponse([bodies.listed(run) for run in matching[start : start + page.page_size]])


async def _cancel_run(request: Request) -> Response:
    world, key, _ = await called(request, "cancels")
    await world.cancel(run_of(request, "Run not found {}"), key)
    return JSONResponse(None)


async def _cancel_runs(request: Request) -> Response:
    world, key, _ = await called(request, "cancels")
    run_ids = dict.fromkeys(validated(BulkCancel, await json_of(request)).run_ids)
    known = [world.runs[run_id] for run_id in run_ids if run_id in world.runs]
    await asyncio.gather(*(world.cancel(run, key) for run in known))
    return JSONResponse(
        {"cancelled": [run.id for run in known], "failed": [each for each in run_ids if each not in world.runs]}
    )


async def _retry_webhook(request: Request) -> Response:
    world, key, _ = await called(request, "webhook_retries")
    given = await json_of(request) if await request.body() else {}
    run = run_of(request, "Run {} not found")
    if run.type == "yutori_navigator":
        raise Rejection(400, f"Run type {run.type} is not supported for webhook replay.")
    if run.faults & {Fault.RETRY, Fault.RETRIES} and run.type == WORKFLOW and not run.final:
        raise Rejection(409, f"Run {run.id} is not final; webhook replay is unavailable until it is final.")
    if not run.final:
        raise Rejection(400, f"Run {run.id} has not reached a terminal state (status={run.status}).")
    url = (given or {}).get("webhook_url") or run.callback
    if not url:
        raise Rejection(400, "No webhook URL configured for the run.")
    return JSONResponse(await world.retry_webhook(run, str(url), key or world.options.api_keys[-1]))


# Artifacts.


async def _list_artifacts(request: Request) -> Response:
    world, *_ = await called(request, "artifact_lists")
    run = world.artifact_owner(request.path_params["run_id"])
    types = request.query_params.getlist("artifact_type")
    return JSONResponse(
        [
            bodies.artifact(stored, run, world.storage.link(stored))
            for stored in sorted(run.artifacts if run else (), key=lambda each: each.created_at)
            if run and (not types or stored.type in types)
        ]
    )


async def _artifact_content(request: Request) -> Response:
    world = world_of(request)
    query, artifact_id = request.query_params, request.path_params["artifact_id"]
    signed = all(name in query for name in ("expiry", "kid", "sig"))
    if not signed:
        key_of(request)
    elif not world.storage.verify(f"/v1/artifacts/{artifact_id}/content", query["expiry"], query["kid"], query["sig"]):
        world.stats["contents_refused"] += 1
        raise Rejection(403, "Invalid or expired artifact URL")
    stored = world.storage.get(artifact_id)
    if stored is None:
        raise Rejection(404, f"Artifact not found {artifact_id}")
    world.stats["contents"] += 1
    disposition = f'attachment; filename="{stored.name}"' if stored.name else "inline"
    headers = {"Content-Disposition": disposition, "X-Content-Type-Options": "nosniff"}
    return Response(stored.content, media_type=stored.content_type, headers=headers)


async def _heartbeat(_: Request) -> Response:
    return PlainTextResponse("Server is running.")


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
    ("GET", "/v1/workflows/runs/{run_id}", _get_whole),
    ("GET", "/api/v1/workflows/runs/{run_id}", _get_whole),
    ("GET", "/api/v1/workflows/{workflow_id}/runs/{run_id}", _get_whole),
    ("GET", "/api/v1/tasks/{run_id}", _get_whole),
    ("GET", "/api/v2/tasks/{run_id}", _get_whole),
    ("GET", "/api/v1/heartbeat", _heartbeat),
    *ACCOUNT_ROUTES,
    *CONTROL_ROUTES,
]
