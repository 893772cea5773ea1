"""Networks: what counts as one sender, and which hosts are on this network."""

from __future__ import annotations

import ipaddress
from typing import Final

# Endings of names that no public name server knows.
_LOCAL: Final = (".local", ".localhost", ".internal", ".svc")


def network_of(address: str) -> str:
    """Return an IPv4 address as it is, and the /64 network of an IPv6 address, all of which one sender may have."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


def is_local_host(host: str) -> bool:
    """Whether a host is this machine or on its network, as far as its name or address shows: it is not looked up."""
    host = host.rstrip(".").lower()
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_LOCAL)
