"""The environment of the apps in peers/apps: an own one, for what they need is no part of Runhook."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).resolve().parent
VENV: Final = ROOT / ".venv-peers"


def install() -> None:
    """Make the peers' environment, where it is not there."""
    done = VENV / ".installed"
    wanted = (HERE / "requirements.txt").read_bytes()
    if done.exists() and done.read_bytes() == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    subprocess.run([VENV / "bin" / "python", "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True)
    done.write_bytes(wanted)


def program(name: str) -> list[str]:
    """Return the beginning of a command line that runs a program of that environment."""
    return [str(VENV / "bin" / name)]


def environment(redis_url: str, database: str, secret: str) -> dict[str, str]:
    """Return the variables that an app wants."""
    return {
        "PEER_REDIS": redis_url,
        "PEER_DATABASE": database,
        "PEER_SECRET": secret,
        "PYTHONPATH": str(HERE / "apps"),
        "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
    }
