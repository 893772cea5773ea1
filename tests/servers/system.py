"""The whole of it as its users see it: `runhook serve`, `worker` and `clock` on a config with all kinds of sinks.

`surroundings(directory, s3)` gives everything around them, and a System that starts and stops them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2

from receiver.domain.signature import HEADER, sign
from receiver.ledger import Ledger, LedgerUnavailable
from simulator import samples
from tests.servers import warm_python
from tests.servers.artifacts import ArtifactServer, Page
from tests.servers.http import ScriptedServer
from tests.servers.seaweedfs import S3Server
from tests.servers.slack import FakeSlack
from tests.servers.valkey import free_port
from tests.support import queries
from tests.support.command import call_command, run_command
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE, eventually

KEY = "the-api-key-that-skyvern-signs-with"
BILLING_SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSBiaWxsaW5nIHNlcnZpY2U="
CONFIG = """\
sources:
  skyvern: {secrets: ["${SKYVERN_API_KEY}"]}
sinks:
  results: {type: database, url: "${RESULTS_URL:-sqlite:///var/results.db}", table: skyvern_runs}
  archive: {type: files, path: var/archive}
  mirror:  {type: s3, bucket: "${MIRROR_BUCKET:-my-runs}", prefix: "{{ run.run_type }}/{{ run.run_id }}/",
            endpoint_url: "${S3_ENDPOINT_URL:-}"}
  ops:     {type: slack, webhook_url: "${SLACK_WEBHOOK_URL}", retry: {first: 200ms}}
  billing: {type: http, url: "${BILLING_URL}", secret: "${BILLING_SECRET}", retry: {first: 200ms}}
routes:
  - {name: everything, to: [results, archive, mirror]}
  - {name: failures, when: {status: [failed, timed_out, terminated]}, to: [ops]}
  - {name: big invoices, when: 'run.status == "completed" && run.output.total > 1000.0', to: [billing]}
allowed_addresses: [127.0.0.1]
"""
SEPARATOR = "--to--"


class SampleArtifacts(ArtifactServer):
    """Serves the files of every sample run, as Skyvern's API does."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = _SamplePages()


class _SamplePages(dict[str, Any]):
    def get(self, path: str, default: Any = None) -> Any:
        parts = path.split("/")
        if SEPARATOR in path:
            return Page(status=302, headers={"location": f"http://{parts[3].partition(SEPARATOR)[2]}/"})
        found = samples.artifact(parts[3]) if path.startswith("/v1/artifacts/") and len(parts) > 3 else None
        return Page(found[1], headers={"content-type": found[0]}) if found else default


@dataclass
class System:
    """The three processes, and what is around them."""

    directory: Path
    environ: dict[str, str]
    slack: FakeSlack
    billing: ScriptedServer
    artifacts: SampleArtifacts
    s3: S3Server
    port: int
    processes: dict[str, warm_python.Process] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bucket(self) -> str:
        return self.environ["MIRROR_BUCKET"]

    @property
    def log(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in self.directory.glob("*.log"))

    def start(self, *parts: str) -> None:
        for part in parts:
            options = ["--port", str(self.port)] if part in ("serve", "dev") else []
            line = ["-m", "receiver.cli", part, *options]
            log = self.directory / f"{part}.log"
            self.processes[part] = warm_python.start(line, log, env=self.environ, cwd=self.directory)
        self.until(self.ready, "the receiver is ready")
        if "worker" in parts:
            self.until(self.has_tables, "the worker has made the tables")

    def ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx2.HTTPError:
            return False

    def has_tables(self) -> bool:
        try:
            return self.deliveries() is not None
        except LedgerUnavailable:
            return False

    def stop(self) -> dict[str, int]:
        """SIGTERM to all; their exit codes."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        try:
            return {name: process.wait(PATIENCE) for name, process in self.processes.items()}
        finally:
            for process in self.processes.values():
                process.kill()
                process.wait()

    def until(self, condition: Callable[[], Any], what: str, seen: Callable[[], Any] = lambda: "") -> None:
        def ended() -> dict[str, int]:
            return {name: code for name, each in self.processes.items() if (code := each.poll()) is not None}

        eventually(lambda: ended() or condition(), what=lambda: f"{what}\n{seen()}\n{self.log}")
        assert not ended(), f"{ended()}\n{self.log}"

    def runhook(self, *arguments: str, code: int = 0) -> str:
        """`runhook …` as a user types it; its output. Fails when it ends otherwise than with `code`."""
        done = call_command(*arguments, environ=self.environ, directory=self.directory)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        said = done.stdout + done.stderr
        assert KEY not in said
        return said

    def json(self, *arguments: str) -> Any:
        """What `runhook … --json` prints: in this process, for one of its own takes most of its time to start."""
        with contextlib.chdir(self.directory):
            said = run_command(*arguments, "--json", environ=self.environ)
        assert KEY not in said
        return json.loads(said)

    def trigger(self, *what: str) -> list[dict[str, Any]]:
        """Send samples with files; what was answered to each."""
        sent: list[dict[str, Any]] = self.json("trigger", *what, "--url", self.url, "--artifacts", self.artifacts.url)
        assert {each["status"] for each in sent} == {202}
        return sent

    @cached_property
    def ledger(self) -> Ledger:
        """For queries, without the half second that a command takes."""
        return Ledger(self.environ.get("DATABASE_URL") or f"sqlite:///{self.directory / 'var' / 'ledger.db'}")

    def post(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """A signed webhook with this body; the answer."""
        answer = httpx2.post(
            f"{self.url}/webhooks/skyvern", content=body, headers={HEADER: sign(body, KEY)}, timeout=20
        )
        return answer.status_code, answer.json()

    def deliveries(self, **wanted: Any) -> list[dict[str, Any]]:
        """The deliveries that a filter finds."""
        return self.ledger.read(lambda connection: queries.list_deliveries(connection, _filter(wanted)))

    def events(self, **wanted: Any) -> dict[str, dict[str, Any]]:
        """The events that a filter finds, by id."""
        found = self.ledger.read(lambda connection: queries.list_events(connection, _filter(wanted)))
        return {each["id"]: each for each in found}

    def delivered(self, *, count: int, **wanted: Any) -> list[dict[str, Any]]:
        """The deliveries that a filter finds, as soon as there are `count` and all of them are delivered."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = self.deliveries(**wanted)
            return len(found) == count and all(each["state"] == "delivered" for each in found)

        self.until(there, f"{count} deliveries of {wanted} are delivered", lambda: open_ones(found))
        return found

    def objects(self) -> dict[str, bytes]:
        """All that is in the bucket, by key."""
        pages = self.s3.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        with ThreadPoolExecutor(8) as pool:
            bodies = pool.map(lambda key: self.s3.client.get_object(Bucket=self.bucket, Key=key)["Body"].read(), keys)
            return dict(zip(keys, bodies, strict=True))

    def files(self) -> dict[str, bytes]:
        """All that is in the archive, by path."""
        root = self.directory / "var" / "archive"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@contextlib.contextmanager
def surroundings(directory: Path, s3: S3Server, **environ: str) -> Iterator[System]:
    """Everything but our own processes; these are stopped at the end."""
    (directory / "config").mkdir()
    (directory / "config" / "runhook.yaml").write_text(CONFIG)
    bucket = s3.new_bucket()
    slack = FakeSlack()
    with ScriptedServer() as billing, SampleArtifacts() as artifacts:
        inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        variables = {
            **inherited,
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            "SKYVERN_API_KEY": KEY,
            "MIRROR_BUCKET": bucket,
            "S3_ENDPOINT_URL": s3.endpoint,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AWS_REGION": s3.region,
            "SLACK_WEBHOOK_URL": slack.webhook_url,
            "BILLING_URL": f"{billing.url}/hooks",
            "BILLING_SECRET": BILLING_SECRET,
            **environ,
        }
        system = System(directory, variables, slack, billing, artifacts, s3, free_port())
        try:
            yield system
        finally:
            for process in system.processes.values():
                process.kill()
                process.wait()
            system.ledger.close()
            slack.close()
            s3.delete_bucket(bucket)


def _filter(wanted: Mapping[str, Any]) -> queries.Filter:
    return queries.Filter(**wanted)


def open_ones(found: Iterable[Mapping[str, Any]]) -> list[str]:
    return [
        f"{each['sink']} {each['state']} {each['attempts']} {each['reason']}"
        for each in found
        if each["state"] != "delivered"
    ]
