"""Runhook's tools for language models, over the Model Context Protocol. `runhook mcp` serves them.

`tools` makes them from the calls of the JSON API; `server` speaks the protocol.
"""
