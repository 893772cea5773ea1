"""mkdocs.yml: the navigation has each page once, and `make docs` builds a site that loads nothing from other hosts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import yaml

from scripts.reference import generated
from scripts.site import external_resources
from tests.support.paths import ROOT

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def pages_in(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from pages_in(target) if isinstance(target, list) else [target]


def test_navigation_has_each_page_once() -> None:
    committed = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    expected = committed | {f"reference/{name}" for name in generated()}

    assert Counter(pages_in(CONFIG["nav"])) == Counter(expected)


def test_resource_from_another_host_is_found() -> None:
    assert external_resources('<a href="https://a.example"><link href="assets/x.css"><script src="x.js">') == []
    assert external_resources('<script async src="https://cdn.example/x.js"></script>') == ["https://cdn.example/x.js"]
    assert external_resources('<link rel="preconnect" href="//fonts.example">') == ["//fonts.example"]
    assert external_resources("<style>@import url(https://fonts.example/a)</style>") == ["https://fonts.example/a"]
