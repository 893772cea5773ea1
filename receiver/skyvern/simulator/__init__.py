"""A local Skyvern for demo, development and tests: its API, its runs, its webhooks and, on request, its misbehaviour.

    create_app(Options(…))     the ASGI app
    `runhook simulate`         the same as a command

It knows nothing of the receiver beyond the signature: to it, Runhook is one more callback URL and one more caller.
"""

from receiver.skyvern.simulator.api import create_app
from receiver.skyvern.simulator.faults import Fault
from receiver.skyvern.simulator.options import Options
from receiver.skyvern.simulator.world import World

__all__ = ["Fault", "Options", "World", "create_app"]
