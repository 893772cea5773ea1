"""A worker whose config has more sinks than a process may usually have files for."""

from __future__ import annotations

import json
from pathlib import Path

from tests.servers import warm_python

FILES, SINKS = 128, 64  # each sink takes four files before the fork


def test_a_worker_with_many_sinks_opens_as_many_files_as_it_may(tmp_path: Path) -> None:
    # Given a config with many sinks, and the usual bound on open files
    names = [f"s{number}" for number in range(SINKS)]
    config = {
        "sources": {"skyvern": {"secrets": ["a-signing-secret"]}},
        "sinks": {name: {"type": "files", "path": str(tmp_path / name)} for name in names},
        "routes": [{"name": "all", "to": names}],
    }
    (tmp_path / "runhook.yaml").write_text(json.dumps(config))
    program = (
        "import resource; from receiver.cli import main; number = resource.RLIMIT_NOFILE\n"
        f"resource.setrlimit(number, ({FILES}, resource.getrlimit(number)[1])); main()"
    )
    arguments = ["worker", "--config", str(tmp_path / "runhook.yaml"), "--only", "s0", "--patience", "0"]
    environ = {"RUNHOOK_DATA": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1/0"}

    # When one of them is to be served
    ended = warm_python.run(["-c", program, *arguments], env=environ)

    # Then it misses Redis, and no files
    assert ended.returncode == 3, ended.stderr
    assert "Redis can't be used" in ended.stderr
