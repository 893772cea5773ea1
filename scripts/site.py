"""Build the documentation site into site/: `make docs`.

Exits with 1 where a link or an anchor leads nowhere (Zensical's strict mode), or where a page of the site would load a
font, script, style or image from another host.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_RESOURCE = re.compile(
    r"""<(?:link|script|img|iframe|source|audio|video)\b[^>]*?\b(?:href|src|srcset)=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|url\(["']?((?:https?:)?//[^"')]+)"""
)


def external_resources(html: str) -> list[str]:
    """Return the addresses on other hosts that a browser loads with the page, links to follow left out."""
    return [first or second for first, second in _RESOURCE.findall(html)]


def main() -> int:
    """Build the site, check its pages, and return the exit code."""
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False
    )
    if built.returncode:
        report = re.sub(r"\x1b\[[0-9;]*m", "", built.stdout + built.stderr).partition("Traceback")[0]
        print(report.strip(), file=sys.stderr)
        return 1
    pages = sorted((ROOT / "site").rglob("*.html"))
    external = {page: found for page in pages if (found := external_resources(page.read_text(encoding="utf-8")))}
    for page, addresses in external.items():
        print(f"{page.relative_to(ROOT)} loads from another host: {', '.join(addresses)}", file=sys.stderr)
    if not external:
        print(f"{len(pages)} pages in site/; preview: python -m http.server --directory site")
    return 1 if external else 0


if __name__ == "__main__":
    sys.exit(main())
