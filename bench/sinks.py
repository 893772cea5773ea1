"""Full-speed work through all of Runhook: HTTP consumers, two sinks, S3, and submitted runs.

Timing ends with the last effect: a request that arrived, an object that is stored.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

from bench import load
from bench.consumer import FILE_SIZE, Consumer, file_content, new_consumer
from bench.figures import Figure, at_least
from bench.load import post_request, run, webhook, webhooks
from bench.rows import Rows
from bench.system import KEY, Runhook, Servers, new_servers, wait_until
from tests.servers.seaweedfs import S3Server

SLOTS: Final = 64
CONSUMER_SECONDS: Final = 0.02
FILES: Final = 5


def hook(consumer: Consumer) -> dict[str, Any]:
    """Return a sink `http` that sends one delivery per request, SLOTS at once."""
    return {"type": "http", "url": f"{consumer.url}/hook", "secret": "s" * 32, "concurrency": SLOTS}


def http_one_by_one(servers: Servers, count: int) -> Iterator[Figure]:
    """Yield deliveries per second to a consumer that takes 20 ms, on both databases."""
    for database in ("SQLite", "PostgreSQL"):
        with ExitStack() as stack:
            consumer = stack.enter_context(new_consumer(servers.folder, CONSUMER_SECONDS))
            ledger = servers.database() if database == "PostgreSQL" else ""
            runhook = stack.enter_context(Runhook(servers, {"hook": hook(consumer)}, ledger=ledger))
            load.post(runhook.port, webhooks(runhook.port, range(100)))
            consumer.wait_for(100)
            posted = load.post(runhook.port, webhooks(runhook.port, range(1000, 1000 + count)))
            stats = consumer.wait_for(100 + count)
            name = f"HTTP sink, one a request, 20 ms consumer, {SLOTS} slots, {database}"
            repeated = stats["requests"] - stats["deliveries"]
            note = f" deliveries/s; {stats['most']:.0f} open at once, {repeated:.0f} repeated"
            yield at_least(name, count / (stats["last"] - posted.began), 1200, "{:,.0f}", note)


def two_sinks(servers: Servers, count: int) -> Figure:
    """Return events per second, each sent to a table and to a consumer that takes 20 ms."""
    with ExitStack() as stack:
        consumer = stack.enter_context(new_consumer(servers.folder, CONSUMER_SECONDS))
        url = servers.database()
        table = {"type": "database", "url": url, "table": "results"}
        runhook = stack.enter_context(Runhook(servers, {"results": table, "hook": hook(consumer)}, ledger=url))
        load.post(runhook.port, webhooks(runhook.port, range(100)))
        consumer.wait_for(100)
        rows = stack.enter_context(Rows(url, 0.02))
        posted = load.post(runhook.port, webhooks(runhook.port, range(1000, 1000 + count)))
        rows.wait_for(posted.due)
        last = max(consumer.wait_for(100 + count)["last"], *(rows.at[run_id] for run_id in posted.due))
    return Figure("two sinks, a table and HTTP, PostgreSQL", f"{count / (last - posted.began):,.0f} events/s")


def mirror(servers: Servers, count: int) -> Figure:
    """Return mirrored runs per second to S3, each with FILES small files."""
    with ExitStack() as stack:
        server = S3Server(servers.folder / "s3").start()
        stack.callback(server.kill)
        consumer = stack.enter_context(new_consumer(servers.folder, CONSUMER_SECONDS))
        bucket = server.new_bucket()
        sink = {"type": "s3", "bucket": bucket, "endpoint_url": server.endpoint, "access_key_id": server.access_key}
        sink["secret_access_key"] = server.secret_key
        runhook = stack.enter_context(Runhook(servers, {"mirror": {**sink, "concurrency": 8}}))

        def stored() -> int:
            pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            keys = (each["Key"] for page in pages for each in page.get("Contents", ()))
            return sum(key.endswith("/manifest.json") for key in keys)

        def through(first: int, number: int) -> float:
            before = stored()
            bodies = [run(each, downloaded_files=files(consumer, each)) for each in range(first, first + number)]
            posted = load.post(runhook.port, [webhook(runhook.port, body) for body in bodies])
            wait_until(lambda: stored() >= before + number, runhook.log, 0.2)
            return time.monotonic() - posted.began

        through(0, 10)
        seconds = through(1000, count)
    name = f"S3 mirror: runs of {FILES} files of {FILE_SIZE // 1000} kB, 8 at once, files after 20 ms"
    return Figure(name, f"{count / seconds:,.1f} runs/s")


def files(consumer: Consumer, number: int) -> list[dict[str, Any]]:
    """Return the downloaded files of a run, as Skyvern lists them."""
    paths = [f"/files/{number}/{each}.pdf" for each in range(FILES)]
    return [
        {
            "url": consumer.url + path,
            "filename": path.rpartition("/")[2],
            "checksum": hashlib.sha256(file_content(path)).hexdigest(),
            "file_size": FILE_SIZE,
        }
        for path in paths
    ]


def submitted(servers: Servers, count: int) -> list[Figure]:
    """Return submits per second, and callbacks per second for finished runs."""
    with ExitStack() as stack:
        consumer = stack.enter_context(new_consumer(servers.folder, CONSUMER_SECONDS))
        runhook = stack.enter_context(
            Runhook(
                *(servers, {}),
                ledger=servers.database(),
                source={"api_base": consumer.url, "api_key": KEY},
                submit={"rate": "100000/s"},
                callbacks={"concurrency": SLOTS, "per_origin": SLOTS},
            )
        )
        headers = {"x-api-key": runhook.command("keys", "create", "bench")["key"]}
        asked = [
            {"prompt": f"Get order {number}", "webhook_url": f"{consumer.url}/done/{number}"} for number in range(count)
        ]
        requests = [
            load.Request(each["webhook_url"], post_request(runhook.port, "/v1/run/tasks", load.dumps(each), headers))
            for each in asked
        ]
        submits = load.post(runhook.port, requests, connections=16, status=200)
        ended = [
            webhook(runhook.port, {**run(0), "run_id": run_id}, "/" + callback.split("/", 3)[3])
            for run_id, callback in consumer.read("/callbacks").items()
        ]
        posted = load.post(runhook.port, ended)
        stats = consumer.wait_for(count)
    return [
        Figure("submits, recorded before the request to Skyvern, PostgreSQL", f"{submits.rate:,.0f}/s"),
        Figure(
            f"callbacks of submitted runs, 20 ms consumer, {SLOTS} at once",
            f"{count / (stats['last'] - posted.began):,.0f}/s",
        ),
    ]


def figures(*, tiny: bool = False) -> Iterator[Figure]:
    """Measure, and yield the figures."""
    with new_servers() as servers:
        yield from http_one_by_one(servers, 50 if tiny else 8000)
        yield two_sinks(servers, 50 if tiny else 8000)
        yield mirror(servers, 5 if tiny else 300)
        yield from submitted(servers, 20 if tiny else 2000)
