"""The sink `slack`: messages by incoming webhook or bot token.

sink             the sink and its options
client           calls of Slack over HTTP, and its responses as Refused and Unavailable
blocks           a run's result as a message (pure)
escape           text from a payload escaped for Slack (pure)
templates        an operator's own words for a message
threads          post each message once, in its thread; count repeated failures
incidents        which messages belong to one thread, and how often an incident was repeated (pure)
screenshot       a run's final screenshot, fetched and uploaded
"""

from handlers.slack.sink import SlackOptions, SlackSink

__all__ = ["SlackOptions", "SlackSink"]
