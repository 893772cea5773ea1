"""`runhook trigger`: send signed webhooks with sample bodies, or with one from a file, as Skyvern would send them."""

from __future__ import annotations

import asyncio
import difflib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer

from handlers.support.url import http_parts
from receiver.cli.options import ConfigFile, DataDirectory, Json, load_config
from receiver.cli.output import clean, print_json
from receiver.config.settings import Settings
from receiver.domain.signature import HEADER, sign
from receiver.errors import NotStarted, UsageError

DEFAULT = "completed"
DEFAULT_URL = "http://127.0.0.1:8000"
EVERY = "all"
CONCURRENCY = 16
# Seconds: as long as Skyvern waits.
TIMEOUT = 30.0

# What Skyvern's own client sends, and nothing that it does not.
_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate",
    "Content-Type": "application/json",
    "User-Agent": "python-httpx/0.28.1",
}


@dataclass(frozen=True, slots=True)
class Series:
    """Bodies that are sent one after the other: a name each, and a function that makes the bytes just before."""

    bodies: Sequence[tuple[str, Callable[[], bytes]]]


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of one webhook. `status`: the HTTP status, 0 when there was no answer; `problem`: why, or ""."""

    sample: str
    status: int
    event_id: str = ""
    problem: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the answer was a 2xx."""
        return 200 <= self.status < 300


def trigger(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|FILE", help=f"Samples (see --list), files, - for standard input; {EVERY}: each sample."
        ),
    ] = None,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            help="Where to; without a path it goes to /webhooks/SOURCE there. Default: `runhook dev` in this folder,"
            " else http://127.0.0.1:8000.",
            show_default=False,
        ),
    ] = "",
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many times.")] = 1,
    secret: Annotated[str, typer.Option("--secret", help="Sign with this. Default: the source's first secret.")] = "",
    source: Annotated[str, typer.Option("--source", help="The source whose webhook this is.")] = "skyvern",
    run_id: Annotated[str, typer.Option("--run-id", help="Send samples about this run. Default: a new run each.")] = "",
    artifacts: Annotated[
        str, typer.Option("--artifacts", help="Base URL that serves the samples' recordings, screenshots and files.")
    ] = "",
    delay: Annotated[float, typer.Option("--delay", min=0, help="Seconds between two; 0: several at once.")] = 0.0,
    config: ConfigFile = None,
    data: DataDirectory = None,
    show: Annotated[bool, typer.Option("--list", help="List the samples and send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Send signed sample webhooks. Ends with 1 when not all were accepted."""
    if show:
        _show(as_json=as_json)
        return
    all_series = list(_all_series(what or [DEFAULT], count, run_id, artifacts))
    session = None if url else Settings.from_env(config=config, data=data).session
    target = _target(url or (session.url if session else DEFAULT_URL), source)
    key = secret or (session.key if session else _first_secret(source, config, data))

    def report(sent: Sent) -> None:
        if not as_json:
            _print(sent)

    results = asyncio.run(send(all_series, target, key, delay=delay, report=report))
    accepted = sum(sent.accepted for sent in results)
    if as_json:
        print_json(
            [
                {"sample": sent.sample, "status": sent.status, "event_id": sent.event_id, "problem": sent.problem}
                for sent in results
            ]
        )
    elif len(results) > 1:
        typer.echo(f"{accepted} of {len(results)} accepted by {target}")
    if accepted < len(results):
        raise typer.Exit(1)


async def send(
    all_series: Sequence[Series], url: str, secret: str, *, delay: float = 0.0, report: Callable[[Sent], None]
) -> list[Sent]:
    """Send each series, up to CONCURRENCY at once, or one after the other with `delay` seconds between two webhooks.

    `report` is called for each webhook when it is answered. Raises NotStarted when the first can't be sent at all.
    """
    results: list[Sent] = []
    at_once = 1 if delay else CONCURRENCY
    limits = httpx2.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx2.AsyncClient(timeout=TIMEOUT, limits=limits, trust_env=False, headers=_HEADERS) as client:

        async def work(waiting: Iterator[Series]) -> None:
            for series in waiting:
                for name, make in series.bodies:
                    if delay and results:
                        await asyncio.sleep(delay)
                    sent = await _post(client, url, secret, name, make())
                    if not results and not sent.status:
                        raise NotStarted(f"can't reach {url}: {sent.problem}; is `runhook dev` running there?")
                    results.append(sent)
                    report(sent)

        # The first one alone: when nothing listens there, that is reported once.
        await work(iter(all_series[:1]))
        rest = iter(all_series[1:])
        await asyncio.gather(*(work(rest) for _ in range(at_once)))
    return results


async def _post(client: httpx2.AsyncClient, url: str, secret: str, name: str, body: bytes) -> Sent:
    headers = {HEADER: sign(body, secret), "x-skyvern-timestamp": str(int(time.time()))}
    try:
        response = await client.post(url, content=body, headers=headers)
    except httpx2.ConnectError as error:
        return Sent(name, 0, problem=_why(error))
    except httpx2.TimeoutException:
        return Sent(name, 0, problem=f"no answer within {TIMEOUT:g} s")
    except httpx2.RequestError as error:
        return Sent(name, 0, problem=f"no answer: {_why(error) or type(error).__name__}")
    answer = _answer(response)
    if response.is_success:
        return Sent(name, response.status_code, event_id=str(answer.get("event_id", "")))
    error_part = answer.get("error")
    message = error_part.get("message", "") if isinstance(error_part, dict) else ""
    return Sent(name, response.status_code, problem=str(message) or response.reason_phrase)


def _answer(response: httpx2.Response) -> dict[str, Any]:
    try:
        value = json.loads(response.content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _why(error: Exception) -> str:
    """The operating system's words for a connection that could not be made."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return "connection refused" if isinstance(cause, ConnectionRefusedError) else cause.strerror
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    return "connection refused" if "all connection attempts failed" in text.lower() else text


def _all_series(what: Sequence[str], count: int, run_id: str, artifacts: str) -> Iterator[Series]:
    """What is to be sent, `count` times. Raises UsageError for a name that is neither sample nor readable file."""
    from simulator import samples

    made: list[Callable[[int], Series]] = []
    for name in what:
        for each in samples.names() if name == EVERY else [name]:
            try:
                made.append(_of_samples(samples.expand(each), run_id, artifacts))
            except KeyError:
                made.append(_of_file(each))
    for number in range(count):
        for index, make in enumerate(made):
            yield make(number * len(made) + index)


def sample(name: str) -> bytes | None:
    """Return the body of a sample as if it was sent now. None when no sample has this name."""
    from simulator import samples

    try:
        return samples.build(name, now=time.time())
    except KeyError:
        return None


def sample_names() -> list[str]:
    """Return all names that stand for samples: of one, of several about one run, or of every sample."""
    from simulator import samples

    return [*samples.names(), *samples.SERIES, *samples.ALIASES, EVERY]


def _of_samples(names: Sequence[str], run_id: str, artifacts: str) -> Callable[[int], Series]:
    from simulator import samples

    started = time.time()

    def make(seq: int) -> Series:
        run = run_id or _new_run_id(names[0], started, seq)

        def body(name: str) -> Callable[[], bytes]:
            return lambda: samples.build(name, now=time.time(), run_id=run, seq=seq, artifacts=artifacts)

        return Series([(name, body(name)) for name in names])

    return make


def _new_run_id(name: str, started: float, seq: int) -> str:
    """The id of a run of its own, the same for all bodies of a series."""
    from simulator import samples

    fresh: str = json.loads(samples.build(name, now=started, seq=seq))["run_id"]
    return fresh


def _of_file(name: str) -> Callable[[int], Series]:
    """The bytes of a file, as they are: bad ones too, for they are worth a try."""
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except FileNotFoundError:
        raise UsageError(_unknown(name)) from None
    except OSError as error:
        raise UsageError(f"can't read {name}: {error.strerror or error}") from None
    return lambda _: Series([(name, lambda: content)])


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, sample_names(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`runhook trigger --list` shows the samples"
    return f"there is no sample and no file called {name}; {hint}"


def _target(url: str, source: str) -> str:
    """The URL to post to. Raises UsageError when `url` is none."""
    parts = http_parts(url)
    if parts is None:
        raise UsageError(f"--url {url}: must be a URL such as http://127.0.0.1:8000/webhooks/skyvern")
    return url if parts.path not in ("", "/") else f"{url.rstrip('/')}/webhooks/{source}"


def _first_secret(source: str, path: Path | None, data: Path | None) -> str:
    """The secret that the config gives `source`. Raises ConfigError, or UsageError when there is no such source."""
    settings, config = load_config(path, data)
    sources = config.sources
    if source not in sources:
        raise UsageError(f"--source {source}: {settings.config} has {', '.join(sources) or 'no sources'}")
    return sources[source].secrets[0].get_secret_value()


def _print(sent: Sent) -> None:
    status = sent.status or "---"
    what = sent.event_id if sent.accepted else sent.problem
    typer.echo(f"{status}  {clean(what, 200)}  {clean(sent.sample)}")


def _show(*, as_json: bool) -> None:
    from simulator import samples

    aliases: dict[str, list[str]] = {}
    for alias, name in samples.ALIASES.items():
        aliases.setdefault(name, []).append(alias)
    if as_json:
        print_json({"samples": samples.names(), "series": dict(samples.SERIES), "aliases": dict(samples.ALIASES)})
        return
    for name in (*samples.names(), *samples.SERIES):
        parts = ", ".join(part.partition(".")[2] for part in samples.SERIES.get(name, ()))
        also = ", ".join(aliases.get(name, []))
        typer.echo(name + (f"  one run: {parts}" if parts else "") + (f"  (or: {also})" if also else ""))
