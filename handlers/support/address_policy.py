"""The network addresses that payloads must not reach, the operator's exceptions, and name resolution.

It opens no connections: guarded_client.py does.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import wait

from handlers.support.daemon_pool import in_thread

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
# (host, port, seconds) → addresses as text. Raises OSError, TimeoutError among them.
Resolver = Callable[[str, int, float], Sequence[str]]

_PRIVATE, _RESERVED = "a private address", "a reserved address"
_METADATA = "a cloud metadata address"
# Forbidden networks, with reasons. The first match counts; IPv6 addresses outside 2000::/3 are reserved. Clouds serve
# secrets at the metadata addresses.
_DENIED: tuple[tuple[IPNetwork, str], ...] = tuple(
    (ipaddress.ip_network(network), why)
    for network, why in {
        "169.254.169.254/32": _METADATA,
        "168.63.129.16/32": _METADATA,  # Azure's, in a public range
        "100.100.100.200/32": _METADATA,
        "192.0.0.192/32": _METADATA,
        "fd00:ec2::/32": _METADATA,
        "fd20:ce::/32": _METADATA,
        "0.0.0.0/8": "not an address of a host",
        "10.0.0.0/8": _PRIVATE,
        "100.64.0.0/10": "a shared address (carrier-grade NAT)",
        "127.0.0.0/8": "a loopback address",
        "169.254.0.0/16": "a link-local address",
        "172.16.0.0/12": _PRIVATE,
        "192.0.0.0/24": _RESERVED,
        "192.0.2.0/24": _RESERVED,
        "192.88.99.0/24": _RESERVED,
        "192.168.0.0/16": _PRIVATE,
        "198.18.0.0/15": _RESERVED,
        "198.51.100.0/24": _RESERVED,
        "203.0.113.0/24": _RESERVED,
        "224.0.0.0/4": "a multicast address",
        "240.0.0.0/4": _RESERVED,
        "::/128": "not an address of a host",
        "::1/128": "a loopback address",
        "::/96": "an IPv4 address inside IPv6",
        "::ffff:0:0:0/96": "an IPv4 address inside IPv6",
        "64:ff9b:1::/48": "an IPv4 address inside IPv6 (NAT64)",
        "2001::/32": "an IPv4 address inside IPv6 (Teredo)",
        "2001::/23": _RESERVED,
        "2001:db8::/32": _RESERVED,
        "2002::/16": "an IPv4 address inside IPv6 (6to4)",
        "3fff::/20": _RESERVED,
        "fc00::/7": _PRIVATE,
        "fe80::/10": "a link-local address",
        "fec0::/10": _PRIVATE,
        "ff00::/8": "a multicast address",
    }.items()
)
_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
# IPv6 ranges that embed an IPv4 address and connect to it.
_STANDS_FOR_IPV4 = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), ""),
    (ipaddress.IPv6Network("64:ff9b::/96"), " (NAT64)"),  # used by DNS64
)
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})


def why_forbidden(address: IPAddress) -> str:
    """Return why no payload may reach this address ("a loopback address"), or "".

    An embedded IPv4 address is checked instead.
    """
    if isinstance(address, ipaddress.IPv6Address):
        for network, kind in _STANDS_FOR_IPV4:
            if address in network:
                why = why_forbidden(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
                return f"{why} inside IPv6{kind}" if why else ""
    for denied, why in _DENIED:
        if address.version == denied.version and address in denied:
            return why
    if isinstance(address, ipaddress.IPv4Address):
        return ""
    if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        return "an IPv4 address inside IPv6 (ISATAP)"
    return "" if address in _IPV6_UNICAST else _RESERVED


def literal_addresses(host: str) -> list[IPAddress]:
    """Return the addresses of `host` that need no DNS; [] for other names.

    Accepts localhost, and any spelling of an address that the system accepts (127.1, 0x7f000001, [::1]).
    """
    text = host.strip("[]").rstrip(".").lower()
    if text == "localhost" or text.endswith(".localhost"):
        return [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    try:
        return [ipaddress.ip_address(text)]
    except ValueError:
        pass
    try:
        return [ipaddress.ip_address(socket.inet_aton(text))] if _NUMERIC.fullmatch(text) else []
    except OSError:
        return []


class AllowedAddresses:
    """The private hosts, addresses and networks that the operator allows."""

    def __init__(self, entries: Sequence[str]) -> None:
        """`entries`: host names ("minio.internal"), addresses, or CIDR networks ("10.1.0.0/16"); a name or address may
        have a port ("skyvern:8000", "[fd00::1]:8000"), to allow only that port.

        Raises ValueError for any other entry.
        """
        self._hosts: set[tuple[str, int | None]] = set()
        self._networks: list[tuple[IPNetwork, int | None]] = []
        for entry in entries:
            match = _LISTED.fullmatch(entry.strip())
            text = "" if match is None else match["inner"] or match["host"] or match["whole"]
            number = None if match is None else match["port6"] or match["port4"]
            port = int(number) if number else None
            try:
                self._networks.append((ipaddress.ip_network(text, strict=False), port))
            except ValueError:
                if not text or any(mark in text for mark in "/:@* []") or port == 0 or (port or 0) > 65535:
                    raise ValueError(
                        f"{entry!r} is not a host name, address or network like minio.internal, 10.1.2.3 or 10.1.0.0/16"
                    ) from None
                self._hosts.add((text.lower().rstrip("."), port))

    def check(self, host: str, address: IPAddress, port: int = 0) -> str:
        """Return why `host` at `address` must not be called, or ""."""
        name = host.lower().rstrip(".")
        if (name, None) in self._hosts or (name, port) in self._hosts:
            return ""
        for network, only in self._networks:
            if address.version == network.version and address in network and only in (None, port):
                return ""
        return why_forbidden(address)


# [address]:port, name:port, or a bare name, address or network (an IPv6 address has several colons)
_LISTED = re.compile(
    r"\[(?P<inner>[^\]]*)\](?::(?P<port6>\d{1,5}))?|(?P<host>[^:\[\]/]+):(?P<port4>\d{1,5})|(?P<whole>.+)"
)
_NUMERIC = re.compile(r"[0-9a-fx]+(\.[0-9a-fx]+){0,3}")


def resolve(host: str, port: int, seconds: float) -> Sequence[str]:
    """Return the addresses of `host` by the system's resolver. Raises OSError, TimeoutError after `seconds`.

    A hung lookup stays in its thread.
    """

    def look_up() -> list[str]:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return [str(answer[4][0]) for answer in answers]
        except UnicodeError:
            raise OSError("not a host name") from None

    future = in_thread("resolve", look_up)
    if not wait([future], seconds).done:
        raise TimeoutError("the lookup took too long")
    return list(dict.fromkeys(future.result()))
