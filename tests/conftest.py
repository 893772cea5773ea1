"""Fixtures that several kinds of tests share. Servers are real, started here, and ended by their own process id."""

from hypothesis import HealthCheck, settings

# A busy machine is no failure: what a property costs is not what it says.
settings.register_profile("runhook", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("runhook")

pytest_plugins = [
    "tests.servers.valkey",
    "tests.servers.receiver",
    "tests.servers.postgres",
    "tests.servers.seaweedfs",
    "tests.servers.skyvern",
    "tests.servers.scripted",
    "tests.servers.submitting",
]
