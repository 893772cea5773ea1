"""scripts/production.py: an install from the package index, which is small, and whose sinks find all they need."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.dev import Dev, a_run
from tests.servers.seaweedfs import S3Server
from tests.support.paths import ROOT
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

# Megabytes of an install with nothing beside it.
MOST: int = 120

# Run by the environment's own Python, with AWS as moto plays it: that is no part of the environment.
TO_AWS = """
import sys
import botocore
assert botocore.__file__.startswith(sys.prefix), botocore.__file__
sys.path.append(sys.argv[1])
import boto3
from moto import mock_aws
from handlers.queue import QueueOptions, QueueSink
from handlers.s3 import S3Sink
from handlers.testing.conformance import NoServices
from handlers.testing.samples import make_delivery

with mock_aws():
    boto3.client("s3").create_bucket(Bucket="runs")
    queue = boto3.client("sqs").create_queue(QueueName="runs")["QueueUrl"]
    topic = boto3.client("sns").create_topic(Name="runs")["TopicArn"]
    for options in ({"to": "sqs", "queue_url": queue}, {"to": "sns", "topic_arn": topic}):
        assert QueueSink("pull", QueueOptions.model_validate(options), NoServices()).send(make_delivery()).id
    options = {"bucket": "runs", "profile": "by-role", "region": "us-east-1"}
    S3Sink("mirror", S3Sink.Options.model_validate(options), NoServices()).send(make_delivery())
    assert boto3.client("s3").list_objects_v2(Bucket="runs")["KeyCount"]
"""
AWS_CONFIG = """
[profile by-role]
role_arn = arn:aws:iam::123456789012:role/runhook
credential_source = Environment
"""
WITH_S3 = """
sources:
  skyvern: {{secrets: ["${{SKYVERN_API_KEY}}"]}}
sinks:
  mirror:
    {{type: s3, bucket: "{bucket}", endpoint_url: "{endpoint}", access_key_id: "{id}", secret_access_key: "{key}"}}
routes:
  - {{name: everything, to: [mirror]}}
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("production") / "venv"
    subprocess.run([sys.executable, ROOT / "scripts" / "production.py", made], check=True)
    return made


@pytest.fixture
def running(environment: Path, tmp_path: Path, s3_server: S3Server, s3_bucket: str) -> Iterator[Dev]:
    config = WITH_S3.format(
        bucket=s3_bucket, endpoint=s3_server.endpoint, id=s3_server.access_key, key=s3_server.secret_key
    )
    dev = Dev(tmp_path, config=config, python=str(environment / "bin" / "python"), PYTHONPATH="")
    try:
        yield dev.ready()
    finally:
        dev.end()


def test_it_is_small_and_holds_neither_pip_nor_compiled_modules(environment: Path) -> None:
    files = [path for path in environment.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(-(-path.stat().st_size // 4096) * 4096 for path in files) < MOST << 20
    names = {path.name for path in environment.glob("lib/python*/site-packages/*")}
    assert names & {"pip", "setuptools", "pytest", "hatchling", "moto"} == set()
    assert {path for path in files if path.suffix == ".pyc"} == set()


def test_a_webhook_comes_to_its_bucket(running: Dev, s3_server: S3Server, s3_bucket: str) -> None:
    running.post(a_run(1))
    eventually(lambda: s3_server.client.list_objects_v2(Bucket=s3_bucket)["KeyCount"], what=lambda: running.log)


def test_sinks_reach_s3_by_a_role_and_sqs_and_sns(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(AWS_CONFIG)
    environ = {"AWS_ACCESS_KEY_ID": "AKIDX", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [environment / "bin" / "python", "-Wdefault", "-c", TO_AWS, sysconfig.get_path("purelib")]
    done = subprocess.run(
        command,
        env={**environ, "AWS_CONFIG_FILE": str(tmp_path / "config"), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
