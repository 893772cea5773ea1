"""`runhook trigger`: sends signed webhooks with sample bodies or files, as Skyvern sends them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import httpx2
import typer

from handlers.support.url import http_parts
from receiver.cli.options import ConfigFile, DataDirectory, Json, load_config
from receiver.cli.output import clean, print_json
from receiver.config.settings import Settings
from receiver.domain.signature import HEADER, sign
from receiver.errors import NotStarted, UsageError, suggest

DEFAULT_URL: Final = "http://127.0.0.1:8000"
EVERY: Final = "all"
TIMEOUT: Final = 30.0  # seconds; as long as Skyvern waits

# What Skyvern's own client sends, and nothing else.
_HEADERS: Final = {
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate",
    "Content-Type": "application/json",
    "User-Agent": "python-httpx/0.28.1",
}

# A body and its name.
Body = tuple[str, bytes]


class Sent(NamedTuple):
    """The outcome of a webhook. `status`: the HTTP status, 0 without a response; `problem`: why, or ""."""

    sample: str
    status: int
    event_id: str = ""
    problem: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the response was 2xx."""
        return 200 <= self.status < 300


def trigger(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|FILE", help=f"Samples (see --list), files, - for standard input, or {EVERY}."),
    ] = None,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            metavar="URL",
            help="Where to send; without a path, /webhooks/SOURCE. Default: `runhook dev` in this folder, else the"
            " receiver that runs here with this data directory, else http://127.0.0.1:8000.",
            show_default=False,
        ),
    ] = "",
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", min=1, help="How many times.")] = 1,
    secret: Annotated[
        str, typer.Option("--secret", metavar="KEY", help="Signing secret. Default: the source's first one.")
    ] = "",
    source: Annotated[str, typer.Option("--source", metavar="NAME", help="Source of the webhooks.")] = "skyvern",
    run_id: Annotated[str, typer.Option("--run-id", metavar="ID", help="Run of the samples. Default: new runs.")] = "",
    artifacts: Annotated[
        str, typer.Option("--artifacts", metavar="URL", help="Base URL that serves the samples' files.")
    ] = "",
    delay: Annotated[float, typer.Option("--delay", metavar="SECONDS", min=0, help="Pause between two.")] = 0.0,
    config: ConfigFile = None,
    data: DataDirectory = None,
    show: Annotated[bool, typer.Option("--list", help="List the samples and send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Send signed sample webhooks. Exits with 1 unless all are accepted."""
    if show:
        _list(as_json=as_json)
        return
    bodies = _bodies(what or ["completed"], count, run_id, artifacts)
    settings = None if url else Settings.from_env(config=config, data=data)
    session = settings.session if settings else None
    target = _target(url or (session.url if session else _receiver(settings)), source)
    key = secret or (session.key if session else _first_secret(source, config, data))
    results = []
    for each in send(bodies, target, key, delay):
        results.append(each)
        if not as_json:
            text = each.event_id if each.accepted else each.problem
            typer.echo(f"{each.status or '---'}  {clean(text, 200)}  {clean(each.sample)}")
    accepted = sum(each.accepted for each in results)
    if as_json:
        print_json([each._asdict() for each in results])
    else:
        typer.echo(f"{accepted} of {len(results)} accepted by {target}")
    if accepted < len(results):
        raise typer.Exit(1)


def send(bodies: Iterable[Body], url: str, secret: str, delay: float = 0.0) -> Iterator[Sent]:
    """Send bodies one after the other, with `delay` seconds between two, and yield each outcome.

    Raises NotStarted if the first cannot be sent.
    """
    with httpx2.Client(timeout=TIMEOUT, trust_env=False, headers=_HEADERS) as client:
        for number, (name, body) in enumerate(bodies):
            if number:
                time.sleep(delay)
            sent = _post(client, url, secret, name, body)
            if not number and not sent.status:
                raise NotStarted(f"cannot reach {url}: {sent.problem}; is `runhook dev` running?")
            yield sent


def _post(client: httpx2.Client, url: str, secret: str, name: str, body: bytes) -> Sent:
    headers = {HEADER: sign(body, secret), "x-skyvern-timestamp": str(int(time.time()))}
    try:
        response = client.post(url, content=body, headers=headers)
    except httpx2.TimeoutException:
        return Sent(name, 0, problem=f"no response within {TIMEOUT:g} s")
    except httpx2.RequestError as error:
        text = str(error) or type(error).__name__
        refused = isinstance(error, httpx2.ConnectError) and "refused" in text.lower()
        return Sent(name, 0, problem="connection refused" if refused else text)
    event_id, problem = "", response.reason_phrase
    with suppress(ValueError, TypeError, KeyError):
        if response.is_success:
            event_id = str(response.json()["event_id"])
        else:
            problem = str(response.json()["error"]["message"])
    return Sent(name, response.status_code, event_id, "" if response.is_success else problem)


def _bodies(what: Sequence[str], count: int, run_id: str, artifacts: str) -> Iterator[Body]:
    """Return what to send, `count` times; each sample is made just before it is sent. Raises UsageError for a name that
    is neither a sample nor a readable file."""
    from simulator import samples

    names = [each for name in what for each in (samples.names() if name == EVERY else [name])]
    known = {*samples.names(), *samples.SERIES, *samples.ALIASES}
    files = {name: _file(name) for name in dict.fromkeys(names) if name not in known}

    def made() -> Iterator[Body]:
        started = time.time()
        for seq, name in enumerate(names * count):
            if name in files:
                yield name, files[name]
                continue
            parts = samples.expand(name)  # of one run
            run = run_id or json.loads(samples.build(parts[0], now=started, seq=seq))["run_id"]
            for part in parts:
                yield part, samples.build(part, now=time.time(), run_id=run, seq=seq, artifacts=artifacts)

    return made()


def sample(name: str) -> bytes | None:
    """Return the body of a sample as if sent now; None if no sample has this name."""
    from simulator import samples

    try:
        return samples.build(name, now=time.time())
    except KeyError:
        return None


def _file(name: str) -> bytes:
    """Return the bytes of a file as they are; invalid bodies are worth a try too. Raises UsageError."""
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except FileNotFoundError:
        from simulator import samples

        near = suggest(name, [*samples.names(), *samples.SERIES, *samples.ALIASES, EVERY])
        hint = f"did you mean {near}?" if near else "`runhook trigger --list` lists samples"
        raise UsageError(f"{name}: sample or file not found; {hint}") from None
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror or error}") from None


def _receiver(settings: Settings | None) -> str:
    """Return where the receiver of this data directory listens; DEFAULT_URL if none runs on this machine."""
    from receiver.checks import board  # with the ledger, which nothing else here needs

    seen = board.merged(board.list_local_processes(settings.data)) if settings else []
    urls = [str(each.beat.details["url"]) for each in seen if each.alive and each.beat.details.get("url")]
    return urls[0].replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:") if urls else DEFAULT_URL


def _target(url: str, source: str) -> str:
    """Return the URL to post to. Raises UsageError if `url` is not valid."""
    parts = http_parts(url)
    if parts is None:
        raise UsageError(f"--url {url}: must be a URL such as http://127.0.0.1:8000/webhooks/skyvern")
    return url if parts.path not in ("", "/") else f"{url.rstrip('/')}/webhooks/{source}"


def _first_secret(source: str, path: Path | None, data: Path | None) -> str:
    """Return the source's first secret. Raises ConfigError, or UsageError for an unknown source."""
    settings, config = load_config(path, data)
    if source not in config.sources:
        raise UsageError(
            f"--source {source}: not found; {settings.config} has {', '.join(config.sources) or 'no sources'}"
        )
    return config.sources[source].secrets[0].get_secret_value()


def _list(*, as_json: bool) -> None:
    from simulator import samples

    if as_json:
        print_json({"samples": samples.names(), "series": dict(samples.SERIES), "aliases": dict(samples.ALIASES)})
        return
    for name in (*samples.names(), *samples.SERIES):
        parts = ", ".join(part.partition(".")[2] for part in samples.SERIES.get(name, ()))
        also = ", ".join(alias for alias, each in samples.ALIASES.items() if each == name)
        typer.echo(name + (f"  one run: {parts}" if parts else "") + (f"  (or: {also})" if also else ""))
