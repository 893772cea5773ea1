"""Which network addresses a payload must not reach, which of them the operator allows, and how a name is resolved.

It opens no connection and knows no protocol: guarded_client.py does.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
# (host, port, seconds) → addresses as text. Raises OSError, TimeoutError among them.
Resolver = Callable[[str, int, float], Sequence[str]]

_FORBIDDEN: tuple[tuple[IPNetwork, str], ...] = tuple(
    (ipaddress.ip_network(network), why)
    for network, why in (
        ("169.254.169.254/32", "a cloud metadata address"),
        ("168.63.129.16/32", "a cloud metadata address"),  # Azure's, in a public range
        ("100.100.100.200/32", "a cloud metadata address"),
        ("fd00:ec2::/32", "a cloud metadata address"),
        ("fd20:ce::/32", "a cloud metadata address"),
        ("127.0.0.0/8", "a loopback address"),
        ("::1/128", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("fe80::/10", "a link-local address"),
        ("10.0.0.0/8", "a private address"),
        ("172.16.0.0/12", "a private address"),
        ("192.168.0.0/16", "a private address"),
        ("fc00::/7", "a private address"),
        ("fec0::/10", "a private address"),
        ("100.64.0.0/10", "a shared address (carrier-grade NAT)"),
        ("0.0.0.0/8", "no address of a host"),
        ("::/128", "no address of a host"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.88.99.0/24", "a reserved address"),
        ("198.18.0.0/15", "a reserved address"),
        ("240.0.0.0/4", "a reserved address"),
        ("224.0.0.0/4", "a multicast address"),
        ("ff00::/8", "a multicast address"),
        ("::ffff:0:0/96", "an IPv4 address inside IPv6"),
        ("::ffff:0:0:0/96", "an IPv4 address inside IPv6"),
        ("::/96", "an IPv4 address inside IPv6"),
        ("64:ff9b::/96", "an IPv4 address inside IPv6 (NAT64)"),
        ("64:ff9b:1::/48", "an IPv4 address inside IPv6 (NAT64)"),
        ("2002::/16", "an IPv4 address inside IPv6 (6to4)"),
        ("2001::/32", "an IPv4 address inside IPv6 (Teredo)"),
    )
)
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})


def why_forbidden(address: IPAddress) -> str:
    """Return why no payload may reach this address ("a loopback address"), or ""."""
    for network, why in _FORBIDDEN:
        if address.version == network.version and address in network:
            return why
    if address.version == 6 and (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        return "an IPv4 address inside IPv6 (ISATAP)"
    return "" if address.is_global and not address.is_multicast else "a reserved address"


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

    def __init__(self, entries: Sequence[str] = ()) -> None:
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
    future: Future[list[str]] = Future()

    def look_up() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            future.set_result([str(answer[4][0]) for answer in answers])
        except (OSError, UnicodeError) as error:
            future.set_exception(error if isinstance(error, OSError) else OSError("not a host name"))
        finally:
            _lookups.release()

    if not _lookups.acquire(timeout=seconds):
        raise TimeoutError("too many look-ups hang")
    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    if not wait([future], seconds).done:
        raise TimeoutError("the look-up took too long")
    return list(dict.fromkeys(future.result()))
