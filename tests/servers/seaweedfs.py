"""Fixture for a real server (see the module of the same name in the brief)."""
