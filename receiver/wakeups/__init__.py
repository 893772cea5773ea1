"""Wake-ups: how a worker hears that there is work. The only package that imports rq; it must not know what the work is.

A wake-up is an RQ job that carries nothing, so a lost one is only lateness: the clock finds the work and wakes again.
At most one is outstanding for a queue, because it is enqueued only while the queue's flag is down. The flag goes up
with the enqueueing, in one script, and the job's body lowers it at its end and then polls once more (`finish`): work
that was written before the flag went down is seen by that poll, and work written after it finds the flag down.

    body       what the jobs of a queue do, as the worker sees it
    record     what RQ keeps of a wake-up
    flags      flags, wake-ups and nudges: the producers' side
    nudges     the wait for a nudge
    job        which code a job may start, and why nothing else runs
    rq_worker  the consumer: one queue, one thread of a process
    shared_wait  the wait of those that share a process
    cleanup    what dead workers left behind

Here is what needs no RQ, so that who only wakes does not import it.
"""

from __future__ import annotations

import logging

from receiver.wakeups.body import JobBody
from receiver.wakeups.flags import (
    FLAG_TTL,
    finish,
    flag_key,
    lower_flag,
    nudge_key,
    try_to_wake_sinks,
    wake,
    wake_command,
    wake_dispatcher,
    wake_sinks,
    wake_sinks_commands,
)
from receiver.wakeups.nudges import NudgeWait
from receiver.wakeups.record import DISPATCH, JOB_TIMEOUT, TIME_SLICE, deliver_queue

logging.getLogger("rq").setLevel(logging.CRITICAL)  # it logs every job, and tracebacks with whatever they hold

__all__ = [
    "DISPATCH",
    "FLAG_TTL",
    "JOB_TIMEOUT",
    "TIME_SLICE",
    "JobBody",
    "NudgeWait",
    "deliver_queue",
    "finish",
    "flag_key",
    "lower_flag",
    "nudge_key",
    "try_to_wake_sinks",
    "wake",
    "wake_command",
    "wake_dispatcher",
    "wake_sinks",
    "wake_sinks_commands",
]
