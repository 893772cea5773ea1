"""The apps of the loop: they submit runs through us, ask for them in their own ways, and start some past us."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from simulator.faults import OF_CALLS, Fault, drawn
from tests.loop.truth import INVOICES, ORDERS

SUBMITTERS = 8
ASKERS = 24
# Seconds after which the answer to a submit is told as a slow one.
SLOW = 20.0
# Seconds within which a submit is to be answered. That of a killed process is free only when no request of its can
# be on its way (180 s), and Skyvern's list has proved that it has no run.
PATIENCE = 480.0
FINAL = ("completed", "failed", "terminated", "timed_out", "canceled")
# How a caller asks for its run, by the run's number.
MANNERS = ("never", "until it ends", "with ?wait=", "before and after", "of Skyvern itself", "never", "until it ends")


@dataclass
class Callers:
    """Submits `count` runs. `url`, `key`: of the submit API; `hook`: where the callers' own webhooks go.

    `faults`: ratios. They are drawn here by each run's number, and asked for by name in the submit, so that the same
    seed gives the same runs their faults however the submits overtake each other. `submitted`: run id by number;
    `slow`: which submits were answered late, and what was said meanwhile.
    """

    url: str
    key: str
    hook: str
    count: int
    seed: int
    faults: dict[Fault, float]
    submitted: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, str] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    slow: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def submit_all(self, half: threading.Event) -> list[Future[None]]:
        """Submit everything; `half` is set when a half of it is answered. Returns the callers that still ask."""
        asking: list[Future[None]] = []
        askers = ThreadPoolExecutor(ASKERS)

        def one(number: int) -> None:
            run_id = self._submit(number, half)
            asking.append(askers.submit(self._ask, number, run_id))

        with ThreadPoolExecutor(SUBMITTERS) as pool:
            for each in [pool.submit(one, number) for number in range(self.count)]:
                each.result()
        askers.shutdown(wait=False)
        return asking

    def markers(self, number: int) -> str:
        """Return the faults of a submit, as its text names them."""
        return "".join(f" [{fault}]" for fault in sorted(drawn(self.faults, self.seed, number)))

    def request(self, number: int) -> tuple[str, dict[str, Any]]:
        """Return the path and body of a submit."""
        kind, text = number % 7, f"order {number}{self.markers(number)}"
        hook = {"webhook_url": f"{self.hook}/{number}"}
        asked = {"region": "north" if number % 3 else "south", "number": number}
        site = "https://shop.example/orders"
        if kind == 0:
            return "/v1/run/tasks", {"prompt": text, "url": site, "engine": "skyvern-1.0", **hook}
        if kind == 1:
            return "/v1/run/tasks", {"prompt": text, "url": site, "engine": "skyvern-2.0", **hook}
        if kind == 2:
            return "/v1/run/tasks", {"prompt": text, "title": f"t{number}", **hook}
        if kind in (3, 4):
            return "/v1/run/agents", {"agent_id": ORDERS, "title": text, "parameters": asked, **hook}
        if kind == 5:
            return "/v1/run/workflows", {"workflow_id": INVOICES, "title": text, "parameters": asked, **hook}
        legacy = {"webhook_callback_url": hook["webhook_url"]}
        return "/api/v1/tasks", {"url": site, "navigation_goal": text, **legacy}

    def form(self, number: int) -> str:
        """Return what submits have in common that ask for the same: path and members."""
        path, body = self.request(number)
        return " ".join([path, *sorted(body)])

    def labels(self, number: int) -> dict[str, str]:
        """Return the labels of a submit."""
        return {"parity": "odd" if number % 2 else "even", "number": str(number)}

    def _client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"x-api-key": self.key}, trust_env=False, timeout=90)

    def _submit(self, number: int, half: threading.Event) -> str:
        """Submit as an app should: with the same Idempotency-Key until there is an answer.

        One that was killed before anything was sent has its answer once it is certain that there is no run.
        """
        path, body = self.request(number)
        headers = {"idempotency-key": f"loop-{number}"}
        headers["x-runhook-labels"] = ",".join(f"{name}={value}" for name, value in self.labels(number).items())
        began = time.monotonic()
        said: Counter[str] = Counter()
        with self._client() as client:
            while True:
                try:
                    answer = client.post(path, json=body, headers=headers)
                    said[str(answer.status_code)] += 1
                    if answer.status_code == 200 and "json" in answer.headers.get("content-type", ""):
                        break
                    if answer.status_code not in (200, 409, 429, 500, 502, 503, 504):
                        raise AssertionError(f"{path} answered {answer.status_code}: {answer.text[:300]}")
                except httpx2.HTTPError as error:
                    said[type(error).__name__] += 1
                if time.monotonic() > began + PATIENCE:
                    raise AssertionError(f"{path} was not answered")
                time.sleep(0.2)
        found = answer.json()
        seconds = time.monotonic() - began
        with self._lock:
            if seconds > SLOW:
                self.slow.append(f"{path} {number}{self.markers(number)}: {seconds:.0f} s, {dict(said)}")
            self.submitted[number] = found.get("run_id") or found["task_id"]
            self.tokens[number] = answer.headers["x-runhook-submission-id"]
            if len(self.submitted) >= self.count // 2:
                half.set()
        return self.submitted[number]

    def _ask(self, number: int, run_id: str) -> None:
        manner = MANNERS[number % len(MANNERS)]
        with self._lock:
            self.asked[manner] += 1
        if manner == "never":
            return
        deadline = time.monotonic() + 60
        query = {"with ?wait=": "?wait=20", "of Skyvern itself": "?from=skyvern"}.get(manner, "")
        looks = 0
        with self._client() as client:
            while time.monotonic() < deadline:
                looks += 1
                with suppress(httpx2.HTTPError, ValueError):
                    answer = client.get(f"/v1/runs/{run_id}{query}")
                    if answer.status_code == 200 and answer.json().get("status") in FINAL:
                        return
                time.sleep(3.0 if manner == "before and after" else 0.4)


def start_outside(world_url: str, callers: Callers, count: int, callback: str) -> dict[str, str]:
    """Start `count` runs past us, in the ways in which an account has them. Returns run id → how it was started."""
    started: dict[str, str] = {}
    faults = {fault: ratio for fault, ratio in callers.faults.items() if fault not in OF_CALLS | {Fault.DROP}}
    with httpx2.Client(base_url=world_url, trust_env=False, timeout=30) as client:
        agents = {"wpid_here": callback, "wpid_nowhere": None}
        for workflow_id, url in agents.items():
            body = {"workflow_id": workflow_id, "title": workflow_id, "webhook_callback_url": url}
            client.post("/_sim/agents", json=body).raise_for_status()
        for number in range(count):
            text = "outside" + "".join(f" [{fault}]" for fault in sorted(drawn(faults, callers.seed, -1 - number)))
            asked = {"title": text, "parameters": {"region": "north"}}
            manner = ("agent's URL", "no URL", "own URL", "scheduled, no URL", "task, no URL")[number % 5]
            fields: dict[str, Any] = {"workflow_id": "wpid_nowhere", **asked}
            if manner == "agent's URL":
                fields["workflow_id"] = "wpid_here"
            elif manner == "own URL":
                fields["webhook_url"] = callback
            elif manner == "scheduled, no URL":
                fields["trigger"] = "scheduled"
            elif manner == "task, no URL":
                fields = {"prompt": text, "engine": "skyvern-2.0" if number % 2 else "skyvern-1.0"}
            answer = client.post("/_sim/start", json=fields)
            answer.raise_for_status()
            started[answer.json()["run_id"]] = manner
    return started


def press_test_button(world_url: str, key: str, callback: str, times: int) -> list[int]:
    """Press Skyvern's Test button. Returns the receiver's answers."""
    answers = []
    with httpx2.Client(base_url=world_url, headers={"x-api-key": key}, trust_env=False, timeout=30) as client:
        for number in range(times):
            body = {"webhook_url": callback, "run_type": "task" if number % 2 else "workflow_run"}
            pressed = client.post("/v1/internal/test-webhook", json=body)
            answers.append(int(json.loads(pressed.content or b"{}").get("status_code") or 0))
    return answers
