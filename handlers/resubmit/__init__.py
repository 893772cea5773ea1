"""The sink `resubmit`: submits a failed run again, through Runhook's own submit API.

sink       the options, and the sink: calls of the API, and its responses as errors
request    the request: the first submission's, with changes (pure)

support/resubmit_chain.py limits the number of tries.
"""

from handlers.resubmit.sink import ResubmitOptions, ResubmitSink

__all__ = ["ResubmitOptions", "ResubmitSink"]
