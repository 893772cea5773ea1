"""What the workers count comes back as what Prometheus wants, whatever else is in the hash."""

import redis

from receiver import tally


def test_counts_of_two_workers_add_up(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    for outcome, seconds in (("accepted", 0.004), ("accepted", 0.2), ("unavailable", 400.0)):
        worker = tally.Tally(client, "ops")
        worker.add(outcome, seconds)
        worker.flush(now=True)
    client.hset(tally.KEY, "garbage", "x")
    client.hset(tally.KEY, "ops|sum|", "x")

    found = tally.parse(client.hgetall(tally.KEY))
    client.close()

    assert found["ops"].outcomes == {"accepted": 2, "unavailable": 1}
    assert round(found["ops"].seconds, 3) == 400.204
    cumulative = dict(found["ops"].cumulative())
    assert (cumulative["0.005"], cumulative["0.25"], cumulative["300.0"], cumulative["+Inf"]) == (1, 2, 2, 3)


def test_a_redis_that_is_away_stops_nothing() -> None:
    client = redis.Redis(port=1, socket_connect_timeout=0.1, retry=None)
    worker = tally.Tally(client, "ops")
    worker.add("accepted", 0.1)
    worker.flush(now=True)
    client.close()
