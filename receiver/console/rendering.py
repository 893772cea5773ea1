"""Pages as HTML: Runhook's templates, in which every value is escaped, and the headers of every response."""

from __future__ import annotations

import functools
import hashlib
import re
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, Response

from handlers.support import timestamps
from handlers.support.wording import size
from receiver.api.service import Actor
from receiver.console.forms import Notice
from receiver.console.page import PATH, ConsolePage, PageLink, event_path, run_path
from receiver.console.sign_in import SignedIn
from receiver.console.wording import asked_for, many, result, seconds_left
from receiver.domain.api_key import OPERATE
from receiver.domain.durations import after, ago
from receiver.domain.event import short_id

FOLDER: Final = Path(__file__).parent
STATIC: Final = FOLDER / "static"
MEDIA: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

# Nothing from elsewhere, nothing inline, no frame around it.
SECURITY: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " media-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_NOT_KEPT: Final = {"cache-control": "no-store"}

_TONES: Final = {
    "good": "completed delivered accepted running ready alive closed done resolved",
    "bad": "failed terminated timed_out dead refused lost missing stuck stopped silent open down orphaned error"
    " rejected suspended",
    "wait": "waiting held queued sending canceled cancelled unavailable paused probing pending unknown lapsed begun",
}
_TONE_OF: Final = {word: tone for tone, words in _TONES.items() for word in words.split()} | {"no worker": "bad"}
_BACKTICKS: Final = re.compile("`([^`]+)`")


def asset_tag() -> str:
    """Return what changes with the static files, so that browsers may keep them."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(STATIC.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _environment() -> jinja2.Environment:
    """Return what the templates are compiled in, once a process: that takes a fifth of a second."""
    loader = jinja2.FileSystemLoader(FOLDER / "templates")
    it = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    it.filters |= {
        "iso": timestamps.iso,
        "ago": lambda seconds: _relative(seconds, time.time()),
        "duration": ago,
        "size": size,
        "seconds": after,
        "code": _code,
        "sentence": _sentence,
        "clock": _clock,
        "many": many,
        "result": result,
        "tone": lambda word: _TONE_OF.get(word, ""),
        "run_path": lambda row: run_path(row.source, row.run_id),
        "event_path": event_path,
        "short_id": short_id,
        "asked_for": asked_for,
        "seconds_left": seconds_left,
    }
    nobody: Mapping[str, Any] = {"person": "", "form_token": "", "may_operate": False, "all_sources": False}
    it.globals |= {
        **nobody,
        "assets": asset_tag(),
        "here": "",
        "links": {},
        "this_url": f"{PATH}/",
        "notice": None,
        "now": time.time,
        "still": False,
        "more": "Older",
        "next_page": None,
        "sub": "",
    }
    return it


class Renderer:
    """Makes pages of templates. `pages`: all there are, for the links to them."""

    def __init__(self, pages: Sequence[ConsolePage]) -> None:
        self._pages = pages
        self._environment = _environment()

    def html(
        self,
        template: str,
        values: Mapping[str, Any],
        signed_in: SignedIn | None = None,
        this_url: str = f"{PATH}/",
        notice: Notice | None = None,
    ) -> str:
        """Return a page. `signed_in`: for whom it is. `this_url`: its path and query, where its forms come back to.
        `notice`: what it says once."""
        known: dict[str, Any] = {"this_url": this_url, "notice": notice}
        if signed_in is not None:
            actor = signed_in.person.actor
            known |= _allowed(actor)
            known |= {
                "person": signed_in.person.name,
                "form_token": signed_in.form_token,
                "links": self._links(all_sources=not actor.source),
            }
        return self._environment.get_template(template).render({**known, **values})

    def macro(self, template: str, name: str, *values: Any) -> str:
        """Return a part of pages, such as a chart."""
        return str(getattr(self._environment.get_template(template).module, name)(*values))

    def _links(self, *, all_sources: bool) -> dict[str, list[tuple[PageLink, str]]]:
        """Return the links, with their paths, to the pages that a person may see, by group."""
        groups: dict[str, list[tuple[PageLink, str]]] = {}
        for each in self._pages:
            if each.link and (all_sources or not each.all_sources):
                groups.setdefault(each.link.group, []).append((each.link, PATH + each.path))
        return groups


def _allowed(actor: Actor) -> dict[str, Any]:
    return {"may_operate": OPERATE in actor.scopes, "all_sources": not actor.source}


def page(html: str, status: int = 200) -> Response:
    """Return the answer with a page."""
    return HTMLResponse(html, status, {**SECURITY, **_NOT_KEPT})


def download(name: str, body: bytes) -> Response:
    """Return the answer with a file to save. `name`: ASCII without quotes."""
    disposition = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(body, 200, {**SECURITY, **_NOT_KEPT, **disposition}, "application/octet-stream")


def see_other(path: str) -> Response:
    """Return the answer that leads to another page of the console."""
    return Response(status_code=303, headers={"location": path, **SECURITY, **_NOT_KEPT})


def static_file(name: str) -> Response | None:
    """Return a static file, or None. Only the names that there are: no path leads out of the folder."""
    path = next((each for each in STATIC.iterdir() if each.name == name), None)
    if path is None:
        return None
    headers = {**SECURITY, "cache-control": "public, max-age=31536000, immutable"}
    return Response(path.read_bytes(), 200, headers, MEDIA[path.suffix])


def _sentence(text: str, names: Collection[str] = ()) -> str:
    """Return a text with a capital, unless it begins with a name: one of `names`, a field, a part or a command."""
    word = re.match(r"[a-z]+(?=[ ,])", text)
    return text[:1].upper() + text[1:] if word and word[0] not in names else text


def _clock(seconds: float) -> str:
    """Return a time to the second, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def _code(text: str) -> Markup:
    """Return a text as HTML, with what stands between backticks as code."""
    return Markup(_BACKTICKS.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def _relative(seconds: float, now: float) -> str:
    return f"in {ago(seconds - now)}" if seconds > now else f"{ago(now - seconds)} ago"
