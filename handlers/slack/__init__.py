"""The sink `slack`: messages by incoming webhook or bot token.

sink             the sink and its options
client           calls Slack over HTTP; maps responses to Refused and Unavailable
blocks           a run's result as a message (pure)
escape           text from a payload escaped for Slack (pure)
templates        an operator's templates for messages
threads          post each message once, in its thread; count repeated failures
incidents        the thread of a message, and the count of repeats (pure)
screenshot       a run's final screenshot, fetched and uploaded
"""

from handlers.slack.sink import SlackOptions, SlackSink

__all__ = ["SlackOptions", "SlackSink"]
