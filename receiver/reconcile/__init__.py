"""Finds the results whose webhook never came, and hands them to dispatch."""
