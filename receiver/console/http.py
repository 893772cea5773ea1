"""The console over HTTP: pages, actions, files. Off unless a person may sign in."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.api.artifact_content import GET_CONTENT
from receiver.api.artifact_stream import ArtifactStreams
from receiver.api.call_pool import CallPool
from receiver.api.events import GET_EVENT_BODY
from receiver.api.service import Service
from receiver.console.action import ConsoleAction, Done, Question, perform
from receiver.console.catalogue import ACTIONS, PAGES
from receiver.console.forms import NOTICE, Notice, form_of, notice_of, set_notice
from receiver.console.page import PATH, ConsolePage, FileLinks, PageRequest, filled
from receiver.console.pages.deliveries import waits_of
from receiver.console.passwords import ADMIN, Person, people_of
from receiver.console.rendering import Renderer, download, page, see_other, static_file
from receiver.console.sign_in import (
    PER_NETWORK,
    SignedIn,
    SignIn,
    check_form_token,
    check_same_origin,
    forget_cookie,
    local_path,
)
from receiver.console.sign_in_pages import SignInPages
from receiver.console.wording import place_of
from receiver.errors import Busy, ConfigError, Invalid, NotFound, RequestError
from receiver.ledger import Ledger, LedgerDataError, LedgerUnavailable, OutcomeUnknown
from receiver.ledger.database.async_ledger import AsyncLedger, limit_waits
from receiver.runtime.throttle import TokenBucket
from receiver.web.component import Context, WebComponent
from receiver.web.responses import address_of

if TYPE_CHECKING:
    from receiver.config.console import OidcConfig
    from receiver.console.oidc import Oidc

_TITLES: Final = {422: "Not valid", 503: "Unavailable"}  # of errors with a technical HTTP name

# Where the page of an id is, by what it begins with; others are ids of runs.
_PLACES: Final = {"evt": "events", "dlv": "deliveries", "sub": "submissions", "op": "operations"}

log = logging.getLogger("runhook.console")

# Fields of a form that are not part of the call.
_OWN_FIELDS: Final = frozenset({"form_token", "back", "sure", "selected"})

# Header of a page that refreshes automatically: a notice is for the page that a person opens.
REFRESH: Final = "x-runhook-refresh"

Handler = Callable[[Request], Awaitable[Response]]


def console(context: Context, *, per_network: tuple[float, float] = PER_NETWORK) -> WebComponent:
    """Return the component that serves /console, without routes if it is off.

    `per_network`: sign-in attempts per second, and at once.
    """
    settings, config = context.settings, context.config.console
    people = people_of(
        config, settings.console_password, settings.console_token, lambda: settings.master_secret(make=True)
    )
    oidc = None
    if config.oidc is not None:
        people, oidc = _issuer(config.oidc, people, settings.master_secret(make=True))
    if not people and oidc is None:
        return WebComponent()
    sign_in = SignIn(
        AsyncLedger(_ledger(context), context.ledger_wait),
        people,
        config.session,
        settings.console_token,
        per_network=per_network,
    )
    server = _Console(context, people, sign_in, oidc)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        await server.close()

    routes = [
        Route(PATH, server.front, methods=["GET"]),
        *(
            Route(path, server.with_problem_page(each), methods=[method])
            for method, path, each in server.signing_in.routes()
        ),
        Route(f"{PATH}/find", server.find, methods=["GET"]),
        Route(f"{PATH}/static/{{name}}", server.static, methods=["GET"]),
        *(
            Route(f"{PATH}/do/{each.name}", server.with_problem_page(server.action_handler(each)), methods=["POST"])
            for each in ACTIONS
        ),
        Route(f"{PATH}/files/{{name}}", server.with_problem_page(server.file), methods=["GET"]),
        Route(f"{PATH}/events/{{event_id}}/body", server.with_problem_page(server.body), methods=["GET"]),
        *(
            Route(PATH + each.path, server.with_problem_page(server.page_handler(each)), methods=["GET"])
            for each in PAGES
        ),
        Route(f"{PATH}/{{rest:path}}", server.with_problem_page(server.not_found), methods=["GET", "POST"]),
    ]
    return WebComponent(lifespan=lifespan, admin=routes)


def _issuer(config: OidcConfig, people: Mapping[str, Person], secret: str) -> tuple[Mapping[str, Person], Oidc]:
    """Return the issuer, and all people with those of the issuer. Raises ConfigError without the extra."""
    try:
        from receiver.console.oidc import Oidc, People
    except ModuleNotFoundError as error:
        if error.name not in ("authlib", "joserfc"):
            raise
        raise ConfigError("console.oidc: Authlib is not installed: pip install 'runhook[oidc]'") from None
    known = People(people, config)
    return known, Oidc(config, known, secret)


def _ledger(context: Context) -> Ledger:
    return Ledger(context.settings.database_url, require_durability=context.config.durable_ledger)


def _url_of(request: Request) -> str:
    return f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path


def _way_back(request: Request, error: RequestError) -> str:
    """Return the next page after an error: to the page whose form was refused, or without what is not valid."""
    shortened = isinstance(error, Invalid) and request.method == "GET"
    return request.url.path if shortened else str(getattr(request.state, "back", f"{PATH}/"))


def _to_sign_in(request: Request) -> Response:
    return see_other(f"{PATH}/login?next={quote(_url_of(request), safe='')}")


class _Console:
    def __init__(
        self,
        context: Context,
        people: Mapping[str, Person],
        sign_in: SignIn,
        oidc: Oidc | None = None,
    ) -> None:
        self._service = Service(context.settings, _ledger(context), context.config)
        self._people = people
        self._sign_in = sign_in
        self._links = FileLinks(context.settings.master_secret(make=True))
        self._artifacts = ArtifactStreams(self._service)
        self._pool = CallPool("console")
        self._renderer = Renderer(PAGES)
        config, settings = context.config.console, context.settings
        self.signing_in = SignInPages(
            self._renderer,
            sign_in,
            oidc,
            config.session,
            by_password=bool(config.users or settings.console_password),
            by_token=bool(settings.console_token),
            only_name="" if oidc or config.users else ADMIN,
        )
        self._log_limit = TokenBucket(1, 10)

    def with_problem_page(self, handler: Handler) -> Handler:
        """Return `handler` with a page for each error."""

        async def handle(request: Request) -> Response:
            limit_waits()
            try:
                return await handler(request)
            except RequestError as error:
                problem = error
            except LedgerUnavailable as trouble:
                if self._log_limit.take(1, time.monotonic()):
                    log.warning("console.unavailable ledger=%s", trouble)
                down = "The ledger is unavailable; run `runhook status` on the host."
                problem = Busy(str(trouble) if isinstance(trouble, OutcomeUnknown) else down, retry_after=5)
            except LedgerDataError:
                problem = Invalid("A text of the address can't be in the ledger, such as one with a NUL.")
            except ClientDisconnect:
                return Response(status_code=400)  # never read
            return await self._problem(request, problem)

        return handle

    async def _problem(self, request: Request, error: RequestError) -> Response:
        signed_in = None
        if isinstance(error, Busy):
            signed_in = getattr(request.state, "signed_in", None)  # another look would wait for the ledger again
        else:
            with suppress(LedgerUnavailable):  # then the page is one without a name
                signed_in = await self._sign_in.session_of(request)
        title = _TITLES.get(error.status, HTTPStatus(error.status).phrase)
        values = {"title": title, "detail": error.message, "back": _way_back(request, error)}
        answer = page(self._renderer.html("problem.html", values, signed_in), error.status)
        answer.headers.update(error.headers)
        return answer

    async def front(self, _request: Request) -> Response:
        """Redirect to the overview."""
        return see_other(f"{PATH}/")

    async def find(self, request: Request) -> Response:
        """Redirect to the page of an id."""
        identifier = request.query_params.get("id", "").strip()
        return see_other(f"{PATH}/{_PLACES.get(identifier.partition('_')[0], 'runs')}/{quote(identifier, safe='')}")

    async def static(self, request: Request) -> Response:
        """Return a static file."""
        return static_file(request.path_params["name"]) or Response(status_code=404)

    async def not_found(self, _request: Request) -> Response:
        """Raise NotFound for an unknown path."""
        raise NotFound("There is no such page.")

    def page_handler(self, shown: ConsolePage) -> Handler:
        """Return the handler of a page. It leads people without a session to the sign-in form."""

        async def handle(request: Request) -> Response:
            signed_in = None
            with suppress(LedgerUnavailable):  # then a new session of this process alone shows the overview
                signed_in = await self._sign_in.session_of(request)
            request.state.signed_in = signed_in
            if signed_in is None:
                return _to_sign_in(request)
            notice = None if REFRESH in request.headers else notice_of(request, signed_in)
            html, status = await self._pool.run(lambda: self._rendered(shown, signed_in, request, notice))
            answer = page(html, status)
            if notice is not None:
                forget_cookie(answer, NOTICE)
            return answer

        return handle

    def _rendered(
        self, shown: ConsolePage, signed_in: SignedIn, request: Request, notice: Notice | None
    ) -> tuple[str, int]:
        """Return a page and its status. Called in a thread."""
        actor = signed_in.person.actor
        if shown.all_sources:
            actor.require_all_sources()
        query = filled(request.query_params.multi_items())
        values: Any
        try:
            values = shown.load(PageRequest(self._service, actor, request.path_params, query))
        except Invalid as error:
            return self._refused(shown, signed_in, request, error), error.status
        places = partial(place_of, self._service.config)
        rates = defaultdict(str, {name: sink.rate or "" for name, sink in self._service.config.sinks.items()})
        beside = {"places": places, "rates": rates, "waits": waits_of(self._service)}
        return self._renderer.html(
            values.get("template", shown.template), {**beside, **values}, signed_in, _url_of(request), notice
        ), 200

    def _refused(self, shown: ConsolePage, signed_in: SignedIn, request: Request, error: Invalid) -> str:
        """Return the page of a list whose filter is not valid: its form, as it was filled in. Raises `error` for
        a page without a form."""
        query = filled(request.query_params.multi_items())
        wrong = {each["name"]: each["message"].removeprefix(f"{each['name']}: ") for each in error.problems}
        valid = [each for each in query if each[0] not in wrong]
        if len(valid) == len(query):
            raise error
        values = shown.load(PageRequest(self._service, signed_in.person.actor, request.path_params, valid))
        if "form" not in values:
            raise error
        problem = {"title": values["title"], "here": values["here"], "detail": error.message}
        form = values["form"].refused(query, wrong)
        return self._renderer.html("problem.html", {**problem, "form": form}, signed_in, _url_of(request))

    async def file(self, request: Request) -> Response:
        """Return a file of a run, to people with a session or a valid link."""
        name, given = request.path_params["name"], request.query_params
        person = self._people.get(self._links.person(name, given, time.time()) or "")
        if person is None:
            signed_in = await self._sign_in.session_of(request)
            if signed_in is None:
                return _to_sign_in(request)
            person = signed_in.person
        parameters = {"name": name, "run_id": given.get("run_id", ""), "source": given.get("source", "")}
        return await self._artifacts.answer(request, person.actor, GET_CONTENT.validated(parameters))

    async def body(self, request: Request) -> Response:
        """Return the body of an event as it is kept, to be saved."""
        signed_in = await self._sign_in.session_of(request)
        if signed_in is None:
            return _to_sign_in(request)
        actor, parameters = signed_in.person.actor, GET_EVENT_BODY.validated(request.path_params)
        kept = await self._pool.run(lambda: GET_EVENT_BODY.call(self._service, actor, parameters))
        return download(f"{kept.event_id}.json", kept.content())

    def action_handler(self, action: ConsoleAction) -> Handler:
        """Return the handler of an action's forms."""

        async def handle(request: Request) -> Response:
            check_same_origin(request)
            signed_in = await self._sign_in.session_of(request)
            if signed_in is None:
                return see_other(f"{PATH}/login")
            sent = await form_of(request)
            own = dict(sent)
            check_form_token(signed_in, own.get("form_token", ""))
            back = request.state.back = local_path(own.get("back", ""))
            form = [each for each in sent if each[0] not in _OWN_FIELDS]
            actor, sure = replace(signed_in.person.actor, address=address_of(request)), "sure" in own
            if "selected" in own and "ids" not in own:
                # a call without ids would take all
                return _back_with_notice(request, back, signed_in, Notice("wait", "Select some rows first."))
            form += action.selected if "selected" in own else ()

            def work() -> str | Done:
                """Return the page to show, or what was done."""
                outcome = perform(self._service, actor, action, form, sure=sure)
                values: Any = {"title": action.verb, "action": action, "back": back}
                if isinstance(outcome, Question):
                    return self._renderer.html("confirm.html", {**values, "question": outcome}, signed_in, back)
                if not action.template:
                    return outcome
                added = action.values(PageRequest(self._service, actor, {}, form), outcome.result)
                values |= {"result": outcome.result, **added}
                return self._renderer.html(action.template, values, signed_in, back)

            outcome = await self._pool.run(work)
            if isinstance(outcome, str):
                return page(outcome)
            path, tone = action.next_page(outcome.result), "bad" if action.failed(outcome.result) else "good"
            notice = Notice(tone, action.notice(outcome.result))
            return _back_with_notice(request, PATH + path if path else back, signed_in, notice)

        return handle

    async def close(self) -> None:
        """Stop the threads and close the connections."""
        self._pool.close()
        self._artifacts.close()
        await self._sign_in.close()
        self._service.ledger.close()


def _back_with_notice(request: Request, back: str, signed_in: SignedIn, notice: Notice) -> Response:
    """Return the response that leads back to a page, which then shows a notice."""
    answer = see_other(back)
    set_notice(request, answer, signed_in, notice)
    return answer
