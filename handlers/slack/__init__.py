"""Slack: messages by incoming webhook or bot token.

sink       the sink and its options: what is asked of Slack, in which order
blocks     how a message looks
escape     text made safe for it
client     the way there, and what Slack's answers mean
"""

from handlers.slack.sink import SlackOptions, SlackSink

__all__ = ["SlackOptions", "SlackSink"]
