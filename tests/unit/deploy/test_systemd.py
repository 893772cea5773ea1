"""deploy/systemd: systemd accepts the units, and they fit the commands that they start."""

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from receiver.web.server import LEAVE_WITHIN, STOP_TIMEOUT
from tests.support.deploy_files import default, parse
from tests.support.paths import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
# Units of systemd's own that a service needs to be checked.
TARGETS = ("basic", "multi-user", "network-online", "shutdown", "sysinit")
# `man systemd.exec` and `man systemd.service`: what the units may set. A typing error would be ignored at run time.
HARDENING = {
    "CapabilityBoundingSet": "", "LockPersonality": "yes", "NoNewPrivileges": "yes", "PrivateDevices": "yes",
    "PrivateTmp": "yes", "ProtectClock": "yes", "ProtectControlGroups": "yes", "ProtectHome": "yes",
    "ProtectHostname": "yes", "ProtectKernelLogs": "yes", "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes", "ProtectProc": "invisible", "ProtectSystem": "strict", "RemoveIPC": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX", "RestrictNamespaces": "yes", "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes", "SystemCallArchitectures": "native", "SystemCallErrorNumber": "EPERM",
    "SystemCallFilter": "@system-service", "UMask": "0077",
}  # fmt: skip

units = pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)


def read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser


def command(path: Path) -> list[str]:
    return shlex.split(read(path)["Service"]["ExecStart"])


@units
def test_unit_starts_the_command_in_its_name(path: Path) -> None:
    program, *arguments = command(path)

    assert program == "/opt/runhook/bin/runhook"
    assert arguments[0] == path.stem.removeprefix("runhook-")
    parse(arguments)


@units
def test_unit_sets_each_restriction(path: Path) -> None:
    service = dict(read(path)["Service"])

    assert {name: service.get(name) for name in HARDENING} == HARDENING


@units
def test_unit_restarts_except_after_a_wrong_config(path: Path) -> None:
    service = read(path)["Service"]

    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("always", "2")
    assert read(path)["Unit"]["StartLimitIntervalSec"] == "0"  # it never gives up


def test_systemd_waits_longer_than_a_stop_takes() -> None:
    seconds = {path.stem: float(read(path)["Service"]["TimeoutStopSec"]) for path in UNITS}
    page = (ROOT / "docs" / "how-to" / "deployment.md").read_text()
    stop_timeout = default("worker", "stop_timeout")

    assert seconds["runhook-worker"] > stop_timeout
    assert seconds["runhook-serve"] > STOP_TIMEOUT + LEAVE_WITHIN
    assert f"up to `--stop-timeout` ({stop_timeout:g} s)" in page
    assert f"up to {STOP_TIMEOUT} s" in page


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    # The other tests check the files wherever they run. systemd itself checks them where it is installed.
    if (analyze := shutil.which("systemd-analyze")) is None:
        return
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    for program in ("opt/runhook/bin/runhook", "bin/kill"):
        (tmp_path / program).parent.mkdir(parents=True)
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    for name in TARGETS:
        (folder / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    for path in UNITS:
        shutil.copy(path, folder)

    command = [analyze, "verify", f"--root={tmp_path}", "--man=no", *(path.name for path in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
