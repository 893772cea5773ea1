"""Real processes for the tests of this folder."""

from tests.servers.deployment import deployment

__all__ = ["deployment"]
