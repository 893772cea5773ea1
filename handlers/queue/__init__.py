"""The sink `queue`: one message for each run, in a Redis stream, SQS or SNS.

sink           the sink and its options
message        the message of every kind of queue (pure)
redis_stream   a Redis stream: XADD, once for each delivery
aws            SQS and SNS
"""

from handlers.queue.sink import QueueOptions, QueueSink

__all__ = ["QueueOptions", "QueueSink"]
