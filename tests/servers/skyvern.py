"""A simulated Skyvern on loopback, in a thread of the test's own process.

skyvern_simulator   one with its default behaviour, quick
simulate_skyvern    makes one with options of the test's own: simulate_skyvern(ratios={Fault.LOSE: 1.0})
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from simulator.api import create_app
from simulator.options import Options
from simulator.runs import SimRun
from simulator.server import Serving
from simulator.world import World
from tests.support.waiting import PATIENCE, eventually

KEY = "simulated-key"
QUICK: dict[str, Any] = {"api_keys": (KEY,), "speed": 20.0, "run_seconds": 1.0}


class SkyvernSimulator:
    """`url`: its base; `key`: one that it accepts; `world`: what it holds, to look at only."""

    key = KEY

    def __init__(self, serving: Serving, world: World, client: httpx2.Client) -> None:
        self.url = serving.url
        self.world = world
        self.client = client

    def submit(self, prompt: str, path: str = "/v1/run/tasks", **fields: Any) -> dict[str, Any]:
        """Submit a run as an app would; its answer. `prompt` stands for whatever the path's own text field is."""
        body = {"prompt": prompt, "title": prompt, **fields}
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def get(self, path: str, **params: Any) -> Any:
        """A GET with the key, parsed."""
        answer = self.client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def stats(self) -> dict[str, Any]:
        return dict(self.get("/_sim/stats"))

    def run(self, run_id: str) -> SimRun:
        return self.world.runs[run_id]

    def wait_final(self, *run_ids: str) -> None:
        """Until these runs have ended, and their files are there."""
        eventually(lambda: all(self.run(run_id).settled for run_id in run_ids))

    def ended(self, *prompts: str) -> list[str]:
        """Submit a task for each prompt and wait for their ends. Returns their ids."""
        run_ids = [str(self.submit(prompt)["run_id"]) for prompt in prompts]
        self.wait_final(*run_ids)
        return run_ids


Simulate = Callable[..., SkyvernSimulator]


@pytest.fixture(scope="session")
def stopping_simulators() -> Iterator[list[Serving]]:
    """Simulators whose test is over: each takes 0.2 s to stop, and no test waits for it."""
    stopping: list[Serving] = []
    yield stopping
    for serving in stopping:
        serving.join()


@pytest.fixture
def simulate_skyvern(stopping_simulators: list[Serving]) -> Iterator[Simulate]:
    with ExitStack() as stack:

        def make(**options: Any) -> SkyvernSimulator:
            app = create_app(Options(**{**QUICK, **options}))
            serving = Serving(app).__enter__()
            stopping_simulators.append(serving)
            stack.callback(serving.stop)
            client = httpx2.Client(base_url=serving.url, headers={"x-api-key": KEY}, trust_env=False, timeout=PATIENCE)
            stack.enter_context(client)
            return SkyvernSimulator(serving, app.state.world, client)

        yield make


@pytest.fixture
def skyvern_simulator(simulate_skyvern: Simulate) -> SkyvernSimulator:
    return simulate_skyvern()
