"""Fixtures that several kinds of tests share. Servers are real, started here, and ended by their own process id."""

pytest_plugins = [
    "tests.servers.valkey",
    "tests.servers.receiver",
    "tests.servers.postgres",
    "tests.servers.seaweedfs",
    "tests.servers.skyvern",
    "tests.servers.scripted",
    "tests.servers.submitting",
]
