"""Real processes for the tests of this folder."""

from tests.servers.deployment import deployment
from tests.servers.dev import start_dev

__all__ = ["deployment", "start_dev"]
