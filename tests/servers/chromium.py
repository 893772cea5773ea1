"""A browser: an installed Chromium, else Playwright's own, else the one that npm has, unpacked beside the environment.

chromium   one for the tests of a module; it reaches loopback alone, and its profile is gone with it
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from handlers.support.file_lock import FileLock

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PACKAGE: Final = "@sparticuz/chromium@147"
_UNPACKED: Final = Path(sys.prefix) / "chromium"
_NONE: Final = (
    "there is no browser: install chromium (apt-get install chromium), or run `playwright install chromium`, or have "
    f"npm at hand, which has {_PACKAGE}"
)
_ARGUMENTS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright  # 0.3 s that other tests need not wait

    # Of a module and no longer: while it is there, nothing else of this process may run an event loop.
    with sync_playwright() as playwright:
        path, environ, arguments = _found(playwright)
        browser = playwright.chromium.launch(
            executable_path=path, env={**os.environ, **environ}, args=[*_ARGUMENTS, *arguments]
        )
        yield browser
        browser.close()


def _found(playwright: Playwright) -> tuple[str, dict[str, str], list[str]]:
    """Return where a browser is, and the variables and arguments that it needs. Skips the test where there is none."""
    installed = next((found for name in _NAMES if (found := shutil.which(name))), None)
    own = playwright.chromium.executable_path
    if installed or Path(own).exists():
        return installed or own, {}, []
    _UNPACKED.mkdir(exist_ok=True)
    with FileLock(_UNPACKED / ".lock").held(600):
        if not (_UNPACKED / "chromium").exists() and not _unpacked():
            pytest.skip(_NONE)
    environ = {"LD_LIBRARY_PATH": str(_UNPACKED / "al2023" / "lib"), "FONTCONFIG_PATH": str(_UNPACKED / "fonts")}
    return str(_UNPACKED / "chromium"), environ, ["--headless=shell"]


def _unpacked() -> bool:
    """Fetch the browser that npm has. Returns whether that was possible."""
    npm = shutil.which("npm")
    if npm is None:
        return False
    packed = subprocess.run([npm, "pack", "--silent", _PACKAGE], cwd=_UNPACKED, capture_output=True, text=True)
    if packed.returncode:
        return False
    archive = _UNPACKED / packed.stdout.split()[-1]
    with tarfile.open(archive) as package:
        parts = {Path(each.name).name: each for each in package.getmembers() if each.name.endswith(".br")}
        for name, folder in (("al2023.tar.br", ""), ("fonts.tar.br", ""), ("swiftshader.tar.br", "")):
            with tarfile.open(fileobj=io.BytesIO(_read(package, parts[name]))) as inner:
                inner.extractall(_UNPACKED / folder, filter="data")
        program = _UNPACKED / "chromium.new"
        program.write_bytes(_read(package, parts["chromium.br"]))
    program.chmod(0o755)
    program.rename(_UNPACKED / "chromium")
    archive.unlink()
    return True


def _read(package: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    import brotli

    file = package.extractfile(member)
    assert file is not None
    return bytes(brotli.decompress(file.read()))
