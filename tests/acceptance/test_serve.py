"""`runhook serve` as a process: how it starts, how it ends, and what it says when it can't start."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from receiver.domain.signature import HEADER, sign
from tests.servers.deployment import Deployment
from tests.servers.receiver import SECRET, Load, ReceiverProcess, body
from tests.servers.valkey import ValkeyProcess, free_port
from tests.support.inbox import all_arrive, ids_in_inbox, ids_in_spool
from tests.support.waiting import PATIENCE, Stopwatch, eventually

Receivers = Callable[..., ReceiverProcess]
Valkeys = Callable[..., ValkeyProcess]


def one_line(receiver: ReceiverProcess, code: int) -> str:
    """What `runhook serve` says before it gives up."""
    done = receiver.command("serve", "--port", str(receiver.port))
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("runhook: ")
    return line


# --- The end


def test_sigterm_answers_what_it_has_accepted_and_exits_0(valkey_factory: Valkeys, receiver_factory: Receivers) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url)
    with Load(receiver) as load:
        load.more(100)
        assert receiver.stop() == 0
    assert load.statuses == []
    # (what a busy machine made Redis too slow for is in the spool)
    assert set(load.acked) <= {*ids_in_inbox(server), *ids_in_spool(receiver)}
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{receiver.url}/healthz")


def test_sigterm_finishes_a_request_whose_body_is_still_coming(
    receiver_factory: Receivers, valkey_factory: Valkeys
) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url)
    content = body(1).ljust(50_000)
    lines = ["POST /webhooks/skyvern HTTP/1.1", "Host: x", f"Content-Length: {len(content)}"]
    head = "\r\n".join([*lines, f"{HEADER}: {sign(content, SECRET)}", "", ""]).encode()
    with socket.create_connection(("127.0.0.1", receiver.port), 10) as connection:
        connection.sendall(head + content[:10])
        receiver.acked(body(2))
        assert receiver.process is not None
        receiver.process.terminate()
        eventually(lambda: refuses(receiver))
        connection.sendall(content[10:])
        connection.settimeout(PATIENCE)
        assert connection.recv(1000).startswith(b"HTTP/1.1 202")
    assert receiver.process.wait(120) == 0
    assert len({*ids_in_inbox(server), *ids_in_spool(receiver)}) == 2


def refuses(receiver: ReceiverProcess) -> bool:
    try:
        socket.create_connection(("127.0.0.1", receiver.port), 60).close()
    except ConnectionError:
        return True
    return False


def test_a_client_that_never_ends_does_not_hold_up_the_stop(
    valkey_factory: Valkeys, receiver_factory: Receivers
) -> None:
    receiver = receiver_factory(valkey_factory().url)
    with socket.create_connection(("127.0.0.1", receiver.port), 10) as connection:
        connection.sendall(b"POST /webhooks/skyvern HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        receiver.acked(body(1))
        watch = Stopwatch()
        assert receiver.stop() == 0
        watch.at_most(10)


def test_sigterm_while_redis_hangs_loses_nothing(valkey_factory: Valkeys, receiver_factory: Receivers) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url)
    with Load(receiver) as load:
        load.more(20)
        server.hang()
        load.more(20)
        assert receiver.stop() == 0
    assert load.statuses == []
    server.resume()
    in_spool = ids_in_spool(receiver)
    assert set(load.acked) <= set(ids_in_inbox(server)) | set(in_spool)
    assert in_spool


# --- The start


def test_summary_names_the_address_and_the_promise(receiver_factory: Receivers, redis_url: str) -> None:
    receiver = receiver_factory(redis_url)
    assert f"runhook: listening on {receiver.url}\n" in receiver.log
    assert "runhook: on disk before 202: yes\n" in receiver.log
    assert SECRET not in receiver.log


def test_trigger_finds_the_local_receiver_and_prints_its_url(receiver_factory: Receivers, redis_url: str) -> None:
    receiver = receiver_factory(redis_url, sources={"skyvern": {"secrets": [SECRET]}})
    posted = f"by {receiver.url}/webhooks/skyvern\n"
    eventually(lambda: receiver.call("trigger").stdout.endswith(f"1 of 1 accepted {posted}"))
    assert receiver.call("trigger", "--secret", "another-secret").stdout.endswith(f"0 of 1 accepted {posted}")


def test_without_redis_it_starts_and_says_where_events_go(receiver_factory: Receivers) -> None:
    receiver = receiver_factory(f"redis://127.0.0.1:{free_port()}/0")
    assert "runhook: on disk before 202: yes, in the spool (Redis is down)\n" in receiver.log
    receiver.acked(body(1))


def test_receiver_without_redis_and_disk_space_responds_503(receiver_factory: Receivers) -> None:
    # Given a receiver that has no Redis, and no free space that it may use
    receiver = receiver_factory(f"redis://127.0.0.1:{free_port()}/0", spool={"reserve_bytes": "900TiB"})
    # Then it says so, in its summary and when it tells that Redis is away
    eventually(lambda: "Redis is down, and free disk space is under spool.reserve_bytes" in receiver.log)
    eventually(lambda: "ingest.redis_away" in receiver.log)
    assert "webhooks get 503" in receiver.log
    assert "in the spool" not in receiver.log
    assert "events go to the spool" not in receiver.log
    eventually(lambda: receiver.post(body(1)).status_code == 503)


def test_a_busy_port_is_one_line(receiver_factory: Receivers, redis_url: str) -> None:
    receiver = receiver_factory(redis_url, start=False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", receiver.port))
        other.listen()
        line = one_line(receiver, 3)
    assert line.endswith(f"can't listen on 127.0.0.1:{receiver.port}: the port is in use; choose another with --port")


def test_a_data_directory_that_cannot_be_used_is_one_line(
    receiver_factory: Receivers, redis_url: str, tmp_path: Path
) -> None:
    receiver = receiver_factory(redis_url, start=False)
    receiver.data.write_text("a file")
    line = one_line(receiver, 3)
    assert "can't use the spool" in line
    assert "RUNHOOK_DATA" in line


def test_error_while_serving_is_one_line(deployment: Callable[..., Deployment], redis_url: str) -> None:
    receiver = deployment(redis_url)
    receiver.more = {"DATABASE_URL": "postgresql://u:sekret@127.0.0.1:1/db?sslmod=require"}
    done = receiver.command("serve", "--port", str(receiver.port))
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith('runhook: DATABASE_URL: invalid connection option "sslmod"')
    assert "Traceback" not in done.stderr


def test_receiver_without_a_ledger_accepts_webhooks(deployment: Callable[..., ReceiverProcess], redis_url: str) -> None:
    receiver = deployment(redis_url, f"postgresql://u:sekret@127.0.0.1:{free_port()}/db?sslpassword=sekret")
    receiver.start()
    assert receiver.post(body()).status_code == 202
    eventually(lambda: "WARNING: the ledger" in receiver.log)
    (line,) = [line for line in receiver.log.splitlines() if "WARNING: the ledger" in line]
    assert "start it, or correct DATABASE_URL. Webhooks are stored; the submit API responds 503" in line
    assert "sekret" not in receiver.log
    assert "Traceback" not in receiver.log


def test_receiver_drains_the_spool_of_a_killed_one(valkey_factory: Valkeys, receiver_factory: Receivers) -> None:
    port = free_port()
    first = receiver_factory(f"redis://127.0.0.1:{port}/0")
    second = receiver_factory(f"redis://127.0.0.1:{port}/0", start=False)
    second.data = first.data
    second.start()
    acked = first.acked(*(body(number) for number in range(10)))
    acked += second.acked(*(body(number) for number in range(10, 20)))
    first.kill()
    server = valkey_factory(port)
    all_arrive(server, acked)
    assert set(ids_in_inbox(server)) == set(acked)


def test_a_missing_config_is_one_line(receiver_factory: Receivers, redis_url: str) -> None:
    receiver = receiver_factory(redis_url, start=False)
    receiver.config.unlink()
    assert str(receiver.config) in one_line(receiver, 2)
