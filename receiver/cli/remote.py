"""Calls of the JSON API of a remote service."""

from __future__ import annotations

import ipaddress
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from receiver import __version__
from receiver.api.endpoint import Endpoint
from receiver.api.models import Parameters
from receiver.api.problem import CONTENT_TYPE, TYPE
from receiver.cli.output import clean
from receiver.cli.profiles import RemoteService
from receiver.errors import Busy, Invalid, NotStarted, RequestError, RunhookError

if TYPE_CHECKING:
    from receiver.api.artifact_content import ContentParameters

P = TypeVar("P", bound=Parameters)
R = TypeVar("R", bound=BaseModel)

# Seconds between two parts of an answer: longer than the service takes to give up; and for all of it.
TIMEOUT: Final = 30.0
LONGEST: Final = 300.0
# Bytes of an answer that are taken: a service sends none that is nearly as long.
MOST_BYTES: Final = 64 << 20
# Most tries of a read that is answered with 503, and seconds between two of them at the most.
TRIES: Final = 4
LONGEST_PAUSE: Final = 10.0

# The number that an error of the system begins with, which tells people nothing.
_ERRNO: Final = re.compile(r"^\[Errno -?\d+\] ")
# What a message repeats of an answer.
_LONGEST = 400


class StoredContent(NamedTuple):
    """A file of a run, as it is stored: the bytes from `start` on. `size`: of the whole; `tag`: of exactly these bytes;
    `encoding`: its content coding, or ""."""

    size: int
    start: int
    tag: str
    encoding: str
    chunks: Iterator[bytes]


class RemoteClient:
    """Calls a service over HTTP. Its key is in no error and no traceback. Close it after use."""

    def __init__(self, service: RemoteService) -> None:
        self.service = service
        self.where = service.url
        self.tell = False
        self._told_where = False
        self._http = httpx2.Client(
            base_url=service.url,
            timeout=TIMEOUT,
            follow_redirects=False,  # the key is for this service alone
            # Problem details are what Skyvern's clients never ask for: so no call of ours is taken for one of its API.
            headers={"user-agent": f"runhook/{__version__}", "accept": f"application/json, {CONTENT_TYPE}"},
            auth=_Bearer(service.key),
        )
        if service.url.startswith("http://") and not _is_loopback(self._http.base_url.host):
            sys.stderr.write(f"runhook: WARNING: {service.url}: the key and all answers go there unencrypted\n")

    def call(self, endpoint: Endpoint[P, R], parameters: P) -> R:
        """Return the result. Raises the RequestError that the service answers with, and NotStarted without an answer.

        A read that is answered with 503 is made again after as long as the service says.
        """
        path, rest = endpoint.path_and_rest(parameters)
        read = endpoint.method == "GET"
        tries = TRIES if read else 1
        while True:
            tries -= 1
            answer, body = self._send(endpoint.method, path, rest)
            try:
                return _result(endpoint, answer, body, self.where)
            except Busy as busy:
                if not tries:
                    raise
                time.sleep(_pause(busy.headers.get("Retry-After", "")))

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        silence: float | None = None,
    ) -> Iterator[httpx2.Response]:
        """Make a call whose answer is no JSON, and give the answer while it comes. Raises as `call`.

        Between two parts of it may pass `silence` seconds, or as much time as the service likes.
        """
        timeout = httpx2.Timeout(TIMEOUT, read=silence)
        request = self._http.build_request(method, path, params=parameters, headers=headers, timeout=timeout)
        with reaching(self.where):
            answer = self._http.send(request, stream=True)
        try:
            if not answer.is_success:
                with reaching(self.where):
                    body = read_bounded(answer, self.where)
                _raise_problem(answer, body, self.where)
            yield answer
        finally:
            answer.close()

    @contextmanager
    def content(self, wanted: ContentParameters, start: int = 0, tag: str = "") -> Iterator[StoredContent]:
        """See Client."""
        from receiver.api.artifact_content import GET_CONTENT  # with the sinks, which no other call needs

        path, rest = GET_CONTENT.path_and_rest(wanted)
        headers = {"accept": "*/*", "accept-encoding": "identity"}
        headers |= {"range": f"bytes={start}-", "if-range": tag} if start else {}
        with self.stream("GET", path, rest, headers=headers, silence=TIMEOUT) as answer:
            begin, size = start_and_size(answer.status_code, answer.headers)
            encoding = answer.headers.get("content-encoding", "")
            yield StoredContent(size, begin, answer.headers.get("etag", ""), encoding, self._chunks(answer))

    def _chunks(self, answer: httpx2.Response) -> Iterator[bytes]:
        with reaching(self.where):
            yield from answer.iter_raw()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, method: str, path: str, rest: dict[str, Any]) -> tuple[httpx2.Response, bytes]:
        if (self.tell or sys.stderr.isatty()) and not self._told_where:
            sys.stderr.write(f"runhook: service: {self.where}\n")
            self._told_where = True
        given = {"params": rest} if method == "GET" else {"json": rest}
        with reaching(self.where), self._http.stream(method, path, **given) as answer:  # type: ignore[arg-type]
            return answer, read_bounded(answer, self.where)


@contextmanager
def reaching(where: str, seconds: float = TIMEOUT) -> Iterator[None]:
    """Give a block in which an answer of `where` that does not come within so many seconds is a NotStarted."""
    try:
        yield
    except httpx2.TimeoutException:
        raise NotStarted(f"{where}: no answer within {seconds:g} s") from None
    except httpx2.HTTPError as error:
        reason = clean(_ERRNO.sub("", str(error)).rstrip(".") or type(error).__name__, _LONGEST)
        raise NotStarted(f"can't reach {where}: {reason}; is Runhook serving there?") from None


def read_bounded(answer: httpx2.Response, where: str) -> bytes:
    """Return the body of an answer. Raises NotStarted for one without an end, in bytes or in time."""
    body, began = bytearray(), time.monotonic()
    for part in answer.iter_bytes():
        body += part
        if len(body) > MOST_BYTES:
            raise NotStarted(f"{where}: the answer is longer than {MOST_BYTES >> 20} MiB; is Runhook there?")
        if time.monotonic() - began > LONGEST:
            raise NotStarted(f"{where}: the answer has not ended within {LONGEST:g} s")
    return bytes(body)


class _Bearer(httpx2.Auth):
    """Puts the key into each request, and is not shown with it."""

    def __init__(self, key: str) -> None:
        self._key = key

    def auth_flow(self, request: httpx2.Request) -> Iterator[httpx2.Request]:  # type: ignore[override]
        request.headers["authorization"] = f"Bearer {self._key}"
        yield request


def _result(endpoint: Endpoint[Any, R], answer: httpx2.Response, body: bytes, where: str) -> R:
    if not answer.is_success:
        _raise_problem(answer, body, where)
    try:
        return endpoint.result.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = clean(".".join(str(each) for each in first["loc"]), _LONGEST) or "the answer"
        raise RunhookError(
            f"{where}: the answer to {endpoint.name} is none that this version ({__version__}) knows: "
            f"{place}: {first['msg']}; is the service of another version?"
        ) from None


def _raise_problem(answer: httpx2.Response, body: bytes, where: str) -> NoReturn:
    """Raise the error of an answer: the service's own in its words, or what else stands there."""
    if answer.is_redirect:
        place = clean(answer.headers.get("location", ""), _LONGEST)
        raise NotStarted(f"{where}: is redirected to {place}, where the key is not sent; name the right address")
    status = answer.status_code
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kind == CONTENT_TYPE:
        try:
            error = _error(json.loads(body), status, answer.headers.get("retry-after", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            error = None
        if error is not None:
            raise error
    hint = "; is Runhook there, and its JSON API?" if status in (404, 405, 501) else ""
    raise NotStarted(f"{where}: answers {status} without saying why{hint}")


def _error(said: Mapping[str, Any], status: int, retry_after: str) -> RequestError:
    """Return the error of ours that problem details tell of; of a newer service's code, one that says the same."""
    code, detail = str(said["type"]).removeprefix(TYPE), clean(said["detail"], _LONGEST)
    known = {cls.code: cls for cls in RequestError.__subclasses__()}
    cls = known.get(code) or next((each for each in known.values() if each.status == status), RequestError)
    if cls is Busy:
        return Busy(detail, retry_after=int(retry_after) if retry_after.isdecimal() else 2)
    if cls is Invalid:
        problems = [
            {"name": clean(each["name"], _LONGEST), "message": clean(each["message"], _LONGEST)}
            for each in said.get("errors", ())
        ]
        return Invalid(detail, problems)
    return cls(detail, headers={"Retry-After": retry_after} if retry_after else {})


def start_and_size(status: int, headers: Mapping[str, str]) -> tuple[int, int]:
    """Return where the bytes of an answer begin in the file, and the size of the whole. Raises NotStarted."""
    try:
        if status == 206:
            unit, _, rest = headers["content-range"].partition(" ")
            part, _, size = rest.partition("/")
            if unit == "bytes":
                return int(part.partition("-")[0]), int(size)
        elif status == 200:
            return 0, int(headers["content-length"])
    except (KeyError, ValueError):
        pass
    raise NotStarted("the service does not say how long the file is; is it of another version?")


def _pause(retry_after: str) -> float:
    return min(float(retry_after), LONGEST_PAUSE) if retry_after.isdecimal() else 2.0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
