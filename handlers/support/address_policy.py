"""Which network addresses a payload must not reach, which of them the operator allows, and how a name is resolved.

It opens no connection and knows no protocol: guarded_client.py does.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import wait

from handlers.support import address_registries as registries
from handlers.support.address_registries import IPAddress, IPNetwork
from handlers.support.daemon_pool import in_thread

# (host, port, seconds) → addresses as text. Raises OSError, TimeoutError among them.
Resolver = Callable[[str, int, float], Sequence[str]]

# Addresses at which a cloud tells its own machines their secrets, whatever the registries say of them.
_METADATA: tuple[IPNetwork, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.169.254/32",
        "168.63.129.16/32",  # Azure's, in a public range
        "100.100.100.200/32",
        "192.0.0.192/32",
        "fd00:ec2::/32",
        "fd20:ce::/32",
    )
)
# Special-purpose blocks in words, by their names in the registries. Every other one is "a reserved address".
_WORDS = {
    "Loopback": "a loopback address",
    "Loopback Address": "a loopback address",
    "Link Local": "a link-local address",
    "Link-Local Unicast": "a link-local address",
    "Private-Use": "a private address",
    "Unique-Local": "a private address",
    "Shared Address Space": "a shared address (carrier-grade NAT)",
    "This network": "no address of a host",
    "This host on this network": "no address of a host",
    "Unspecified Address": "no address of a host",
}
# Reachable from anywhere as the registries see it, and yet answered by the network that one is in.
_ANSWERED_NEARBY = frozenset(
    {
        "Port Control Protocol Anycast",
        "Traversal Using Relays around NAT Anycast",
        "DNS-SD Service Registration Protocol Anycast",
    }
)
_SITE_LOCAL = ipaddress.IPv6Network("fec0::/10")  # deprecated (RFC 3879), and in no registry; routers may still know it
# IPv6 addresses that stand for an IPv4 one: a connection to them is one to that, so it is judged.
_STANDS_FOR_IPV4 = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), ""),
    (ipaddress.IPv6Network("64:ff9b::/96"), " (NAT64)"),  # what a network with IPv6 alone resolves names to (DNS64)
)
# Ones that take a packet to an IPv4 address by way of a relay, which nobody knows: refused whatever they hold.
_RELAYED = (
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), ""),
    (ipaddress.IPv6Network("::/96"), ""),
    (ipaddress.IPv6Network("64:ff9b:1::/48"), " (NAT64)"),
    (ipaddress.IPv6Network("2002::/16"), " (6to4)"),
    (ipaddress.IPv6Network("2001::/32"), " (Teredo)"),
)
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})


def why_forbidden(address: IPAddress) -> str:
    """Return why no payload may reach this address ("a loopback address"), or "".

    Allowed is what IANA's registries say is global unicast: in a block that is allotted, and in no special-purpose
    block that is not reachable from anywhere. An address that stands for an IPv4 one is judged as that.
    """
    if any(address.version == network.version and address in network for network in _METADATA):
        return "a cloud metadata address"
    if isinstance(address, ipaddress.IPv6Address):
        return _why_forbidden_6(address)
    return _why_not_global(address)


def _why_forbidden_6(address: ipaddress.IPv6Address) -> str:
    for network, kind in _STANDS_FOR_IPV4:
        if address in network:
            why = why_forbidden(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
            return f"{why} inside IPv6{kind}" if why else ""
    special = registries.special_block(address)
    if special is None or special.network.prefixlen < 128:  # :: and ::1 are no IPv4 addresses
        for network, kind in _RELAYED:
            if address in network:
                return f"an IPv4 address inside IPv6{kind}"
    if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        return "an IPv4 address inside IPv6 (ISATAP)"
    return "a private address" if address in _SITE_LOCAL else _why_not_global(address)


def _why_not_global(address: IPAddress) -> str:
    """Return why the registries do not count the address as global unicast, or ""."""
    if registries.is_multicast(address):
        return "a multicast address"
    special = registries.special_block(address)
    if special is not None and (not special.is_global or special.name in _ANSWERED_NEARBY):
        return _WORDS.get(special.name, "a reserved address")
    if special is not None or registries.is_allotted(address):
        return ""
    return "a reserved address (nobody has been given it)"


def literal_addresses(host: str) -> list[IPAddress]:
    """Return the addresses that `host` means without a name server; [] for a name that needs one.

    Takes localhost, and an address in any spelling that the system takes (127.1, 0x7f000001, [::1]).
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
    """The hosts, addresses and networks that the operator allows although they are private."""

    def __init__(self, entries: Sequence[str]) -> None:
        """`entries`: host names ("minio.internal"), addresses, or CIDR networks ("10.1.0.0/16"); a name or address may
        have a port ("skyvern:8000", "[fd00::1]:8000"), and then only that port is meant.

        Raises ValueError for an entry that is none of these.
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
                        f"{entry!r} is no host name, address or network such as minio.internal, 10.1.2.3 or 10.1.0.0/16"
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


# [address]:port, name:port, or a name, an address or a network as it is (an IPv6 address has more than one colon)
_LISTED = re.compile(
    r"\[(?P<inner>[^\]]*)\](?::(?P<port6>\d{1,5}))?|(?P<host>[^:\[\]/]+):(?P<port4>\d{1,5})|(?P<whole>.+)"
)
_NUMERIC = re.compile(r"[0-9a-fx]+(\.[0-9a-fx]+){0,3}")

_lookups = threading.BoundedSemaphore(64)


def resolve(host: str, port: int, seconds: float) -> Sequence[str]:
    """Return the addresses of `host` by the system's resolver. Raises OSError, TimeoutError after `seconds`.

    A look-up that hangs is left behind in its thread; there are at most 64 of those.
    """

    def look_up() -> list[str]:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return [str(answer[4][0]) for answer in answers]
        except UnicodeError:
            raise OSError("not a host name") from None
        finally:
            _lookups.release()

    if not _lookups.acquire(timeout=seconds):
        raise TimeoutError("too many look-ups hang")
    future = in_thread("resolve", look_up)
    if not wait([future], seconds).done:
        raise TimeoutError("the look-up took too long")
    return list(dict.fromkeys(future.result()))
