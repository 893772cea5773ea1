"""Wrong options of the built-in sinks are found at load: the error says what would be right, and shows no secret."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from handlers.contract import Sink
from handlers.database import DatabaseSink
from handlers.files import FilesSink
from handlers.http import HttpSink
from handlers.notify import NotifySink
from handlers.queue import QueueSink
from handlers.resubmit import ResubmitSink
from handlers.s3 import S3Sink
from handlers.slack import SlackSink

QUEUE_URL = "https://sqs.eu-west-1.amazonaws.com/1/a"
# Options to which the wrong ones are added.
RIGHT: dict[type[Sink[Any]], dict[str, Any]] = {
    HttpSink: {"url": "https://app.example/hooks"},
    DatabaseSink: {"url": "sqlite:///var/results.db"},
    ResubmitSink: {"base_url": "http://127.0.0.1:8000", "key": "rhk_5e1f_key-of-the-sink"},
}


@pytest.mark.parametrize(
    ("sink", "options", "words"),
    [
        (HttpSink, {"url": "billing.example/hooks"}, "right would be https://"),
        (HttpSink, {"url": "ftp://host/"}, "only http and https"),
        (HttpSink, {"url": ""}, "right would be https://"),
        (HttpSink, {"url": "https://"}, "an address without a host"),
        (HttpSink, {"url": "https://host:HUSH@[/"}, "not an address"),
        (HttpSink, {"secret": ""}, "is empty; leave it out"),
        (HttpSink, {"secret": []}, "is empty; leave it out"),
        (HttpSink, {"secret": "whsec_HUSH!"}, "but the rest is not valid base64"),
        (HttpSink, {"secret": ["pw", "whsec_"]}, "nothing follows"),
        (HttpSink, {"headers": {"a b": "HUSH"}}, "'a b' is not a valid header name"),
        (HttpSink, {"headers": {"x-a": "HUSH\r\nx: y"}}, "the value of x-a has characters"),
        (HttpSink, {"headers": {"Webhook-Id": "HUSH"}}, "Webhook-Id is set by Runhook itself"),
        (HttpSink, {"headers": {"Content-Type": "HUSH"}}, "use content_type"),
        (HttpSink, {"template": "{{ run.status "}, "template, line 1"),
        (HttpSink, {"template": "{{ rum.status }}"}, "did you mean run"),
        (HttpSink, {"method": "GET"}, "'POST', 'PUT' or 'PATCH'"),
        (HttpSink, {"key": "/a.key"}, "key needs cert"),
        (HttpSink, {"url": "http://host/", "cert": "/a.pem"}, "for an https:// url"),
        (HttpSink, {"retries": 3}, "retries"),
        (SlackSink, {}, "either webhook_url, or token and channel"),
        (SlackSink, {"webhook_url": "https://hooks.slack.com/x", "token": "x", "channel": "C1"}, "either webhook_url"),
        (SlackSink, {"token": "xoxb-HUSH"}, "token needs channel"),
        (
            SlackSink,
            {"webhook_url": "hooks.slack.com/services/HUSH"},
            "must be an address like https://hooks.slack.com/services",
        ),
        (SlackSink, {"webhook_url": "http://hooks.slack.com/services/HUSH"}, "must begin with https://"),
        (SlackSink, {"webhook_url": "https://hooks.slack.com/HUSH HUSH"}, "must be an address like"),
        (SlackSink, {"webhook_url": "ftp://hooks.slack.com/HUSH"}, "must be an address like"),
        (SlackSink, {"webhook_url": "https://[HUSH"}, "must be an address like"),
        (SlackSink, {"webhook_url": "https://hooks.slack.com/x", "channel": "#ops"}, "channel needs token"),
        (SlackSink, {"webhook_url": "https://hooks.slack.com/x", "thread": "run"}, "thread: run needs a bot token"),
        (SlackSink, {"token": "xoxb-HUSH", "channel": "#ops", "thread": "incident"}, "thread needs the channel's id"),
        (SlackSink, {"token": "xoxb\nHUSH", "channel": "#ops"}, "token has invalid characters"),
        (
            SlackSink,
            {"token": "xoxb-HUSH", "channel": "#ops", "api_url": "http://slack.example/api/"},
            "must begin with https://",
        ),
        (SlackSink, {"webhook_url": "https://a.example/x", "templates": {"failed": "{{ HUSH"}}, "body, line 1"),
        (
            SlackSink,
            {"webhook_url": "https://a.example/x", "templates": {"failed": {"title": "{{ rum }}"}}},
            "unknown variable rum",
        ),
        (SlackSink, {"webhook_url": "https://a.example/x", "templates": {"fialed": "x"}}, "templates.fialed"),
        (SlackSink, {"webhook_url": "https://a.example/x", "window": 1}, "window"),
        (NotifySink, {"urls": []}, "at least 1 item"),
        (NotifySink, {"urls": "bogus://HUSH"}, "number 1: bogus://… is not an Apprise URL"),
        (NotifySink, {"urls": ["json://localhost", "HUSH"]}, "number 2: it is not an Apprise URL"),
        (NotifySink, {"urls": "slack://HUSH"}, "slack://… is not an Apprise URL"),
        (NotifySink, {"urls": "json://localhost", "title": "{{ rum }}"}, "unknown variable rum; did you mean run"),
        (NotifySink, {"urls": "json://localhost", "body": "{{ run"}, "body, line 1"),
        (QueueSink, {}, "to"),
        (QueueSink, {"to": "kafka"}, "redis-stream"),
        (QueueSink, {"to": "redis-stream"}, "to: redis-stream needs url, such as redis://"),
        (QueueSink, {"to": "sqs"}, "to: sqs needs queue_url"),
        (QueueSink, {"to": "sns"}, "to: sns needs topic_arn"),
        (QueueSink, {"to": "redis-stream", "url": "http://:HUSH@host"}, "url must begin with redis://"),
        (QueueSink, {"to": "redis-stream", "url": "redis://h:x/"}, "url is not a valid address"),
        (QueueSink, {"to": "redis-stream", "url": "redis://h", "stream": "a{b}"}, "must not contain braces"),
        (QueueSink, {"to": "redis-stream", "url": "redis://h", "region": "eu-west-1"}, "region does not go with to"),
        (QueueSink, {"to": "sqs", "queue_url": QUEUE_URL, "stream": "x"}, "stream does not go"),
        (QueueSink, {"to": "sqs", "queue_url": "http://queue.internal/1/a"}, "region is needed"),
        (QueueSink, {"to": "sqs", "queue_url": "https://me:HUSH@sqs.eu-west-1.amazonaws.com/a"}, "without a user name"),
        (QueueSink, {"to": "sqs", "queue_url": QUEUE_URL, "access_key_id": "A"}, "require each other"),
        (QueueSink, {"to": "sns", "topic_arn": "arn:aws:sqs:eu-west-1:1:a"}, "not the ARN of a topic"),
        (FilesSink, {}, "path"),
        (FilesSink, {"path": ""}, "use one such as"),
        (FilesSink, {"path": "x", "prefix": "/abs/"}, "must not begin with /"),
        (FilesSink, {"path": "x", "prefix": "a/../b"}, "must not contain . or .. as a part"),
        (FilesSink, {"path": "x", "prefix": "a\\b"}, "must not contain backslashes"),
        (FilesSink, {"path": "x", "prefix": "{{ run.run_id"}, "line 1"),
        (FilesSink, {"path": "x", "prefix": "{{ rum.run_id }}"}, "did you mean run?"),
        (FilesSink, {"path": "x", "public_url": "files.example"}, "use one such as"),
        (FilesSink, {"path": "x", "max_artifact_bytes": "much"}, "byte"),
        (FilesSink, {"path": "x", "on_missing": "ignore"}, "note"),
        (FilesSink, {"path": "x", "parallel": 0}, "greater than or equal to 1"),
        (S3Sink, {}, "bucket"),
        (S3Sink, {"bucket": "No_Bucket"}, "lower-case letters"),
        (S3Sink, {"bucket": "runs", "endpoint_url": "minio:9000"}, "use one such as"),
        (S3Sink, {"bucket": "runs", "access_key_id": "a"}, "require each other"),
        (S3Sink, {"bucket": "runs", "sse": "rot13"}, "AES256"),
        (S3Sink, {"bucket": "runs", "sse_kms_key_id": "k"}, "needs sse: aws:kms"),
        (S3Sink, {"bucket": "runs", "tags": {"a&b": "x"}}, "is not a valid tag name"),
        (S3Sink, {"bucket": "runs", "tags": {"a": "{{ nope }}"}}, "unknown variable nope"),
        (S3Sink, {"bucket": "runs", "prefix": "../{{ run.run_id }}/"}, "must not contain . or .. as a part"),
        (DatabaseSink, {"url": "results.db"}, "not a database URL"),
        (DatabaseSink, {"url": ""}, "not a database URL"),
        (DatabaseSink, {"url": "sqlite://"}, "in memory would lose everything"),
        (DatabaseSink, {"url": "postgresql://u:pw@HUSH@h/db"}, "has several @; in a user or password write @ as %40"),
        (DatabaseSink, {"url": "sqlite://var/x.db"}, "names a host after two slashes, and SQLite has none: three"),
        (DatabaseSink, {"url": "sqlite:///:memory:"}, "in memory would lose everything"),
        (DatabaseSink, {"url": "mysql://me:HUSH@host/db"}, "not to mysql"),
        (DatabaseSink, {"url": "postgresql+asyncpg://me:HUSH@host/db"}, "the driver asyncpg is not used"),
        (DatabaseSink, {"url": "postgresql://me:HUSH@host:port/db"}, "not a database URL"),
        (DatabaseSink, {"url": "postgresql://me:HUSH@host/db?sslmod=require"}, 'invalid connection option "sslmod"'),
        (DatabaseSink, {"url": "postgresql://me:HUSH@host/db?sslmode=never"}, 'invalid sslmode value: "never"'),
        (DatabaseSink, {"url": "postgresql://me:HUSH@host/db?connect_timeout=abc"}, 'invalid integer value "abc"'),
        (DatabaseSink, {"table": "runs; DROP TABLE x"}, "is not a valid table name"),
        (DatabaseSink, {"table": "a.b.c"}, "is not a valid table name"),
        (DatabaseSink, {"columns": {"status": "output.status"}}, "status is a standard column"),
        (DatabaseSink, {"columns": {"a b": "output.a"}}, "is not a valid column name"),
        (DatabaseSink, {"columns": {"total": "output..total"}}, "is not a valid path"),
        (DatabaseSink, {"columns": {"total": {"path": "output.total", "type": "money"}}}, "'text', 'integer'"),
        (DatabaseSink, {"columns": {"total": {"path": "output.total", "tpye": "text"}}}, "tpye"),
        (DatabaseSink, {"columns": {"Total": "output.a", "total": "output.b"}}, "differ only in case"),
        (ResubmitSink, {"base_url": "runhook.example"}, "only http and https"),
        (ResubmitSink, {"base_url": "https://runhook.example/v1/"}, "without /v1"),
        (ResubmitSink, {"base_url": "https://runhook.example/?a=b"}, "without /v1 and query"),
        (ResubmitSink, {"key": "sk-skyvern"}, "begins with rhk_"),
        (ResubmitSink, {"budget": 0}, "greater than or equal to 1"),
        (ResubmitSink, {"budget": 21}, "less than or equal to 20"),
        (ResubmitSink, {"changes": {"labels": {"a": "b"}}}, "labels can't be changed"),
        (ResubmitSink, {"changes": {"title": "{{ runn.title }}"}}, "did you mean run?"),
        (ResubmitSink, {"changes": {"a": {"b": ["{% if %}"]}}}, "a.b[0], line 1"),
        (ResubmitSink, {"changes": {"a": datetime(2026, 1, 1, tzinfo=UTC)}}, "not a JSON value"),
        (ResubmitSink, {"changes": {"a": float("nan")}}, "not a JSON value"),
    ],
)
def test_wrong_option_is_explained_without_secrets(sink: type[Sink[Any]], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        sink.Options.model_validate({**RIGHT.get(sink, {}), **options})
    assert words in str(caught.value)
    assert "HUSH" not in str(caught.value).replace("{{ HUSH", "")
