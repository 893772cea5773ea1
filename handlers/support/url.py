"""URLs taken apart: their origin, their user and password, and how they are shown. Pure: no name is looked up."""

from __future__ import annotations

import base64
import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

PORTS = {"http": 80, "https": 443}
"""The port that a scheme stands for."""


class Origin(NamedTuple):
    """Where a URL leads: scheme and host in lower case, and the port, 0 where the scheme has none of its own."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        default = PORTS.get(self.scheme) == self.port
        return f"{self.scheme}://{self.bracketed}" + ("" if default else f":{self.port}")

    @property
    def bracketed(self) -> str:
        """The host as it stands in a URL: an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host


def origin(url: str) -> Origin | None:
    """The origin of `url`; None for what is no URL."""
    try:
        parts = urlsplit(url)
        return Origin(parts.scheme.lower(), (parts.hostname or "").lower(), parts.port or PORTS.get(parts.scheme, 0))
    except ValueError:
        return None


def split_userinfo(url: str) -> tuple[str, str]:
    """`url` without user:password and fragment, and the authorization header that they become, or "".

    Raises ValueError for what is no URL.
    """
    parts = urlsplit(url)
    user, mark, host = parts.netloc.rpartition("@")
    if not mark:
        return url.partition("#")[0], ""  # as it was given: urlsplit drops line ends, which no URL may hold
    bare = parts._replace(netloc=host, fragment="").geturl()
    name, _, password = user.partition(":")
    return bare, "Basic " + base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()


def hide_password(url: str) -> str:
    """`url` with the password in its authority, and in its query, as stars."""
    # A password may hold a slash, for SQLAlchemy takes it; after a host's port there is none.
    url = re.sub(r"(://[^/@:\s]*:)(?!\d+(?:[/?]|$))\S*(@)", r"\1********\2", url)
    return re.sub(r"([?&](?:password|sslpassword)=)[^&]*", r"\1********", url)
