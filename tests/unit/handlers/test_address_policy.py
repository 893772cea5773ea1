"""Which addresses a payload may reach, against IANA's tables: at the borders of each block, and anywhere."""

import csv
import ipaddress
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers.support.address_policy import IPAddress, IPNetwork, why_forbidden
from tests.support.paths import ROOT

AZURE = "168.63.129.16"  # a metadata address in the middle of a public range
TABLES = ROOT / "tests" / "support" / "data" / "registries"
# Globally reachable by IANA's tables and denied here: answered by the nearest network, or not addresses of web servers.
STRICTER = [*map(ipaddress.ip_network, ("192.0.0.0/24", "2001::/23", "fec0::/10", AZURE))]


def rows(name: str) -> Iterator[dict[str, str]]:
    lines = (TABLES / name).read_text(encoding="utf-8").splitlines()
    return csv.DictReader(line for line in lines if not line.startswith("#"))


@cache
def special_blocks() -> list[tuple[IPNetwork, bool]]:
    """Return IANA's special-purpose blocks, the most specific first, and whether each is reachable from anywhere."""
    found = [
        (ipaddress.ip_network(text.split()[0]), row["Globally Reachable"] == "True")
        for name in ("ipv4-special.csv", "ipv6-special.csv")
        for row in rows(name)
        for text in row["Address Block"].split(",")
    ]
    return sorted(found, key=lambda block: -block[0].prefixlen)


ALLOCATED = [ipaddress.ip_network(row["Prefix"]) for row in rows("ipv6-unicast.csv") if row["Status"] == "ALLOCATED"]
BORDERS = sorted({*ALLOCATED, *(block for block, _ in special_blocks()), *STRICTER}, key=str)


def holds(network: IPNetwork, address: IPAddress) -> bool:
    return network.version == address.version and address in network


def is_reachable(address: IPAddress) -> bool:
    """Whether IANA's tables say that the address is reachable from anywhere."""
    found = next((reachable for block, reachable in special_blocks() if holds(block, address)), None)
    if found is not None:
        return found
    return (address.version == 4 and int(address) >> 28 < 14) or any(holds(block, address) for block in ALLOCATED)


def verdict_is_right(address: IPAddress) -> bool:
    """Whether a verdict is as IANA's tables say, stricter on purpose, or looser where no packet can be routed."""
    allowed = not why_forbidden(address)
    if allowed == is_reachable(address) or (not allowed and any(holds(each, address) for each in STRICTER)):
        return True
    number = int(address)
    if address.version == 4:
        return False
    if number >> 32 in (0xFFFF, 0x64_FF9B << 64):  # stands for an IPv4 address
        return verdict_is_right(ipaddress.IPv4Address(number & 0xFFFF_FFFF))
    is_isatap = (number >> 32) & 0xFFFF_FFFF in (0x5EFE, 0x0200_5EFE)
    unallocated = number >> 125 == 1 and not any(holds(block, address) for block, _ in special_blocks())
    return is_isatap if not allowed else unallocated and not any(holds(block, address) for block in ALLOCATED)


@pytest.mark.parametrize("network", BORDERS, ids=str)
def test_a_block_has_its_verdict_up_to_its_borders(network: IPNetwork) -> None:
    first, last = int(network.network_address), int(network.broadcast_address)
    kind, top = type(network.network_address), (1 << network.max_prefixlen) - 1
    near = {n for n in (first - 1, first, first + 1, (first + last) // 2, last - 1, last, last + 1) if 0 <= n <= top}

    assert [str(kind(number)) for number in near if not verdict_is_right(kind(number))] == []


@given(st.integers(0, 2**32 - 1))
@example(int(ipaddress.IPv4Address(AZURE)))
def test_any_ipv4_address_has_the_verdict_of_its_block(number: int) -> None:
    assert verdict_is_right(ipaddress.IPv4Address(number))


@given(st.integers(0, 2**128 - 1))
def test_any_ipv6_address_has_the_verdict_of_its_block(number: int) -> None:
    for address in (ipaddress.IPv6Address(number), ipaddress.IPv6Address((number >> 3) | (1 << 125))):
        assert verdict_is_right(address)


@pytest.mark.parametrize("prefix", ["::ffff:0:0", "64:ff9b::"])
@given(number=st.integers(0, 2**32 - 1))
@example(number=int(ipaddress.IPv4Address("169.254.169.254")))
@example(number=int(ipaddress.IPv4Address(AZURE)))
def test_an_address_that_stands_for_ipv4_is_judged_as_that(prefix: str, number: int) -> None:
    inside = ipaddress.IPv4Address(number)
    outside = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + number)

    assert (why_forbidden(outside) == "") is (why_forbidden(inside) == "")
    assert why_forbidden(inside) in why_forbidden(outside)


@given(number=st.integers(0, 2**32 - 1), low=st.integers(0, 2**80 - 1))
@example(number=int(ipaddress.IPv4Address("8.8.8.8")), low=0)
def test_a_relay_is_never_used_whatever_it_leads_to(number: int, low: int) -> None:
    relayed = [
        (0x2002 << 112) | (number << 80) | low,  # 6to4
        (0x2001_0000 << 96) | (number << 64) | (low & (2**64 - 1)),  # Teredo, by its server
        (0x2001_0000 << 96) | (number ^ 0xFFFF_FFFF),  # Teredo, by its client
        (0x0064_FF9B_0001 << 80) | number,  # NAT64 of a network's own
        (0xFFFF << 48) | number,  # a translated address
        number,  # a compatible address
    ]

    assert all(why_forbidden(ipaddress.IPv6Address(each)) for each in relayed)


KINDS = {
    "127.0.0.1": "loopback", "0.0.0.0": "not an address", "10.0.0.1": "private", "168.63.129.16": "metadata",
    "fd00:ec2::254": "metadata", "169.254.1.1": "link-local", "100.64.0.1": "shared", "192.0.0.8": "reserved",
    "224.0.0.1": "multicast", "::ffff:127.0.0.1": "inside IPv6", "64:ff9b::7f00:1": "NAT64", "2002:7f00:1::": "6to4",
    "2606:4700::5efe:7f00:1": "ISATAP",
}  # fmt: skip


@pytest.mark.parametrize("address", KINDS)
def test_denied_address_is_named_by_its_kind(address: str) -> None:
    assert KINDS[address] in why_forbidden(ipaddress.ip_address(address))
