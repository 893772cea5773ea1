"""What a wake-up is, and what is never read from its record."""

from __future__ import annotations

import json
import pickle
import re
import zlib
from typing import Any

import pytest
from rq import Queue, Retry
from rq.exceptions import NoSuchJobError
from rq.serializers import JSONSerializer

from receiver.runtime.process import readable
from receiver.wakeups import FLAG_TTL, deliver_queue, flag_key, wake_command
from receiver.wakeups.job import NotAWakeUp, RunhookJob
from receiver.wakeups.record import FUNCTION, JOB_TIMEOUT, QUEUES_KEY, job_fields, job_key, queue_key, timestamp
from receiver.wakeups.rq_worker import Stop

OURS = zlib.compress(json.dumps(["receiver.wakeups.work", None, [], {}]).encode())


def a_job(fields: dict[str, Any]) -> RunhookJob:
    job = RunhookJob("a-job", connection=object())
    job.restore({name.encode(): value for name, value in fields.items()})
    return job


def test_the_record_of_a_wake_up_carries_nothing_but_a_constant_name() -> None:
    given = job_fields("deliver:ops")
    fields = dict(zip(given[::2], given[1::2], strict=True))
    assert json.loads(zlib.decompress(fields["data"])) == ["receiver.wakeups.work", None, [], {}]
    assert fields["description"] == "wake-up"
    assert (fields["result_ttl"], fields["failure_ttl"], fields["retries_left"]) == (0, 60, 3)
    assert fields["origin"] == "deliver:ops"


def test_keys_and_fields_are_those_of_rq() -> None:
    job = RunhookJob.create(
        FUNCTION,
        connection=object(),
        origin="dispatch",
        description="wake-up",
        result_ttl=0,
        failure_ttl=60,
        timeout=int(JOB_TIMEOUT),
        retry=Retry(max=3),
        serializer=JSONSerializer,
        id="a-job",
    )
    job.data = JSONSerializer.dumps([FUNCTION, None, [], {}])
    written = {**job.to_dict(), "status": "queued"}
    created = written.pop("created_at")

    given = job_fields("dispatch")
    assert dict(zip(given[::2], given[1::2], strict=True)) == {k: v for k, v in written.items() if v != ""}
    assert re.sub(r"\d", "0", timestamp()) == re.sub(r"\d", "0", created)
    queue = Queue("dispatch", connection=object())
    assert (queue_key("dispatch"), job_key("a-job"), QUEUES_KEY) == (
        queue.key,
        job.key,
        queue.redis_queues_keys,
    )


def test_the_command_names_the_flag_of_its_queue_first() -> None:
    command = wake_command(deliver_queue("ops"))
    assert command[0] == "EVAL"
    assert command[3] == flag_key("deliver:ops")
    assert FLAG_TTL in command


def test_two_wake_ups_never_share_a_job_id() -> None:
    assert wake_command("dispatch")[5] != wake_command("dispatch")[5]


def test_a_wake_up_runs_the_body_that_the_worker_gave_it() -> None:
    ran = []
    job = a_job({"data": OURS})
    job.body = lambda: ran.append(1)
    job.perform()
    assert ran == [1]


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
def test_a_job_whose_data_is_not_ours_is_refused(data: bytes) -> None:
    with pytest.raises(NotAWakeUp):
        a_job({"data": data})


def test_a_record_without_data_is_no_job() -> None:
    with pytest.raises(NoSuchJobError):
        a_job({"status": b"queued"})


def test_nothing_else_in_the_record_is_read() -> None:
    webhooks = json.dumps([{"url": "http://127.0.0.1:1/", "job_status": "finished"}]).encode()
    job = a_job(
        {
            "data": OURS,
            "success_callback_name": b"os.abort",
            "failure_callback_name": b"os.abort",
            "stopped_callback_name": b"os.abort",
            "webhooks": webhooks,
            "timeout": b"999999",
            "result_ttl": b"999999",
            "meta": pickle.dumps({"a": 1}),
            "rate_limit_key": b"key",
            "rate_limit_concurrency": b"1",
            "repeats_left": b"5",
            "group_id": b"group",
            "dependency_ids": b"not JSON",
            "created_at": b"no date",
        }
    )
    assert (job.success_callback, job.failure_callback, job.stopped_callback) == (None, None, None)
    assert (job.webhooks, job.meta, job.repeats_left, job.group_id) == ([], {}, None, None)
    assert (job.timeout, job.result_ttl, job.has_rate_limit) == (None, 0, False)


def test_a_job_never_reads_pickle_whatever_serializer_is_asked_for() -> None:
    assert RunhookJob("a-job", connection=object(), serializer="pickle").serializer is JSONSerializer
    assert RunhookJob("a-job", connection=object()).serializer is JSONSerializer


def test_a_function_that_is_not_on_the_list_is_refused_a_second_time_when_it_would_run() -> None:
    job = a_job({"data": OURS})
    job.body = lambda: None
    job.func_name = "os.abort"
    with pytest.raises(NotAWakeUp):
        job.perform()


def test_a_stop_comes_at_the_end_of_the_turn_and_not_before() -> None:
    now = [100.0]
    stop = Stop(5.0, clock=lambda: now[0])
    now[0] = 104.0
    assert not stop()
    assert stop.left == 1.0
    now[0] = 105.0
    assert stop()
    stop.begin()
    assert not stop()


def test_a_stop_that_was_asked_for_is_not_undone_by_a_new_time_slice() -> None:
    stop = Stop(5.0)
    assert not readable([stop.fileno()], 0)
    stop.ask()
    stop.begin()
    assert stop()
    assert stop.left == 0.0
    assert readable([stop.fileno()], 0)  # which ends a wait
