"""What `runhook dev` asks of Redis while nothing happens."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.servers.dev import Dev

SECONDS = 10.0


def commands(client: redis.Redis) -> Counter[str]:
    """Count the commands that Redis has done, those in scripts among them, by name."""
    found: Any = client.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): each["calls"] for name, each in found.items()})


pytestmark = pytest.mark.long


def test_a_quiet_deployment_asks_redis_for_little(start_dev: Callable[..., Dev]) -> None:
    names = [f"s{number}" for number in range(10)]
    config = {
        "sources": {"skyvern": {"secrets": ["${SKYVERN_API_KEY}"]}},
        "sinks": {name: {"type": "files", "path": f"${{RUNHOOK_DATA}}/{name}"} for name in names},
        "routes": [{"name": "all", "to": names}],
    }
    dev = start_dev(config=json.dumps(config)).ready()
    with redis.Redis(unix_socket_path=str(dev.data / "redis" / "valkey.sock")) as client:
        for _ in range(6):  # what its start asks comes first, and lasts longer on a busy machine
            before = commands(client)
            time.sleep(SECONDS)
            asked = commands(client) - before
            # One that polls asks several times as much; all parts wait for jobs in two commands of five seconds.
            quiet = asked.total() < 5 * SECONDS and asked["blmove"] + asked["blpop"] < SECONDS
            if quiet:
                break

    assert quiet, asked
