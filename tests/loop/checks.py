"""The checks at the end of the loop: what each sink, table, folder and caller has, against the truth about each run."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from receiver.domain.run import FINAL
from receiver.domain.signature import verify
from simulator import bodies
from simulator.faults import Fault
from simulator.world import World
from tests.loop.truth import Expected, differences, whole_files
from tests.servers.http import Request

# Columns of the bodies that GET answers with whose value differs from call to call, or hangs on the road.
_MOVING = frozenset({"modified_at", "recording_url", "screenshot_urls", "downloaded_files"})
_TANGLED = frozenset({Fault.TANGLED})
_RUN_ID = re.compile(r"(?:tsk_v2|tsk|wr)_(?:sample_)?\d{6,}")


@dataclass
class Check:
    """One line of the loop's table: what was compared, for how many runs, and each violation."""

    name: str
    compared: int
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{'ok ' if not self.wrong else 'BAD'}  {self.name:<44} {self.compared:>6} {len(self.wrong):>6}"


def at_sink(name: str, expected: Iterable[Expected], got: Sequence[str], keys: Sequence[str]) -> Check:
    """Compare the runs whose results a sink was told (`got`, one entry a message) with those that it must know of.

    `keys`: the idempotency keys of the messages, of which none may come twice.
    """
    told = Counter(got)
    wrong = [f"delivery {key} came {count} times" for key, count in Counter(keys).items() if count > 1]
    wanted = {each.run.id: each for each in expected if name in each.sinks}
    for run_id, each in wanted.items():
        count = told.pop(run_id, 0)
        if not 1 <= count <= each.copies:
            wrong.append(f"{each}: {count} messages")
    wrong += [f"{run_id}: {count} messages, which are not for it" for run_id, count in told.items()]
    return Check(f"sink {name}: each result once", len(wanted), wrong)


def rows(expected: Sequence[Expected], path: Path) -> list[Check]:
    """Compare the table of the database sink: one row a run, and each column with what its webhook alone would give."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        table = [dict(row) for row in connection.execute("SELECT * FROM runs")]
    by_run = {row["run_id"]: row for row in table}
    known = {each.run.id: each for each in expected}
    wrong = [f"{each}: no row" for run_id, each in known.items() if run_id not in by_run]
    wrong += [f"{run_id}: a row of no run" for run_id in by_run if run_id not in known]
    wrong += [f"{len(table) - len(by_run)} rows too many"] if len(table) != len(by_run) else []
    found = differences(expected, by_run)
    columns = [f"{name}: {each}" for name, several in sorted(found.items()) for each in several]
    return [
        Check("table: one row a run", len(known), wrong),
        Check("table: the webhook's columns", len(by_run), columns),
    ]


def files(expected: Sequence[Expected], root: Path) -> Check:
    """Compare the folder of the files sink: each file of a run whole, as its artifact is, and stored once."""
    wrong: list[str] = []
    for each in expected:
        folder = root / each.run.type / each.run.id
        kept = Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in _artifacts(folder))
        for artifact_id, content in whole_files(each.run).items():
            count = kept.pop(hashlib.sha256(content).hexdigest(), 0)
            if count != 1:
                kind = _kind(each, artifact_id)
                wrong.append(f"{each}: {kind} is there {count} times")
        if listed := _unwhole(folder, each):
            wrong.append(f"{each}: the newest manifest has {listed}")
    return Check("files: whole, and once", len(expected), wrong)


def _artifacts(folder: Path) -> list[Path]:
    documents = {"run.json", "manifest.json", "latest.json"}
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in documents]


def _unwhole(folder: Path, each: Expected) -> str:
    """Return which files the newest manifest lacks, or has other bytes of; "" when all is as it should be."""
    try:
        latest = json.loads((folder / "latest.json").read_bytes())
        manifest = json.loads((folder / latest["manifest"]).read_bytes())
    except (OSError, ValueError, KeyError):
        return "no manifest"
    sums = {file.get("sha256") for file in manifest["files"]}
    missing = [
        _kind(each, artifact_id)
        for artifact_id, content in whole_files(each.run).items()
        if hashlib.sha256(content).hexdigest() not in sums
    ]
    return "no whole " + ", ".join(sorted(missing)) if missing else ""


def _kind(each: Expected, artifact_id: str) -> str:
    return next(stored.type for stored in each.run.artifacts if stored.id == artifact_id)


def callers(expected: Iterable[Expected], requests: Sequence[Request], key: str) -> Check:
    """Compare the callers' own webhooks: each final result once, signed with the caller's key, our URL in none."""
    wrong: list[str] = []
    final: Counter[str] = Counter()
    for request in requests:
        if run_of(request).endswith("no run"):
            wrong.append(run_of(request))
            continue
        body = json.loads(request.body)
        if not verify(request.body, request.headers["x-skyvern-signature"], [key]):
            wrong.append(f"{body['run_id']}: a webhook with an invalid signature")
        if b"/webhooks/skyvern/" in request.body:
            wrong.append(f"{body['run_id']}: our own callback URL in a body")
        if body["status"] not in FINAL:
            wrong.append(f"{body['run_id']}: a webhook that says {body['status']}, which Skyvern sends none of")
        elif not body.get("retry_pending"):
            final[f"{body['run_id']} at {request.path}"] += 1
    wanted = [each for each in expected if each.caller_url]
    for each in wanted:
        count = final.pop(f"{each.run.id} at /{(each.caller_url or '').split('/', 3)[3]}", 0)
        if not 1 <= count <= each.copies:
            wrong.append(f"{each}: {count} webhooks to its caller")
    wrong += [f"{what}: {count} webhooks, which are not for it" for what, count in final.items()]
    return Check("callers: each final webhook once", len(wanted), wrong)


def run_of(request: Request) -> str:
    """Return the id of the run that a message to a program is about, or what it is that came instead."""
    try:
        return str(json.loads(request.body)["run_id"])
    except (ValueError, KeyError, TypeError):
        kind = request.headers.get("content-type", "no type")
        return f"{request.method} with {len(request.body)} bytes of {kind}, no run"


def arrived(requests: Sequence[Request]) -> list[Request]:
    """Return the requests that came whole: of a large one on a busy machine the sender may give up in the middle."""
    return [each for each in requests if len(each.body) == int(each.headers.get("content-length", 0))]


def leaks(requests: Mapping[str, Sequence[Request]], root: Path) -> Check:
    """Look for our callback URL, whose token is a secret, in what the sinks have."""
    found = {
        name: sum(b"/webhooks/skyvern/sub_" in each.body for each in several) for name, several in requests.items()
    }
    found["archive"] = sum(b"/webhooks/skyvern/sub_" in path.read_bytes() for path in root.rglob("*.json"))
    wrong = [f"{name}: {count} bodies hold our callback URL with its token" for name, count in found.items() if count]
    return Check("sinks: our callback URL in none", sum(map(len, requests.values())), wrong)


def answers(expected: Sequence[Expected], world: World, url: str, key: str) -> Check:
    """Compare what GET of a finished run answers with what Skyvern's own answer is, for every tenth submitted run."""
    wrong: list[str] = []
    chosen = [each for each in expected if each.labels][::10]
    headers = {"x-api-key": key}
    for each in chosen:
        answer = httpx2.get(f"{url}/v1/runs/{each.run.id}", headers=headers, trust_env=False, timeout=30)
        if answer.status_code != 200:
            wrong.append(f"{each.run.id}: GET is answered {answer.status_code}")
            continue
        said = answer.json()
        true = json.loads(json.dumps(bodies.answer(each.run, world.storage.link)))
        for body in (said, true):
            (body.get("run_request") or {}).pop("webhook_url", None)
        if said.get("ai_fallback") is None:  # a webhook says null, Skyvern's own answer the agent's setting
            true.pop("ai_fallback", None)
        if each.run.faults >= _TANGLED:  # told as what it is: completed, but for its webhook
            true.pop("status"), true.pop("failure_reason")
        differing = sorted(
            name for name in true if name not in _MOVING and _plain(said.get(name, "absent")) != _plain(true[name])
        )
        files_lacking = sorted(name for name in _MOVING - {"modified_at"} if bool(said.get(name)) != bool(true[name]))
        if differing or files_lacking:
            words = ", ".join([*differing, *files_lacking])
            wrong.append(f"{each}: {words}")
    return Check("GET: Skyvern's own answer (every tenth run)", len(chosen), wrong)


def _plain(value: Any) -> Any:
    """Return a value in a form in which times with and without a zone, and renewed URLs, are the same."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, str):
        return value.partition("?expiry=")[0].removesuffix("Z").removesuffix("+00:00")
    return value


def mentioned(text: str) -> str:
    """Return the id of the run that a message to people names, or ""."""
    found = _RUN_ID.search(text)
    return found[0] if found else ""
