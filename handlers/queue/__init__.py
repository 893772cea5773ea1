"""Queues for programs that would rather pull: a Redis stream, SQS, SNS.

sink           the sink and its options: which queue, and where
message        what such a program sees, the same for all
redis_stream   XADD, once for each delivery
aws            SQS and SNS
"""

from handlers.queue.sink import QueueOptions, QueueSink

__all__ = ["QueueOptions", "QueueSink"]
