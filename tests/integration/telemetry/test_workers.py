"""What the workers count comes back as what Prometheus wants, whatever else is in the hash."""

import redis

from receiver.telemetry import workers


def test_counts_of_two_workers_add_up(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    for outcome, seconds, attempts in (("accepted", 0.004, 1), ("accepted", 0.2, 3), ("unavailable", 400.0, 1)):
        worker = workers.AttemptCounter(client, "ops")
        worker.add(outcome, seconds, attempts)
        worker.flush()
    client.hset(workers.KEY, "garbage", "x")
    client.hset(workers.KEY, "ops|sum|", "x")

    found = workers.parse(client.hgetall(workers.KEY))
    client.close()

    assert found["ops"].outcomes == {"accepted": 4, "unavailable": 1}
    assert round(found["ops"].seconds, 3) == 400.604
    cumulative = dict(found["ops"].cumulative())
    assert (cumulative["0.005"], cumulative["0.25"], cumulative["300.0"], cumulative["+Inf"]) == (1, 4, 4, 5)


def test_what_two_dispatchers_recorded_adds_up(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    for _ in range(2):
        dispatcher = workers.DispatchCounter(client)
        dispatcher.add("new", routed=True)
        dispatcher.add("new", routed=False, unevaluated=["big | invoices", "other"])
        dispatcher.add("repeat", routed=False)
        dispatcher.flush()
    client.hset(workers.DISPATCH_KEY, "unrouted|x", "x")

    found = workers.parse_dispatch(client.hgetall(workers.DISPATCH_KEY))
    client.close()

    assert (found.events, found.unrouted) == ({"new": 4, "repeat": 2}, 2)
    assert found.unevaluated == {"big | invoices": 2, "other": 2}


def test_a_redis_that_is_away_stops_nothing() -> None:
    client = redis.Redis(port=1, socket_connect_timeout=0.1, retry=None)
    worker = workers.AttemptCounter(client, "ops")
    worker.add("accepted", 0.1)
    worker.flush()
    client.close()
