"""Take URLs apart: origin, user and password, and a form that may be shown. Pure: no name is resolved."""

from __future__ import annotations

import base64
import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

# The default port of each scheme.
PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Scheme and host in lower case, and the port, 0 where the scheme has no default."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        default = PORTS.get(self.scheme) == self.port
        return f"{self.scheme}://{self.bracketed}" + ("" if default else f":{self.port}")

    @property
    def bracketed(self) -> str:
        """The host as written in a URL: an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host


def origin(url: str) -> Origin | None:
    """Return the origin of `url`; None for what is no URL."""
    try:
        parts = urlsplit(url)
        return Origin(parts.scheme.lower(), (parts.hostname or "").lower(), parts.port or PORTS.get(parts.scheme, 0))
    except ValueError:
        return None


def split_userinfo(url: str) -> tuple[str, str]:
    """Return `url` without user:password and fragment, and the Basic authorization header that they make, or "".

    Raises ValueError for what is no URL.
    """
    parts = urlsplit(url)
    user, mark, host = parts.netloc.rpartition("@")
    if not mark:
        return url.partition("#")[0], ""  # as it was given: urlsplit drops line ends, which no URL may hold
    bare = parts._replace(netloc=host, fragment="").geturl()
    name, _, password = user.partition(":")
    return bare, "Basic " + base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()


def without_query(text: str) -> str:
    """Return `text` without query, fragment and user name, which may be shown: signatures are in the query.

    Never raises: what is no URL at all is cut at the first ? or #.
    """
    bare = text.partition("#")[0].partition("?")[0]
    scheme, mark, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    return scheme + mark + host.rpartition("@")[2] + slash + path


def hide_password(url: str) -> str:
    """Return `url` with the password in its authority, and in its query, replaced by stars."""
    # A password may hold a slash, for SQLAlchemy takes it; after a host's port there is none.
    url = re.sub(r"(://[^/@:\s]*:)(?!\d+(?:[/?]|$))\S*(@)", r"\1********\2", url)
    return re.sub(r"([?&](?:password|sslpassword)=)[^&]*", r"\1********", url)
