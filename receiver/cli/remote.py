"""Calls of a remote service: its JSON API, and its submit API as an upstream app uses it."""

from __future__ import annotations

import ipaddress
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from handlers.support.wording import size
from receiver import __version__
from receiver.api.endpoint import Endpoint
from receiver.api.models import Parameters
from receiver.api.responses import CONTENT_TYPE, TYPE
from receiver.cli.output import clean, warn
from receiver.cli.profiles import RemoteService
from receiver.errors import Busy, Invalid, NotStarted, RequestError, RunhookError, UsageError

if TYPE_CHECKING:
    from receiver.api.artifact_content import ContentParameters

P = TypeVar("P", bound=Parameters)
R = TypeVar("R", bound=BaseModel)

# Seconds between two parts of a response, longer than the service takes to give up; and for Skyvern's response, which
# the submit API passes on.
TIMEOUT: Final = 30.0
SUBMIT_TIMEOUT: Final = 60.0
# Maximum bytes of a response, except for a stored file: a page of runs with large outputs is below it.
MAX_RESPONSE: Final = 256 << 20
# Tries of a read that gets 503, and seconds between two of them at most.
TRIES: Final = 4
LONGEST_PAUSE: Final = 10.0

# The number that an error of the operating system begins with.
_ERRNO: Final = re.compile(r"^\[Errno -?\d+\] ")
# Characters of a response that a message repeats.
_LONGEST: Final = 400


class StoredContent(NamedTuple):
    """A file of a run as it is stored. `size`: its bytes; `encoding`: its content coding, or ""."""

    size: int
    encoding: str
    chunks: Iterator[bytes]


class RemoteClient:
    """Calls a service over HTTP. Its key is in no error and no traceback. Close it after use.

    `max_response`: see MAX_RESPONSE.
    """

    def __init__(self, service: RemoteService, max_response: int = MAX_RESPONSE) -> None:
        self.service = service
        self._max_response = max_response
        self.where = service.url
        self.announce = False
        self.create = False  # that is for this machine
        self._announced = False
        self._http = httpx2.Client(
            base_url=service.url,
            timeout=TIMEOUT,
            follow_redirects=False,  # the key is for this service only
            # Skyvern's clients never accept problem details: so no call is taken for one of Skyvern's API.
            headers={"user-agent": f"runhook/{__version__}", "accept": f"application/json, {CONTENT_TYPE}"},
            auth=_Bearer(service.key),
        )
        if service.url.startswith("http://") and not is_loopback(self._http.base_url.host):
            warn(f"WARNING: {service.url}: the key and all responses are sent unencrypted")

    def call(self, endpoint: Endpoint[P, R], parameters: P) -> R:
        """Return the result. Raises the service's RequestError, and NotStarted without a response.

        A read that gets 503 is retried after the time that the service states.
        """
        path, rest = endpoint.path_and_rest(parameters)
        if (self.announce or sys.stderr.isatty()) and not self._announced:
            warn(f"service: {self.where}")
            self._announced = True
        is_read = endpoint.method == "GET"
        given: dict[str, Any] = {"params": rest} if is_read else {"json": rest}
        for left in range((TRIES if is_read else 1) - 1, -1, -1):
            response = self._request(endpoint.method, path, **given)
            try:
                return _result(endpoint, response, self.where)
            except Busy as busy:
                if not left:
                    raise
                time.sleep(_pause(busy.headers.get("Retry-After", "")))
        raise AssertionError

    def _request(self, method: str, path: str, timeout: float = TIMEOUT, **further: Any) -> httpx2.Response:
        with reaching(self.where, timeout), self._http.stream(method, path, timeout=timeout, **further) as response:
            return self._read(response)

    def _read(self, response: httpx2.Response) -> httpx2.Response:
        """Return a response with its body, decoded. Raises NotStarted if that is too large."""
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > self._max_response:
                limit = size(self._max_response)
                raise NotStarted(f"{self.where}: the response is larger than {limit}. Ask for fewer rows, as by -n 10")
        headers = [(name, value) for name, value in response.headers.multi_items() if name != "content-encoding"]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body))

    @contextmanager
    def content(self, parameters: ContentParameters) -> Iterator[StoredContent]:
        """See Client."""
        from receiver.api.artifact_content import GET_CONTENT  # with the sinks, which no other call needs

        path, rest = GET_CONTENT.path_and_rest(parameters)
        headers = {"accept": "*/*", "accept-encoding": "identity"}
        with reaching(self.where), self._http.stream("GET", path, params=rest, headers=headers) as response:
            if not response.is_success:
                _raise_problem(self._read(response), self.where)
            length = response.headers.get("content-length", "")
            if not length.isdecimal():
                raise NotStarted("the service does not state the file's size; does it have another version?")
            yield StoredContent(int(length), response.headers.get("content-encoding", ""), self._chunks(response))

    def _chunks(self, response: httpx2.Response) -> Iterator[bytes]:
        with reaching(self.where):
            yield from response.iter_raw()

    def submit(self, path: str, request: Mapping[str, Any], labels: Mapping[str, str], key: str) -> dict[str, Any]:
        """Submit a run as an upstream app does, and return it; also one submitted before with the same Idempotency-Key.

        Raises RunhookError with the service's reason, UsageError if the API key is not allowed to, and NotStarted
        without a response: the same call with the same `key` then submits no second run.
        """
        body = {**request, "labels": dict(labels)} if labels else dict(request)
        return self._submit_call("POST", path, json=body, headers={"idempotency-key": key})

    def run(self, run_id: str, wait: float) -> dict[str, Any]:
        """Return a run of the submit API, which waits up to `wait` seconds for its end. Raises as `submit`."""
        return self._submit_call("GET", f"/v1/runs/{quote(run_id, safe='')}", params={"wait": f"{wait:g}"})

    def _submit_call(self, method: str, path: str, **further: Any) -> dict[str, Any]:
        response = self._request(method, path, SUBMIT_TIMEOUT, **further)
        try:
            value = response.json()
        except ValueError:
            value = None
        if response.is_success and isinstance(value, dict):
            return value
        detail = value.get("detail") if isinstance(value, dict) else None
        retry_after = response.headers.get("retry-after", "")
        why = f": {clean(detail, _LONGEST)}" if detail else " without a reason; is Runhook there?"
        later = f"; retry after {clean(retry_after, 40)} s" if retry_after else ""
        message = f"{self.where} responds {response.status_code}{why}{later}"
        if response.status_code == HTTPStatus.FORBIDDEN:
            raise UsageError(f"{message}; `runhook keys list` there shows its keys")
        raise RunhookError(message)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


@contextmanager
def reaching(where: str, seconds: float = TIMEOUT) -> Iterator[None]:
    """Give a block in which errors of the connection to `where` become NotStarted."""
    try:
        yield
    except httpx2.TimeoutException:
        raise NotStarted(f"{where}: no response within {seconds:g} s") from None
    except httpx2.HTTPError as error:
        reason = clean(_ERRNO.sub("", str(error)).rstrip(".") or type(error).__name__, _LONGEST)
        raise NotStarted(f"cannot reach {where}: {reason}; is Runhook running there?") from None


class _Bearer(httpx2.Auth):
    """Puts the key into each request, and does not show it."""

    def __init__(self, key: str) -> None:
        self._key = key

    def auth_flow(self, request: httpx2.Request) -> Iterator[httpx2.Request]:  # type: ignore[override]
        request.headers["authorization"] = f"Bearer {self._key}"
        yield request


def _result(endpoint: Endpoint[Any, R], response: httpx2.Response, where: str) -> R:
    if not response.is_success:
        _raise_problem(response, where)
    try:
        return endpoint.result.model_validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = clean(".".join(str(each) for each in first["loc"]), _LONGEST) or "the response"
        raise RunhookError(
            f"{where}: the response to {endpoint.name} is not supported by version {__version__}: {place}: "
            f"{first['msg']}; does the service have another version?"
        ) from None


def _raise_problem(response: httpx2.Response, where: str) -> NoReturn:
    """Raise the error of a response: the service's own, or what else it is."""
    if response.is_redirect:
        place = clean(response.headers.get("location", ""), _LONGEST)
        raise NotStarted(f"{where} redirects to {place}, where the key is not sent; use the right address")
    status = response.status_code
    if response.headers.get("content-type", "").partition(";")[0] == CONTENT_TYPE:
        try:
            error = _error(response.json(), status, response.headers.get("retry-after", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            error = None
        if error is not None:
            raise error
    hint = "; does Runhook serve its JSON API there?" if status in (404, 405, 501) else ""
    raise NotStarted(f"{where} responds {status} without a reason{hint}")


def _error(problem: Mapping[str, Any], status: int, retry_after: str) -> RequestError:
    """Return the error of problem details; for a code of a newer service, one of the same status."""
    code, detail = str(problem["type"]).removeprefix(TYPE), clean(problem["detail"], _LONGEST)
    known = {cls.code: cls for cls in RequestError.__subclasses__()}
    cls = known.get(code) or next((each for each in known.values() if each.status == status), RequestError)
    if cls is Busy:
        return Busy(detail, retry_after=int(retry_after) if retry_after.isdecimal() else 2)
    if cls is Invalid:
        errors = problem.get("errors", ())
        return Invalid(detail, [{name: clean(each[name], _LONGEST) for name in ("name", "message")} for each in errors])
    return cls(detail, headers={"Retry-After": retry_after} if retry_after else {})


def _pause(retry_after: str) -> float:
    return min(float(retry_after), LONGEST_PAUSE) if retry_after.isdecimal() else 2.0


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
