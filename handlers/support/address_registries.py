"""IANA's tables of IP addresses as data files, and what they say of one address. Pure; knows no sink and no operator.

    registries/ipv4-special.csv   https://www.iana.org/assignments/iana-ipv4-special-registry/iana-ipv4-special-registry-1.csv
    registries/ipv6-special.csv   https://www.iana.org/assignments/iana-ipv6-special-registry/iana-ipv6-special-registry-1.csv
    registries/ipv6-unicast.csv   https://www.iana.org/assignments/ipv6-unicast-address-assignments

Each file begins with comments: where it comes from, and of which day. scripts/registries.py renews them; the test over
every block then says which verdicts change by that.
"""

from __future__ import annotations

import csv
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# Of the registry of all IPv4 addresses (https://www.iana.org/assignments/ipv4-address-space): every other block is
# allocated to somebody. Reserved ones are in the special-purpose registry.
_IPV4_UNICAST: Final = ipaddress.IPv4Network("0.0.0.0/0")
_IPV4_MULTICAST: Final = ipaddress.IPv4Network("224.0.0.0/4")
_IPV6_MULTICAST: Final = ipaddress.IPv6Network("ff00::/8")
# Blocks in the table of unicast allocations that belong to no regional registry, and so to no host.
_NO_REGION: Final = frozenset({"IANA", "6to4"})


@dataclass(frozen=True, slots=True)
class Block:
    """A row of a registry. `is_global`: whether its addresses are reachable from anywhere, as far as the row says."""

    network: IPNetwork
    name: str
    is_global: bool


@cache
def special_blocks() -> tuple[Block, ...]:
    """Return the special-purpose blocks of both families, the most specific first."""
    found = [
        Block(ipaddress.ip_network(text.split()[0]), row["Name"].strip('"'), row["Globally Reachable"] == "True")
        for name in ("ipv4-special.csv", "ipv6-special.csv")
        for row in _rows(name)
        for text in row["Address Block"].split(",")  # one row may name several; a footnote's number follows some
    ]
    return tuple(sorted(found, key=lambda block: -block.network.prefixlen))


@cache
def unicast_blocks() -> tuple[Block, ...]:
    """Return the blocks that are allotted for unicast: all of IPv4 that is no multicast, and IPv6 by its table."""
    found = [Block(_IPV4_MULTICAST, "Multicast", False), Block(_IPV4_UNICAST, "IPv4", True)]
    for row in _rows("ipv6-unicast.csv"):
        given = row["Status"] == "ALLOCATED" and row["Designation"] not in _NO_REGION
        found.append(Block(ipaddress.ip_network(row["Prefix"]), row["Designation"], given))
    return tuple(found)


def special_block(address: IPAddress) -> Block | None:
    """Return the most specific special-purpose block that holds the address, or None."""
    return next((block for block in special_blocks() if _holds(block, address)), None)


def is_allotted(address: IPAddress) -> bool:
    """Whether the address is in a block that somebody may give to a host: of a regional registry, and no multicast."""
    block = next((block for block in unicast_blocks() if _holds(block, address)), None)
    return block is not None and block.is_global


def is_multicast(address: IPAddress) -> bool:
    """Whether the address is one of a group and not of a host."""
    return address in (_IPV4_MULTICAST if address.version == 4 else _IPV6_MULTICAST)


def _holds(block: Block, address: IPAddress) -> bool:
    return block.network.version == address.version and address in block.network


def _rows(name: str) -> Iterator[dict[str, str]]:
    text = resources.files("handlers.support").joinpath("registries", name).read_text("utf-8")
    return csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
