"""Wake-ups: RQ jobs that report new work to a worker. A wake-up carries nothing, so a lost one only delays the work.

Each worker looks for work once a second; a wake-up makes that immediate. At most one is outstanding for a queue,
because it is enqueued only while the flag of the queue is down. Its job lowers the flag at its end and then looks for
work once more (`finish`): work that was written before the flag went down is found then, and work written after it
enqueues the next wake-up.

    wake    the producer: flag, wake-up, and its record as RQ stores it, without importing rq
    worker  the consumer: RQ's SimpleWorker for one queue, and the only job class that it runs
"""

from receiver.wakeups.wake import (
    DISPATCH,
    FLAG_TTL,
    deliver_queue,
    finish,
    flag_key,
    lower_flag,
    wake,
    wake_command,
    wake_dispatcher,
)

__all__ = [
    "DISPATCH",
    "FLAG_TTL",
    "deliver_queue",
    "finish",
    "flag_key",
    "lower_flag",
    "wake",
    "wake_command",
    "wake_dispatcher",
]
