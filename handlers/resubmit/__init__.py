"""The sink `resubmit`: submits a failed run again, through Runhook's own submit API.

sink       the options, and the sink: calls of the API, and its responses as errors
request    the request: that of the first submission, with changes (pure)

How often a run may be tried again is decided by support/resubmit_chain.py.
"""

from handlers.resubmit.sink import ResubmitOptions, ResubmitSink

__all__ = ["ResubmitOptions", "ResubmitSink"]
