"""Every block of IANA's tables, at its borders and beyond them: which addresses a payload may reach."""

from __future__ import annotations

import ipaddress
import itertools
from importlib import resources

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers.support.address_policy import why_forbidden
from handlers.support.address_registries import IPAddress, IPNetwork

# What may be reached, in full and by hand: (first, last) of each range. The tables must say the same, row by row.
IPV4 = """
1.0.0.0-9.255.255.255 11.0.0.0-100.63.255.255 100.128.0.0-126.255.255.255 128.0.0.0-169.253.255.255
169.255.0.0-172.15.255.255 172.32.0.0-191.255.255.255 192.0.1.0-192.0.1.255 192.0.3.0-192.88.98.255
192.88.100.0-192.167.255.255 192.169.0.0-198.17.255.255 198.20.0.0-198.51.99.255 198.51.101.0-203.0.112.255
203.0.114.0-223.255.255.255
"""
IPV6 = """
64:ff9b::1.0.0.0-64:ff9b::9.255.255.255
2001:3::-2001:3:ffff:ffff:ffff:ffff:ffff:ffff 2001:4:112::-2001:4:112:ffff:ffff:ffff:ffff:ffff
2001:20::-2001:3f:ffff:ffff:ffff:ffff:ffff:ffff
2001:200::-2001:db7:ffff:ffff:ffff:ffff:ffff:ffff 2001:db9::-2001:fff:ffff:ffff:ffff:ffff:ffff:ffff
2001:1200::-2001:4dff:ffff:ffff:ffff:ffff:ffff:ffff
2001:5000::-2001:5fff:ffff:ffff:ffff:ffff:ffff:ffff 2001:8000::-2001:bfff:ffff:ffff:ffff:ffff:ffff:ffff
2003::-2003:3fff:ffff:ffff:ffff:ffff:ffff:ffff 2400::-241f:ffff:ffff:ffff:ffff:ffff:ffff:ffff
2600::-260f:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2610::-2610:1ff:ffff:ffff:ffff:ffff:ffff:ffff
2620::-2620:1ff:ffff:ffff:ffff:ffff:ffff:ffff 2630::-263f:ffff:ffff:ffff:ffff:ffff:ffff:ffff
2800::-280f:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2a00::-2a1f:ffff:ffff:ffff:ffff:ffff:ffff:ffff
2c00::-2c0f:ffff:ffff:ffff:ffff:ffff:ffff:ffff
"""
AZURE = "168.63.129.16"  # a metadata address in the middle of a public range
STANDS_FOR_IPV4 = [int(ipaddress.IPv6Address(prefix)) for prefix in ("::ffff:0:0", "64:ff9b::")]


def ranges(text: str) -> list[tuple[IPAddress, IPAddress]]:
    found = []
    for each in text.split():
        first, _, last = each.partition("-")
        found.append((ipaddress.ip_address(first), ipaddress.ip_address(last)))
    return found


REACHABLE = ranges(IPV4) + ranges(IPV6)


def expected(address: IPAddress) -> bool:
    """Whether the table by hand lets the address through."""
    if isinstance(address, ipaddress.IPv6Address):
        number = int(address)
        if (number >> 32) & 0xFFFF_FFFF in (0x5EFE, 0x0200_5EFE):
            return False
        for prefix in STANDS_FOR_IPV4:
            if number >> 32 == prefix >> 32:
                return expected(ipaddress.IPv4Address(number & 0xFFFF_FFFF))
    if str(address) == AZURE:
        return False
    return any(first.version == address.version and first <= address <= last for first, last in REACHABLE)  # type: ignore[operator]


def rows(name: str) -> list[IPNetwork]:
    text = resources.files("handlers.support").joinpath("registries", name).read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("#", "Address Block", "Prefix"))]
    cells = [line.split('"')[1] if line.startswith('"') else line.split(",")[0] for line in lines]
    return [ipaddress.ip_network(text.split()[0]) for cell in cells for text in cell.split(",")]


BLOCKS = sorted(
    {
        *itertools.chain(*(rows(f"ipv{n}-special.csv") for n in (4, 6))),
        *rows("ipv6-unicast.csv"),
        *map(ipaddress.ip_network, ("224.0.0.0/4", "ff00::/8", "fec0::/10", "4000::/3", "2000::/3", "::/96")),
        *(network for first, last in REACHABLE for network in ipaddress.summarize_address_range(first, last)),  # type: ignore[type-var]
    },
    key=lambda network: (network.version, int(network.network_address), network.prefixlen),
)


def at_the_borders(network: IPNetwork) -> set[IPAddress]:
    """Return the first and last address of a block, those beside them, and one in its middle."""
    first, last = int(network.network_address), int(network.broadcast_address)
    kind = type(network.network_address)
    top = (1 << network.max_prefixlen) - 1
    return {
        kind(n) for n in (first - 1, first, first + 1, (first + last) // 2, last - 1, last, last + 1) if 0 <= n <= top
    }


@pytest.mark.parametrize("network", BLOCKS, ids=str)
def test_a_block_is_reachable_by_its_row_and_at_every_border(network: IPNetwork) -> None:
    wrong = [str(each) for each in at_the_borders(network) if (why_forbidden(each) == "") is not expected(each)]

    assert wrong == []


def test_the_tables_are_whole() -> None:
    assert len(rows("ipv4-special.csv")) == 26
    assert len(rows("ipv6-special.csv")) == 25
    assert len(rows("ipv6-unicast.csv")) == 41


@pytest.mark.parametrize("prefix", ["::ffff:0:0", "64:ff9b::"])
@given(number=st.integers(0, 2**32 - 1))
@example(number=int(ipaddress.IPv4Address("169.254.169.254")))
@example(number=int(ipaddress.IPv4Address(AZURE)))
def test_an_address_that_stands_for_an_ipv4_one_is_judged_as_that(prefix: str, number: int) -> None:
    inside = ipaddress.IPv4Address(number)
    outside = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + number)

    assert (why_forbidden(outside) == "") is (why_forbidden(inside) == "")
    assert why_forbidden(inside) in why_forbidden(outside)


@given(number=st.integers(0, 2**32 - 1), low=st.integers(0, 2**80 - 1))
@example(number=int(ipaddress.IPv4Address("8.8.8.8")), low=0)
def test_a_relay_is_never_used_whatever_it_would_lead_to(number: int, low: int) -> None:
    relayed = [
        (0x2002 << 112) | (number << 80) | low,  # 6to4
        (0x2001_0000 << 96) | (number << 64) | (low & (2**64 - 1)),  # Teredo, by its server
        (0x2001_0000 << 96) | (number ^ 0xFFFF_FFFF),  # and by its client
        (0x0064_FF9B_0001 << 80) | number,  # NAT64 of a network's own
        (0xFFFF << 48) | number,  # a translated one; below: a compatible one
        number,
    ]

    assert all(why_forbidden(ipaddress.IPv6Address(each)) for each in relayed)


@given(st.integers(0, 2**128 - 1))
def test_any_ipv6_address_is_judged_as_the_table_by_hand_judges_it(number: int) -> None:
    for address in (ipaddress.IPv6Address(number), ipaddress.IPv6Address((number >> 3) | (1 << 125))):
        assert (why_forbidden(address) == "") is expected(address)


@given(st.integers(0, 2**32 - 1))
def test_any_ipv4_address_is_judged_as_the_table_by_hand_judges_it(number: int) -> None:
    address = ipaddress.IPv4Address(number)

    assert (why_forbidden(address) == "") is expected(address)
