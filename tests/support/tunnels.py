"""Scripts that stand in for tunnel programs, and what the real ones print when a tunnel is made."""

from __future__ import annotations

from pathlib import Path

# cloudflared 2025.11, cmd/cloudflared/tunnel/quick_tunnel.go; ngrok 3; tailscale 1.92, cmd/tailscale/cli/serve_v2.go.
CLOUDFLARED = """\
2026-11-30T19:57:55Z INF Thank you for trying Cloudflare Tunnel. Doing so, without a Cloudflare account, is a quick way to experiment and try it out. However, be aware that these account-less Tunnels have no uptime guarantee, are subject to the Cloudflare Online Services Terms of Use (https://www.cloudflare.com/website-terms/), and Cloudflare reserves the right to investigate your use of Tunnels for violations of such terms. If you intend to use Tunnels in production you should use a pre-created named tunnel by following: https://developers.cloudflare.com/cloudflare-one/connections/connect-apps
2026-11-30T19:57:55Z INF Requesting new quick Tunnel on trycloudflare.com...
2026-11-30T19:57:58Z INF +--------------------------------------------------------------------------------------------+
2026-11-30T19:57:58Z INF |  Your quick Tunnel has been created! Visit it at (it may take some time to be reachable):  |
2026-11-30T19:57:58Z INF |  https://four-dashed-word-url.trycloudflare.com                                            |
2026-11-30T19:57:58Z INF +--------------------------------------------------------------------------------------------+
2026-11-30T19:57:58Z INF Version 2025.11.1 (Checksum 0123456789abcdef)
2026-11-30T19:57:59Z INF Registered tunnel connection connIndex=0 connection=1a2b event=0 ip=198.41.192.7 location=fra03 protocol=quic
"""  # noqa: E501
NGROK = """\
{"lvl":"info","msg":"no configuration paths supplied","t":"2026-11-30T02:40:00Z"}
{"addr":"127.0.0.1:4040","lvl":"info","msg":"starting web service","obj":"web","t":"2026-11-30T02:40:00Z"}
{"addr":"http://127.0.0.1:8000","lvl":"info","msg":"started tunnel","name":"command_line","obj":"tunnels","t":"2026-11-30T02:40:01Z","url":"https://ab12-203-0-113-7.ngrok-free.app"}
"""
TAILSCALE = """\
Available on the internet:

https://laptop.tail1a2b.ts.net/
|-- proxy http://127.0.0.1:8000

Press Ctrl+C to exit.
"""


def install(folder: Path, name: str, output: str, then: str = "exec sleep 600") -> None:
    """Put a program `name` into `folder` that notes its arguments in NAME.calls and its id in NAME.pid, prints `output`
    and does `then`."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.output").write_text(output)
    script = folder / name
    lines = [
        f'echo "$@" >> {folder}/{name}.calls',
        f"echo $$ > {folder}/{name}.pid",
        f"cat {folder}/{name}.output",
        then,
    ]
    script.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    script.chmod(0o755)
