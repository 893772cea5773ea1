"""What a wake-up is, and what is never read from its record."""

import json
import pickle
import zlib
from typing import Any

import pytest
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.serializers import JSONSerializer

from receiver.domain.time_limits import JOB_TIMEOUT
from receiver.wakeups import FLAG_TTL, FUNCTION, flag_key, job_record, wake_command
from receiver.wakeups.worker import WakeUp

OURS = zlib.compress(json.dumps(["receiver.wakeups.work", None, [], {}]).encode())


def a_job(fields: dict[str, Any]) -> WakeUp:
    job = WakeUp("a-job", connection=object())
    job.restore({name.encode(): value for name, value in fields.items()})
    return job


def test_record_is_what_rq_itself_writes() -> None:
    job = WakeUp.create(
        FUNCTION, connection=object(), origin="dispatch", description="wake-up", result_ttl=0, failure_ttl=60,
        timeout=JOB_TIMEOUT, serializer=JSONSerializer, id="a-job",
    )  # fmt: skip
    job.data = JSONSerializer.dumps([FUNCTION, None, [], {}])
    written = {**job.to_dict(), "status": "queued"}

    given = job_record("dispatch")

    times = ("created_at", "enqueued_at")
    assert {k: v for k, v in given.items() if k not in times} == {
        k: v for k, v in written.items() if v != "" and k not in times
    }
    assert len(given["created_at"]) == len(written["created_at"])
    queue, command = Queue("dispatch", connection=object()), wake_command("dispatch")
    assert command[4] == queue.key
    assert command[5].startswith(job.key.removesuffix("a-job"))
    assert command[6] == queue.redis_queues_keys


def test_command_names_the_flag_of_its_queue_first() -> None:
    command = wake_command("deliver:ops")
    assert command[0] == "EVAL"
    assert command[3] == flag_key("deliver:ops")
    assert FLAG_TTL in command


def test_two_wake_ups_never_share_a_job_id() -> None:
    assert wake_command("dispatch")[5] != wake_command("dispatch")[5]


@pytest.mark.parametrize(
    "data",
    [
        zlib.compress(json.dumps(["os.system", None, ["true"], {}]).encode()),
        zlib.compress(json.dumps(["receiver.wakeups.work", None, ["an argument"], {}]).encode()),
        zlib.compress(json.dumps(["receiver.wakeups.work", "an instance", [], {}]).encode()),
        zlib.compress(pickle.dumps(("os.system", None, ("true",), {}))),
        pickle.dumps(("os.system", None, ("true",), {})),
        b"not compressed at all",
        b"",
        zlib.compress(b"[" * 10_000_000),
    ],
    ids=["os.system", "arguments", "instance", "pickle", "bare pickle", "garbage", "empty", "bomb"],
)
def test_job_with_other_data_is_skipped(data: bytes) -> None:
    with pytest.raises(NoSuchJobError):
        a_job({"data": data})


def test_record_without_data_is_skipped() -> None:
    with pytest.raises(NoSuchJobError):
        a_job({"status": b"queued"})


def test_nothing_else_in_the_record_is_read() -> None:
    webhooks = json.dumps([{"url": "http://127.0.0.1:1/", "job_status": "finished"}]).encode()
    job = a_job(
        {
            "data": OURS, "success_callback_name": b"os.abort", "failure_callback_name": b"os.abort",
            "stopped_callback_name": b"os.abort", "webhooks": webhooks, "timeout": b"999999", "result_ttl": b"999999",
            "meta": pickle.dumps({"a": 1}), "rate_limit_key": b"key", "rate_limit_concurrency": b"1",
            "repeats_left": b"5", "group_id": b"group", "dependency_ids": b"not JSON", "created_at": b"no date",
        }
    )  # fmt: skip
    assert (job.success_callback, job.failure_callback, job.stopped_callback) == (None, None, None)
    assert (job.webhooks, job.meta, job.repeats_left, job.group_id) == ([], {}, None, None)
    assert (job.timeout, job.result_ttl, job.has_rate_limit) == (JOB_TIMEOUT, 0, False)


def test_pickle_is_never_read_whatever_serializer_is_asked_for() -> None:
    assert WakeUp("a-job", connection=object(), serializer="pickle").serializer is JSONSerializer
    assert WakeUp("a-job", connection=object()).serializer is JSONSerializer
