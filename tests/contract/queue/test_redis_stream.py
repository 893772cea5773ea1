"""The sink `queue` to a stream of a real Valkey."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis

from handlers.contract import Receipt, Unavailable
from handlers.queue import QueueSink
from handlers.testing.conformance import BODIES, SinkConformance, SinkUnderTest, closed_port, make_delivery, silent_port
from tests.servers.valkey import ValkeyProcess
from tests.support.sinks import SECRET, make_queue_sink


class TestRedisStream(SinkConformance):
    @pytest.fixture
    def target(self, redis_url: str) -> Iterator[SinkUnderTest]:
        client = redis.Redis.from_url(redis_url)
        options = {"to": "redis-stream", "stream": "runs"}
        with silent_port() as silent:
            away = {
                "nothing listens": {**options, "url": f"redis://:{SECRET}@127.0.0.1:{closed_port()}/0", "timeout": 1},
                "never answers": {**options, "url": f"redis://:{SECRET}@127.0.0.1:{silent}/0", "timeout": 0.4},
            }
            yield SinkUnderTest(
                QueueSink,
                {**options, "url": redis_url},
                lambda: client.xrange("runs"),
                idempotent=True,
                away=away,
                secrets=[SECRET],
            )
        client.close()


def test_stream_entry_holds_the_body_and_fields(redis_url: str) -> None:
    body = BODIES["NUL"]
    delivery = make_delivery(body=body)
    receipt = make_queue_sink(to="redis-stream", url=redis_url, stream="runs").send(delivery)
    client = redis.Redis.from_url(redis_url)
    ((entry, fields),) = client.xrange("runs")
    assert fields.pop(b"body") == body
    assert {name.decode(): value.decode() for name, value in fields.items()} == {
        "key": delivery.key, "event_id": delivery.event_id, "source": "skyvern", "run_id": delivery.run_id,
        "run_type": "task_v1", "outcome": "failed", "via": "webhook", "received_at": "2026-03-01T10:02:06.125000+00:00",
        "encoding": "whole",
    }  # fmt: skip
    assert receipt.to_dict() == {"id": entry.decode(), "keys": [f"runs/{entry.decode()}"]}
    client.close()


def test_a_storm_of_tries_adds_each_delivery_once(redis_url: str) -> None:
    deliveries = [make_delivery() for _ in range(40)]
    sinks = [make_queue_sink(to="redis-stream", url=redis_url, stream="runs") for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        tries = [(sink, delivery) for sink in sinks for delivery in deliveries]
        answers = list(pool.map(lambda one: (one[1].key, one[0].send(one[1]).id), tries))
    assert len(set(answers)) == 40, "every try of a delivery has the same receipt"
    with redis.Redis.from_url(redis_url) as client:
        assert client.xlen("runs") == 40
    for sink in sinks:
        sink.close()


def test_the_stream_keeps_about_as_many_as_wanted(redis_url: str) -> None:
    sink = make_queue_sink(to="redis-stream", url=redis_url, stream="runs", max_len=100)
    for _ in range(5):
        sink.send_many([make_delivery() for _ in range(100)])
    with redis.Redis.from_url(redis_url) as client:
        assert 100 <= client.xlen("runs") <= 250
    sink.close()


def test_a_marker_lives_as_long_as_it_was_told(redis_url: str) -> None:
    delivery = make_delivery()
    make_queue_sink(to="redis-stream", url=redis_url, stream="runs", once_for=60).send(delivery)
    with redis.Redis.from_url(redis_url) as client:
        assert 50 < client.ttl(f"{{runs}}:once:{delivery.key}") <= 60


def test_kill_9_of_redis_between_two_tries_adds_nothing_twice(valkey_factory: Callable[..., ValkeyProcess]) -> None:
    server = valkey_factory()
    sink = make_queue_sink(to="redis-stream", url=server.url, stream="runs")
    deliveries = [make_delivery() for _ in range(20)]
    first = sink.send_many(deliveries)
    server.restart()
    again = sink.send_many([replace(delivery, attempt=2) for delivery in deliveries])
    assert again == first
    assert all(isinstance(answer, Receipt) for answer in again)
    client = server.connect()
    assert client.xlen("runs") == 20
    client.close()
    sink.close()


def test_redis_says_no_in_many_ways_and_all_are_unavailable(valkey_factory: Callable[..., ValkeyProcess]) -> None:
    server = valkey_factory()
    client = server.connect()
    client.set("no-stream", "x")
    client.acl_setuser("reader", enabled=True, passwords=[f"+{SECRET}"], commands=["+get", "+ping"], keys=["*"])
    host = f"127.0.0.1:{server.port}"
    for options, words in [
        ({"url": server.url, "stream": "no-stream"}, "is not a stream"),
        ({"url": f"redis://reader:{SECRET}@{host}/0"}, "may not write"),
        ({"url": f"redis://reader:wrong@{host}/0"}, "does not take the user or password"),
        ({"url": f"redis://{host}/9999"}, "Redis refuses"),
    ]:
        with pytest.raises(Unavailable, match=words) as caught:
            make_queue_sink(to="redis-stream", **options).send(make_delivery())
        assert SECRET not in str(caught.value)
    client.config_set("maxmemory", "100kb")
    with pytest.raises(Unavailable, match="no memory left"):
        make_queue_sink(to="redis-stream", url=server.url).send(make_delivery())
    client.close()
