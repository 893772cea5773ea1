"""Write handlers/support/registries anew from IANA's own tables, or say why they are not taken.

    python scripts/registries.py                    from https://www.iana.org/assignments
    python scripts/registries.py --from URL|FOLDER  from a copy of it, with the same paths

Then `pytest tests/unit/handlers/test_address_registries.py` says which verdicts change by that: look at each of them,
and change the test's own ranges by hand. Needs Python alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import ipaddress
import re
import sys
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

OFFICIAL: Final = "https://www.iana.org/assignments"
FOLDER: Final = Path(__file__).parent.parent / "handlers" / "support" / "registries"
# Seconds for one file, and bytes of the largest.
TIMEOUT: Final = 30
LARGEST: Final = 1 << 20

_SPECIAL: Final = (
    *("Address Block", "Name", "RFC", "Allocation Date", "Termination Date", "Source", "Destination", "Forwardable"),
    *("Globally Reachable", "Reserved-by-Protocol"),
)


@dataclass(frozen=True)
class Registry:
    """A table. `place`: its folder at IANA, which has its XML too, with the day of its last change. `table`: its CSV.

    `columns`: those that are kept. `block`: the one that has addresses. `note`: a line for the head of the file.
    """

    file: str
    title: str
    place: str
    table: str
    columns: tuple[str, ...]
    block: str
    note: str = ""


REGISTRIES: Final = (
    *(
        Registry(
            f"ipv{version}-special.csv",
            f"IANA IPv{version} Special-Purpose Address Registry",
            f"iana-ipv{version}-special-registry",
            f"iana-ipv{version}-special-registry-1.csv",
            _SPECIAL,
            "Address Block",
        )
        for version in (4, 6)
    ),
    Registry(
        "ipv6-unicast.csv",
        "IANA IPv6 Global Unicast Address Assignments",
        "ipv6-unicast-address-assignments",
        "ipv6-unicast-address-assignments.csv",
        ("Prefix", "Designation", "Date", "Status"),
        "Prefix",
        "Only 2000::/3 is assigned\n# (https://www.iana.org/assignments/ipv6-address-space); what this table does not"
        " list is reserved as well.",
    ),
)


class Unfit(Exception):
    """What was read is no such table, or an older one."""


def read(base: str, path: str) -> str:
    """Return a file of IANA's, or of a copy. Raises OSError."""
    if "://" not in base:
        return (Path(base) / path).read_text("utf-8")
    if not base.startswith(("https://", "http://127.0.0.1")):
        raise Unfit(f"{base}: must begin with https://")
    with urllib.request.urlopen(f"{base.rstrip('/')}/{path}", timeout=TIMEOUT) as answer:
        return str(answer.read(LARGEST + 1)[:LARGEST].decode("utf-8"))


def rows_of(registry: Registry, text: str) -> list[dict[str, str]]:
    """Return the rows of a table. Raises Unfit for what is none."""
    table = csv.DictReader(io.StringIO(text))
    if missing := [name for name in registry.columns if name not in (table.fieldnames or ())]:
        raise Unfit(f"{registry.table}: has no column {missing[0]}")
    rows = [{name: " ".join((row[name] or "").split()) for name in registry.columns} for row in table]
    for row in rows:
        for block in row[registry.block].split(","):
            try:
                ipaddress.ip_network(block.split()[0])
            except (ValueError, IndexError):
                raise Unfit(f"{registry.table}: {row[registry.block][:60]!r} is no block of addresses") from None
        reachable = row.get("Globally Reachable", "")
        if not re.fullmatch(r"(True|False|N/A)?( \[\d+\])*", reachable):
            raise Unfit(f"{registry.table}: {row[registry.block]}: {reachable[:60]!r} is neither True nor False")
    return rows


def day_of(registry: Registry, xml: str) -> str:
    """Return the day of the last change, as its XML says. Raises Unfit."""
    found = re.search(r"<updated>(\d{4}-\d\d-\d\d)</updated>", xml)
    if not found:
        raise Unfit(f"{registry.place}.xml: says of no day that it was updated")
    return found[1]


def render(registry: Registry, rows: list[dict[str, str]], day: str, today: str) -> str:
    """Return the file."""
    out = io.StringIO()
    note = f". {registry.note}" if registry.note else f", as read on {today}"
    out.write(f"# {registry.title}, last updated {day}{note}\n# {OFFICIAL}/{registry.place}/{registry.table}\n")
    writer = csv.DictWriter(out, registry.columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def renew(registry: Registry, base: str, folder: Path, today: str) -> str:
    """Write one file, and return what became of it. Raises Unfit, with nothing written, and OSError."""
    path = folder / registry.file
    before = path.read_text("utf-8") if path.exists() else ""
    day = day_of(registry, read(base, f"{registry.place}/{registry.place}.xml"))
    rows = rows_of(registry, read(base, f"{registry.place}/{registry.table}"))
    known = re.search(r"last updated (\d{4}-\d\d-\d\d)", before)
    if known and day < known[1]:
        raise Unfit(f"{registry.file}: is of {known[1]}, and what was read of {day}: an older copy")
    old = sum(not line.startswith("#") for line in before.splitlines()) - 1
    if len(rows) < old * 0.9:
        raise Unfit(f"{registry.file}: has {old} rows, and what was read {len(rows)}: is it cut?")
    if known and day == known[1]:
        return f"{registry.file}: is of {day} already"
    path.write_text(render(registry, rows, day, today), "utf-8")
    return f"{registry.file}: now of {day}, {len(rows)} rows"


def main() -> int:
    """Renew all files; 1 when one was not taken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--from", dest="base", default=OFFICIAL, help="where the tables are (default: IANA)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are")
    given = parser.parse_args()
    failed = False
    for registry in REGISTRIES:
        try:
            print(renew(registry, given.base, given.folder, datetime.now(UTC).strftime("%Y-%m-%d")))
        except (Unfit, OSError, ValueError) as problem:
            print(f"{registry.file}: not renewed: {problem}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
