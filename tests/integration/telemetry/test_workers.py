"""What the workers count comes back as numbers by name and labels, whatever else is in the hash."""

import redis

from receiver.telemetry import workers


def test_counts_of_two_workers_add_up(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    for outcome, seconds in (("accepted", 0.004), ("accepted", 0.2), ("unavailable", 400.0)):
        worker = workers.WorkerCounter(client)
        worker.add_attempt("ops", outcome, seconds)
        worker.add_event("new", routed=True)
        worker.add_event("new", routed=False, unevaluated=["big | invoices", "other"])
        worker.add_event("repeat", routed=False)
        worker.add_set_aside()
        worker.flush()
    client.hset(workers.KEY, mapping={"garbage": "x", "endless": "inf"})

    counts = workers.parse(client.hgetall(workers.KEY))
    client.close()

    assert {key: round(value, 3) for key, value in counts.items()} == {
        ("attempts", "ops", "accepted"): 2,
        ("attempts", "ops", "unavailable"): 1,
        ("bucket", "ops", "0.005"): 1,
        ("bucket", "ops", "0.25"): 1,
        ("bucket", "ops", "+Inf"): 1,
        ("seconds", "ops"): 400.204,
        ("events", "new"): 6,
        ("events", "repeat"): 3,
        ("unrouted",): 3,
        ("rule_errors", "big | invoices"): 3,
        ("rule_errors", "other"): 3,
        ("set_aside",): 3,
    }


def test_unavailable_redis_stops_no_counting() -> None:
    client = redis.Redis(port=1, socket_connect_timeout=0.1, retry=None)
    worker = workers.WorkerCounter(client)
    worker.add_attempt("ops", "accepted", 0.1)
    worker.flush()
    client.close()
