"""A failed run is asked for again, through Runhook's own submit API.

sink       the sink: what is asked of the API, in which order, and what its answers mean
options    what an operator may say of it
chain      how often a run was tried, and whether it may be tried again
request    what is asked for: the first request, with changes
"""

from handlers.resubmit.options import ResubmitOptions
from handlers.resubmit.sink import ResubmitSink

__all__ = ["ResubmitOptions", "ResubmitSink"]
