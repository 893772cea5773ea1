"""scripts/registries.py: tables are renewed from IANA's own form, and from nothing else."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.paths import ROOT

FOLDER = ROOT / "handlers" / "support" / "registries"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("registries_script", ROOT / "scripts" / "registries.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SCRIPT = load()


def rows_in(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


@pytest.fixture
def iana(tmp_path: Path) -> Path:
    """A copy of IANA's folders, of a later day, with the columns and line ends that its files have."""
    for registry in SCRIPT.REGISTRIES:
        place = tmp_path / "iana" / registry.place
        place.mkdir(parents=True)
        (place / f"{registry.place}.xml").write_text("<registry><updated>2027-01-31</updated></registry>")
        lines = rows_in(FOLDER / registry.file)
        if registry.file == "ipv6-unicast.csv":  # has three columns more, which are not kept
            lines = [f"{lines[0]},WHOIS,RDAP,Note", *(f'{line},whois.example,"a\r\nb",' for line in lines[1:])]
            lines.append('3ffe::/16,IANA,2008-04,RESERVED,,,"3ffe:831f::/32 was used\r\nfor Teredo"')
        (place / registry.table).write_bytes("\r\n".join([*lines, ""]).encode())
    return tmp_path / "iana"


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "ours"))


def test_a_newer_table_is_taken_in_our_form(iana: Path, ours: Path) -> None:
    for registry in SCRIPT.REGISTRIES:
        before = rows_in(ours / registry.file)

        said = SCRIPT.renew(registry, str(iana), ours, "2027-02-01")

        head = (ours / registry.file).read_text().splitlines()[0]
        assert head.startswith(f"# {registry.title}, last updated 2027-01-31")
        added = ["3ffe::/16,IANA,2008-04,RESERVED"] if registry.file == "ipv6-unicast.csv" else []
        assert rows_in(ours / registry.file) == before + added
        assert said.startswith(f"{registry.file}: now of 2027-01-31")
        assert SCRIPT.renew(registry, str(iana), ours, "2027-02-01").endswith("is of 2027-01-31 already")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<updated>2027-01-31</updated>", "<updated>2020-01-31</updated>", "an older copy"),
        ("<updated>2027-01-31</updated>", "", "says of no day"),
        ("Globally Reachable", "Global", "has no column Globally Reachable"),
        ("10.0.0.0/8", "10.0.0.1/8", "'10.0.0.1/8' is no block of addresses"),
        ("10.0.0.0/8", "<td>", "is no block of addresses"),
        ("True,True,True,False,False\r\n100.64", "True,True,True,maybe,False\r\n100.64", "'maybe' is neither True nor"),
        ("192.", "#", "is no block of addresses"),
    ],
)
def test_what_is_no_newer_table_is_not_taken(iana: Path, ours: Path, old: str, new: str, reason: str) -> None:
    registry = SCRIPT.REGISTRIES[0]
    before = (ours / registry.file).read_bytes()
    for path in (iana / registry.place).iterdir():
        path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))

    with pytest.raises(SCRIPT.Unfit, match=reason):
        SCRIPT.renew(registry, str(iana), ours, "2027-02-01")

    assert (ours / registry.file).read_bytes() == before


def test_a_table_that_was_cut_is_not_taken(iana: Path, ours: Path) -> None:
    registry = SCRIPT.REGISTRIES[2]
    path = iana / registry.place / registry.table
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:20]))
    with pytest.raises(SCRIPT.Unfit, match="is it cut"):
        SCRIPT.renew(registry, str(iana), ours, "2027-02-01")


def test_our_files_have_the_form_that_is_written(tmp_path: Path) -> None:
    for registry in SCRIPT.REGISTRIES:
        text = (FOLDER / registry.file).read_text()
        day = text.partition("last updated ")[2][:10]
        rows = SCRIPT.rows_of(registry, "\n".join(rows_in(FOLDER / registry.file)))
        written = SCRIPT.render(registry, rows, day, "2026-07-18").splitlines()
        assert [line for line in written if not line.startswith("#")] == rows_in(FOLDER / registry.file)
        assert SCRIPT.OFFICIAL in text
    with pytest.raises(SCRIPT.Unfit, match="must begin with https"):
        SCRIPT.read("http://example.com", "x")
