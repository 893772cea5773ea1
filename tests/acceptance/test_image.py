"""The image without a container engine: the steps of the Dockerfile in a folder, and the receiver that they install.

No engine runs where the tests do. So each instruction of the build stage is carried out by a shell, with the folders of
the image below a temporary one, and the final stage is the environment of the process.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2
import pytest

from tests.servers.valkey import free_port
from tests.support.deploy_files import context, stages, variables
from tests.support.paths import ROOT
from tests.support.processes import launch
from tests.support.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.longest]

BUILD, FINAL = stages()
USER = 10001


def python() -> str:
    """The Python of the image's base: one that has pip, and that the image's user may run."""
    for candidate in ("/usr/bin/python3", sys.executable):
        program = "import sys, ensurepip, venv; assert sys.version_info >= (3, 11); print(sys.base_prefix)"
        done = subprocess.run([candidate, "-c", program], capture_output=True, text=True)
        if done.returncode == 0 and all(path.stat().st_mode & 0o001 for path in Path(done.stdout.strip()).parents):
            return candidate
    raise AssertionError("no Python that another user may run: install python3-venv")


class Image:
    """The folders of the image, below a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def within(self, text: str) -> str:
        """`text` with the image's folders below this one's."""
        for folder in ("/opt/", "/src", "/etc/runhook", "/var/lib/runhook", "/usr/local/bin/"):
            text = text.replace(folder, f"{self.root}{folder}")
        return text

    def path(self, text: str) -> Path:
        return Path(self.within(text))

    def build(self) -> None:
        """Carry out the build stage: COPY from what .dockerignore lets in, RUN by the shell that it names."""
        here = self.root
        environment = {**os.environ, **variables(BUILD)}
        subprocess.run([python(), "-m", "venv", self.root / "base"], check=True)
        environment["PATH"] = f"{self.root / 'base/bin'}:{os.environ['PATH']}"
        for name, text in BUILD:
            if name == "WORKDIR":
                here = self.path(text)
                here.mkdir(parents=True)
            elif name == "COPY":
                *sources, _ = shlex.split(text)
                self._copy(here, sources)
            elif name == "RUN":
                subprocess.run(
                    ["/bin/bash", "-o", "pipefail", "-c", self.within(text)], cwd=here, env=environment, check=True
                )
        for name in ("entrypoint", "healthcheck"):
            target = self.path(f"/usr/local/bin/{name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / "deploy" / name, target)
        target = self.path("/etc/runhook/runhook.yaml")
        target.parent.mkdir(parents=True)
        shutil.copy2(ROOT / "deploy" / "runhook.yaml", target)

    def _copy(self, into: Path, sources: list[str]) -> None:
        for file in context():
            if sources == ["."] or str(file) in sources:
                (into / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, into / file)

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of a container."""
        values = {name: self.within(value) for name, value in variables(FINAL).items()}
        values["PATH"] = values["PATH"].replace("$PATH", f"{self.root}/usr/local/bin:/usr/bin:/bin")
        return values | more


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    root = Path(tempfile.mkdtemp(prefix="runhook-image-"))  # only its owner may enter pytest's folders
    try:
        image = Image(root)
        image.build()
        root.chmod(0o755)
        subprocess.run(["chmod", "-R", "a-w,a+rX", root / "base", root / "opt", root / "usr", root / "etc"], check=True)
        yield image
    finally:
        shutil.rmtree(root)


def as_user() -> None:
    """Become the image's user, where we may."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)


class Container:
    """One process of the image."""

    def __init__(self, image: Image, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.image = image
        self.environment = environment
        self.log_file = log
        entrypoint = str(image.path("/usr/local/bin/entrypoint"))
        data = Path(environment["RUNHOOK_DATA"])
        self.process = launch([entrypoint, *command], log, env=environment, cwd=data, prepare=as_user)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def healthy(self) -> bool:
        command = [self.image.path("/usr/local/bin/healthcheck"), str(self.process.pid)]
        done = subprocess.run(command, env=self.environment, capture_output=True)
        return done.returncode == 0


@pytest.fixture
def receiver(image: Image, redis_url: str, tmp_path: Path) -> Iterator[tuple[Container, int]]:
    data = image.root / "var/lib/runhook"
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.geteuid() == 0:
        os.chown(data, USER, USER)
    port = free_port()
    environment = image.environment(
        REDIS_URL=redis_url, SKYVERN_API_KEY="a-key", DATABASE_URL=f"sqlite:///{data}/ledger.db"
    )
    container = Container(image, ["serve", "--port", str(port)], environment, tmp_path / "log")
    try:
        yield container, port
    finally:
        container.process.kill()
        container.process.wait()


def test_image_keeps_what_its_aws_sinks_call(image: Image) -> None:
    program = (
        "import boto3; session = boto3.Session('id', 'secret', region_name='us-east-1');"
        "[session.client(name) for name in ('s3', 'sqs', 'sns', 'sts', 'sso', 'sso-oidc', 'signin')]"
    )
    subprocess.run([image.root / "opt/runhook/bin/python", "-c", program], check=True)


def test_receiver_runs_as_another_user_on_read_only_code(receiver: tuple[Container, int]) -> None:
    container, port = receiver

    # The receiver answers, and the healthcheck of the image agrees.
    eventually(lambda: container.process.poll() is not None or container.healthy(), what=lambda: container.log)
    assert container.process.poll() is None, container.log
    assert httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    status = Path(f"/proc/{container.process.pid}/status").read_text()
    if os.geteuid() == 0:
        assert f"Uid:\t{USER}\t{USER}" in status
    # SIGTERM, the image's stop signal, ends it in order.
    container.process.terminate()
    assert container.process.wait(60) == 0
    assert "Traceback" not in container.log
