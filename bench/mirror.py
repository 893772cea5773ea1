"""Measure the sink `s3` against a real SeaweedFS on this machine.

    python -m bench.mirror large [--size-mb 1024] [--rounds 3]
        one recording from a local HTTP server into the bucket, in turns with boto3's own upload_file of the same file
        to the same server: throughput, and by how much the process's memory grew at the most
    python -m bench.mirror small [--runs 1000] [--latency-ms 20] [--s3-latency-ms 10]
        runs of 5 small files each: the sink as a worker uses it (8 deliveries at once) against a sequential loop; with
        a network's waits for the files and for the bucket, for the files alone, and with none, where only the
        processors of this machine are measured, which the server shares: the processor time of a run is
        printed for each side too, since it stays the same when other work slows everything down

Everything it starts it ends, and everything it writes is in a temporary folder (give --dir for a disk with room: the
large one takes about 2.5 times the size for each round).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import httpx2

from handlers.contract import Delivery
from handlers.s3 import S3Sink
from handlers.testing.conformance import NoServices, make_delivery, sample_run
from receiver.runtime.parent_death import die_with_parent
from tests.servers.seaweedfs import S3Server

MB = 1024 * 1024
FILES = 5
CONCURRENCY = 8


class Services(NoServices):
    def sources(self) -> Sequence[str]:
        """Return (): nobody posts."""
        return ()

    def allowed_addresses(self) -> Sequence[str]:
        return ["127.0.0.1"]


def sink_for(server: S3Server, bucket: str) -> S3Sink:
    options = {
        "bucket": bucket,
        "endpoint_url": server.endpoint,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
    }
    return S3Sink("bench", S3Sink.Options.model_validate(options), Services())


def serve_file(path: str, ready: Any, parent: int) -> None:
    """Start a process that sends one file to every client."""
    die_with_parent(parent)
    with socket.create_server(("127.0.0.1", 0)) as server, Path(path).open("rb") as file:
        ready.put(server.getsockname()[1])
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                size = os.fstat(file.fileno()).st_size
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % size)
                file.seek(0)
                connection.sendfile(file)


def serve_small(size: int, latency: float, ready: Any, parent: int) -> None:
    """Start a process that answers each path with its own `size` bytes, `latency` seconds after the request."""
    die_with_parent(parent)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if latency:
                    await asyncio.sleep(latency)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body_of(head.split()[1], size))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        ready.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def delay(port: int, latency: float, ready: Any, parent: int) -> None:
    """Start a process that forwards connections to `port`, each piece of a request `latency` seconds late."""
    die_with_parent(parent)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: float) -> None:
        loop, due = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

        async def write() -> None:
            while (piece := await due.get())[1]:
                await asyncio.sleep(piece[0] - loop.time())
                writer.write(piece[1])
                await writer.drain()
            writer.close()

        writing = asyncio.create_task(write())
        try:
            while data := await reader.read(1 << 18):
                due.put_nowait((loop.time() + late, data))
        finally:
            due.put_nowait((0.0, b""))
            await writing

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, back, latency), pump(there, writer, 0.0), return_exceptions=True)

    async def main() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=1024)
        ready.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def body_of(path: bytes, size: int) -> bytes:
    return (hashlib.sha256(path).digest() * (size // 32 + 1))[:size]


@contextmanager
def serving(target: Any, *arguments: Any) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    process = context.Process(target=target, args=(*arguments, ready, os.getpid()), daemon=True)
    process.start()
    try:
        yield ready.get(timeout=30)
    finally:
        process.kill()
        process.join()


def rss() -> int:
    """Return the resident memory of this process in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The most memory that this process had while the `with` ran, by the kernel's own high-water mark."""

    def __enter__(self) -> Self:
        Path("/proc/self/clear_refs").write_text("5")
        self.before = rss()
        return self

    def __exit__(self, *error: object) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        self.most = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    @property
    def growth(self) -> float:
        return (self.most - self.before) / MB


class Processors:
    """Milliseconds of processor that one of `runs` took while the `with` ran: here, and in the process `server`."""

    def __init__(self, server: int, runs: int) -> None:
        self._server = server
        self._runs = runs

    def __enter__(self) -> Self:
        self._before = self._used()
        return self

    def __exit__(self, *error: object) -> None:
        pairs = zip(self._used(), self._before, strict=True)
        self.here, self.there = ((now - then) / self._runs * 1000 for now, then in pairs)

    def __str__(self) -> str:
        return f"{self.here:.1f} ms + {self.there:.1f} ms in the server"

    def _used(self) -> tuple[float, float]:
        fields = Path(f"/proc/{self._server}/stat").read_text().rpartition(")")[2].split()
        return time.process_time(), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def large(folder: Path, size_mb: int, rounds: int) -> None:
    blob = folder / "recording.webm"
    digest = hashlib.sha256()
    with blob.open("wb") as file:
        for _ in range(size_mb):
            block = os.urandom(MB)
            digest.update(block)
            file.write(block)
    server = S3Server(folder / "s3", volume_size_mb=1024).start()
    try:
        bucket = server.new_bucket()
        sink = sink_for(server, bucket)
        sink.send(make_delivery())
        client = server.new_client(max_pool_connections=20)
        client.upload_file(__file__, bucket, "warm")
        ours, theirs, growth = [], [], []
        with serving(serve_file, str(blob)) as port:
            for number in range(rounds):
                began = time.perf_counter()
                client.upload_file(str(blob), bucket, f"upload-{number}")
                theirs.append(size_mb / (time.perf_counter() - began))
                client.delete_object(Bucket=bucket, Key=f"upload-{number}")
                run = sample_run(
                    downloaded_files=[
                        {
                            "url": f"http://127.0.0.1:{port}/recording.webm",
                            "filename": "recording.webm",
                            "checksum": digest.hexdigest(),
                            "file_size": size_mb * MB,
                        }
                    ]
                )
                delivery = make_delivery(run)
                with Peak() as peak:
                    began = time.perf_counter()
                    receipt = sink.send(delivery)
                    ours.append(size_mb / (time.perf_counter() - began))
                growth.append(peak.growth)
                key = next(key for key in receipt.keys if key.endswith(".webm"))
                client.delete_object(Bucket=bucket, Key=key.removeprefix(f"s3://{bucket}/"))
                print(
                    f"round {number + 1}: upload_file {theirs[-1]:.0f} MB/s, mirror {ours[-1]:.0f} MB/s "
                    f"({ours[-1] / theirs[-1]:.2f}), memory grew by {growth[-1]:.1f} MiB at the most",
                    flush=True,
                )
        sink.close()
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(f"median: {ratio:.2f} of upload_file (wanted: 0.8); growth at the most {max(growth):.1f} MiB (64)")
    finally:
        server.kill()


def sequential(client: Any, bucket: str, delivery: Delivery) -> None:
    """Do what a plain script does: download and check one file after the other, then write a list of them."""
    folder = f"loop/{delivery.run_id}/"
    client.put_object(Bucket=bucket, Key=folder + "run.json", Body=delivery.body, ContentType="application/json")
    done = []
    for entry in delivery.run["downloaded_files"]:
        body = HTTP.get(entry["url"]).raise_for_status().content
        assert hashlib.sha256(body).hexdigest() == entry["checksum"]
        client.put_object(Bucket=bucket, Key=folder + entry["filename"], Body=body, ContentType="application/pdf")
        done.append({"name": entry["filename"], "sha256": entry["checksum"]})
    client.put_object(Bucket=bucket, Key=folder + "manifest.json", Body=json.dumps(done).encode())


HTTP = httpx2.Client(trust_env=False)


def small(folder: Path, runs: int, latency_ms: float, s3_latency_ms: float, size: int) -> None:
    server = S3Server(folder / "s3", volume_size_mb=1024).start()
    try:
        bucket, direct = server.new_bucket(), server.ports["s3.port"]
        for files, s3 in dict.fromkeys(((latency_ms, s3_latency_ms), (latency_ms, 0.0), (0.0, 0.0))):
            with serving(serve_small, size, files / 1000) as port, serving(delay, direct, s3 / 1000) as late:
                server.ports["s3.port"] = late if s3 else direct
                print(f"files after {files:g} ms, bucket {s3:g} ms late: ", end="")
                compare(server, bucket, port, runs, size)
                server.ports["s3.port"] = direct
    finally:
        server.kill()


def compare(server: S3Server, bucket: str, port: int, runs: int, size: int) -> None:
    deliveries = [small_run(port, size) for _ in range(runs)]
    few = deliveries[: max(20, runs // 5)]
    sink, client = sink_for(server, bucket), server.new_client()
    for _ in range(3):
        sink.send(small_run(port, size))
        sequential(client, bucket, small_run(port, size))
    pid = server.pid
    with Processors(pid, len(few)) as by_loop:
        before = measure(lambda: [sequential(client, bucket, one) for one in few])
    with ThreadPoolExecutor(CONCURRENCY) as pool, Peak() as peak, Processors(pid, runs) as by_mirror:
        took = measure(lambda: list(pool.map(sink.send, deliveries)))
    alone = measure(lambda: [sink.send(replace(one, event_id="evt_b" + one.event_id[5:])) for one in few])
    sink.close()
    loop, mirror = len(few) / before, runs / took
    print(
        f"loop {loop:.1f} runs/s, mirror {mirror:.1f} runs/s "
        f"({mirror / loop:.1f} times; one delivery at a time {len(few) / alone / loop:.1f}), "
        f"{runs} runs of {FILES} files of {size:,} bytes, memory +{peak.growth:.0f} MiB; "
        f"processor for a run: loop {by_loop}, mirror {by_mirror}",
        flush=True,
    )


def measure(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def small_run(port: int, size: int) -> Delivery:
    run = sample_run()
    names = [f"/{run['run_id']}/{number}.pdf" for number in range(FILES)]
    run["downloaded_files"] = [
        {
            "url": f"http://127.0.0.1:{port}{name}",
            "filename": name[-5:],
            "checksum": hashlib.sha256(body_of(name.encode(), size)).hexdigest(),
            "file_size": size,
        }
        for name in names
    ]
    return make_delivery(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["large", "small"])
    parser.add_argument("--dir", help="where to put the temporary folder")
    parser.add_argument("--size-mb", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--s3-latency-ms", type=float, default=10.0)
    parser.add_argument("--file-bytes", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-mirror-", dir=arguments.dir) as folder:
        if arguments.what == "large":
            large(Path(folder), arguments.size_mb, arguments.rounds)
        else:
            small(Path(folder), arguments.runs, arguments.latency_ms, arguments.s3_latency_ms, arguments.file_bytes)


if __name__ == "__main__":
    main()
