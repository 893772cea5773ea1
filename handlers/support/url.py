"""Parse URLs: origin, user and password, and a form without secrets.

Pure: resolves no names. The only code that hides URL secrets: call `hide_password` to print or log a URL, and
`hide_secrets` for other programs' messages.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, unquote_plus, urlsplit

# Maximum characters of a URL to fetch or post to.
MAX_URL = 8192
# The default port of each scheme.
PORTS = {"http": 80, "https": 443}

STARS = "********"
_LONG = 6  # minimum characters of a secret that does not occur as a word elsewhere

# Parameters of libpq, SQLAlchemy, redis-py and Runhook whose values are not secret. All others are hidden.
_SHOWN = frozenset(
    """
    application_name cache channel_binding client_encoding connect_timeout db dbname gssencmode
    health_check_interval host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval
    load_balance_hosts max_connections mode port protocol socket_connect_timeout socket_keepalive socket_timeout
    ssl_cert_reqs ssl_min_version sslmode sslrootcert target_session_attrs tcp_user_timeout user username
    virtual_host virtualhost
    """.split()  # noqa: SIM905 - a list of words is read more easily without quotes
)
# Hosts with ports (several for libpq), the rest of the URL, and trailing punctuation of a text.
_HOST = r"(?:\[[^\]@]*\]|[^:/@,\[\]]*)(?::\d*)?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*(?:/.*)?[):,.;\"']*", re.DOTALL)
# A URL in a text, also in JSON with escaped slashes. The scheme's length is limited, or the search would be quadratic.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{0,40}:(?://|\\/\\/)\S+")
# A secret among key=value pairs; the group is all before the value.
_PAIR = re.compile(
    r"""(?ix)
    (\b(?:ssl)?(?:password|passwd|pwd|passfile|key|options|oauth_client_secret|secret|token)\s*=\s*)
    ('(?:\\.|[^'\\])*'?|"(?:\\.|[^"\\])*"?|[^\s&;,]+)
    """
)


class Origin(NamedTuple):
    """Scheme and host in lower case, and the port, 0 if the scheme has no default."""

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


def http_parts(url: str) -> SplitResult | None:
    """Return the parts of an absolute http or https URL; None for anything else."""
    try:
        parts = urlsplit(url)
        return parts if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def origin(url: str) -> Origin | None:
    """Return the origin of `url`; None for an invalid URL."""
    try:
        parts = urlsplit(url)
        return Origin(parts.scheme.lower(), (parts.hostname or "").lower(), parts.port or PORTS.get(parts.scheme, 0))
    except ValueError:
        return None


def split_userinfo(url: str) -> tuple[str, str]:
    """Return `url` without user:password and fragment, and the Basic authorization header for them, or "".

    Raises ValueError for an invalid URL.
    """
    parts = urlsplit(url)
    user, mark, host = parts.netloc.rpartition("@")
    if not mark:
        return url.partition("#")[0], ""  # check the original: urlsplit drops line ends, which are invalid in URLs
    bare = parts._replace(netloc=host, fragment="").geturl()
    name, _, password = user.partition(":")
    return bare, "Basic " + base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()


def without_query(text: str) -> str:
    """Return `text` without query, fragment and user name: queries contain signatures.

    Never raises: an invalid URL is cut at the first ? or #.
    """
    bare = text.partition("#")[0].partition("?")[0]
    scheme, mark, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    return scheme + mark + host.rpartition("@")[2] + slash + path


def hide_password(url: str) -> str:
    """Return `url`, also of a database or Redis, with its password and other secrets as stars.

    Accepts key=value connection strings. Only known, non-secret query parameters keep their values. Unparseable text is
    hidden. Never raises.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or not re.fullmatch(r"\s*[A-Za-z][A-Za-z0-9+.\-]*", scheme):
        return _PAIR.sub(rf"\1{STARS}", url)
    place, mark_2, query = rest.partition("?")
    if scheme.strip().lower() in PORTS:
        authority, slash, path = place.partition("/")
        user, at, host = authority.rpartition("@")
        shown = _hide_user(user, alone=STARS) + at + (host if _HOSTS.fullmatch(host) else _hide_user(host))
        place = shown + slash + path
    elif "@" in place:  # SQLAlchemy accepts a slash in a password
        user, at, host = place.rpartition("@")
        place = _hide_user(user) + at + host
    elif "@" in query and not _HOSTS.fullmatch(place):  # and a question mark
        user, at, host = rest.rpartition("@")
        place, mark_2, query = host.partition("?")
        place = _hide_user(user) + at + place
    elif not _HOSTS.fullmatch(place):
        place = _hide_user(place)
    return scheme + mark + place + mark_2 + "&".join(_hide_value(each) for each in query.split("&"))


def hide_secrets(text: str, *urls: str) -> str:
    """Mask the secrets of `urls`, and of any URL in `text`, such as an error message. Never raises."""
    text = hide_values(text, {each for url in urls for each in _secrets_of(url)})
    text = _URL.sub(lambda found: hide_password(found.group().replace("\\/", "/")), text)
    return _PAIR.sub(rf"\1{STARS}", text)


def hide_values(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with stars for each of `secrets`. Never raises."""
    for secret in sorted({each for each in secrets if each}, key=len, reverse=True):
        bounds = ("", "") if len(secret) >= _LONG else (r"(?<!\w)", r"(?!\w)")  # a short one may be part of a word
        text = re.sub(bounds[0] + re.escape(secret) + bounds[1], STARS, text)
    return text


def _hide_user(user: str, alone: str = "") -> str:
    """Return user:password with stars; `alone` for a user without a password, which may be a secret."""
    name, colon, _ = user.partition(":")
    return name + colon + STARS if colon else (alone or name) if name else ""


def _hide_value(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if not equals:
        return STARS if name else ""
    return f"{name}={value if unquote_plus(name).lower() in _SHOWN else STARS}"


def _secrets_of(url: str) -> set[str]:
    """Return the secrets of `url`, percent-encoded and decoded."""
    _, mark, rest = url.partition("://")
    secrets = {pair.group(2).strip("\"'") for pair in _PAIR.finditer(url)} if not mark else set()
    place, _, query = rest.partition("?")
    whole = place if "@" in place else rest
    password = whole.rpartition("@")[0].partition(":")[2]
    secrets.add(password)
    for name, equals, value in (each.partition("=") for each in query.split("&")):
        if equals and unquote_plus(name).lower() not in _SHOWN:
            secrets.add(value)
    return {each for secret in secrets for each in (secret, unquote(secret), unquote_plus(secret)) if each}
