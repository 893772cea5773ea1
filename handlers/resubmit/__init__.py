"""The sink `resubmit`: submits a failed run again, through Runhook's own submit API.

sink       the sink: the calls to the API, and its answers as errors
options    the sink's options
request    the request: that of the first submission, with changes (pure)

How often a run may be tried again is decided by support/resubmit_chain.py.
"""

from handlers.resubmit.options import ResubmitOptions
from handlers.resubmit.sink import ResubmitSink

__all__ = ["ResubmitOptions", "ResubmitSink"]
