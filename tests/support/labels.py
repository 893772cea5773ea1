"""A dispatcher whose routes tell of labels: one route for all runs, one for those of a team."""

from __future__ import annotations

import redis

from receiver.dispatch.dispatcher import Dispatcher
from receiver.domain.redaction import Redactor
from receiver.inbox.reader import InboxReader
from receiver.ledger import Ledger
from receiver.routing.route import RouteConfig
from receiver.routing.router import Router
from tests.support import dispatching

ROUTES = [
    RouteConfig(name="everything", to=["results"]),
    RouteConfig(name="billing", when={"labels.team": "billing"}, to=["billing"]),
]


def make_dispatcher(ledger: Ledger, redis_url: str, name: str = "d1") -> Dispatcher:
    """Return a dispatcher by these routes; closing it closes the ledger."""
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    return dispatching.make_dispatcher(ledger, Router(ROUTES), Redactor([]), InboxReader(connection, name), connection)
