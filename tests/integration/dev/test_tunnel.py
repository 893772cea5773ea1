"""Tunnel programs, played by scripts that print what the real ones print."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from receiver.dev.tunnel import START_TIMEOUT, Tunnel
from receiver.errors import NotStarted
from tests.support.tunnels import CLOUDFLARED, NGROK, TAILSCALE, install

TARGET = "http://127.0.0.1:8000"

# What the programs print where they give no URL: cloudflared 2025, ngrok 3, tailscale 1.92.
UNREACHABLE = """\
2026-11-30T09:49:15Z INF Requesting new quick Tunnel on trycloudflare.com...
failed to request quick Tunnel: Post "https://api.trycloudflare.com/tunnel": dial tcp: lookup api.trycloudflare.com: no such host
"""  # noqa: E501
NO_TOKEN = """\
{"lvl":"info","msg":"open config file","path":"/home/me/.config/ngrok/ngrok.yml","t":"2026-11-30T02:40:00Z"}
{"err":"authentication failed: Usage of ngrok requires a verified account and authtoken. (ERR_NGROK_4018)","lvl":"eror","msg":"terminating with error","t":"2026-11-30T02:40:01Z"}
"""  # noqa: E501
NOT_ENABLED = """
Funnel is not enabled on your tailnet.
To enable, visit:

         https://login.tailscale.com/f/funnel?node=nABC123CNTRL
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Tunnel]]:
    started: list[Tunnel] = []
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    def it(within: float = START_TIMEOUT, **programs: str) -> Tunnel:
        for name, output in programs.items():
            install(tmp_path / "bin", name, output)
        started.append(Tunnel(TARGET))
        started[-1].start(within)
        return started[-1]

    yield it
    for each in started:
        each.stop()


@pytest.mark.parametrize(
    ("name", "output", "url", "arguments"),
    [
        ("cloudflared", CLOUDFLARED, "https://four-dashed-word-url.trycloudflare.com", "--url http://127.0.0.1:8000"),
        ("ngrok", NGROK, "https://ab12-203-0-113-7.ngrok-free.app", "http http://127.0.0.1:8000 --log stdout"),
        ("tailscale", TAILSCALE, "https://laptop.tail1a2b.ts.net", "funnel http://127.0.0.1:8000"),
    ],
)
def test_url_is_read_from_each_program(
    start: Callable[..., Tunnel], tmp_path: Path, name: str, output: str, url: str, arguments: str
) -> None:
    found = start(**{name: output})

    assert (found.name, found.url) == (name, url)
    assert arguments in (tmp_path / "bin" / f"{name}.calls").read_text()


def test_text_of_a_program_is_no_url_and_no_escape_code(start: Callable[..., Tunnel]) -> None:
    found = start(cloudflared=CLOUDFLARED)
    space = "\N{NO-BREAK SPACE}"

    taken = [found.take(f"ERR dest=/?|{space}https://evil.example{space}|"), found.take("a | https://evil.example | b")]
    found.take("\x1b]0;title\x07failed")

    assert (taken, found.url) == ([False, False], "https://four-dashed-word-url.trycloudflare.com")
    assert found.why(1).isprintable()


def test_first_installed_program_is_used(start: Callable[..., Tunnel]) -> None:
    assert start(tailscale=TAILSCALE, ngrok=NGROK).name == "ngrok"


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(NotStarted, match=r"cloudflared, ngrok or tailscale.*brew install cloudflared"):
        Tunnel(TARGET)


@pytest.mark.parametrize(
    ("name", "output", "last"),
    [
        ("cloudflared", UNREACHABLE, "api.trycloudflare.com: no such host"),
        ("ngrok", NO_TOKEN, "ERR_NGROK_4018"),
        ("tailscale", NOT_ENABLED, "https://login.tailscale.com/f/funnel?node=nABC123CNTRL"),
    ],
)
@pytest.mark.parametrize("ends", [True, False])
def test_program_without_url_is_explained(
    start: Callable[..., Tunnel], tmp_path: Path, name: str, output: str, last: str, ends: bool
) -> None:  # fmt: skip
    install(tmp_path / "bin", name, output, then="exit 1" if ends else "exec sleep 60")

    with pytest.raises(NotStarted) as caught:
        start(60.0 if ends else 2.0)

    first, *lines = str(caught.value).splitlines()
    expected = f"{name} ended with code 1" if ends else f"{name} named no public URL within 2 s"
    assert first == f"{expected}; its last lines:"
    assert last in "\n".join(lines)
