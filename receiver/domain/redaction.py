"""Masks what the ledger must not hold: the fields that the config's `redact` paths name. Pure; dispatch applies it.

A path is names with dots between. `*` is one level (any name, any item of a list), `**` any number of levels, none
included. A list needs no mention: `errors.reasoning` is the reasoning of each error. What is masked keeps its shape,
so that readers with a schema can still read it: of an object the names stay, null and empty stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from receiver.errors import ConfigError

MASK = "[redacted]"

# The rest of a path at some point of the body.
Place = tuple[str, ...]


class Redactor:
    """Masks the fields that `paths` name. Raises ConfigError for a path that names nothing."""

    def __init__(self, paths: Iterable[str]) -> None:
        places = {_place(path) for path in paths}
        # Nearly every path is `**.name`: one set look-up a field instead of a walk of all paths in step.
        self._anywhere = frozenset(place[1] for place in places if place[:-1] == ("**",) and place[1] != "*")
        self._places = frozenset(places - {("**", name) for name in self._anywhere})
        names = {place[-1] for place in places}
        self._named = _key_pattern(names)
        self._nameless = any(name == "*" or name.isdigit() for name in names)
        self._in_text = _text_pattern(names - {"*"})

    def apply(self, body: bytes, data: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """Return `body`, and the `data` parsed from it, masked. Neither argument is changed.

        Returns the very same objects when nothing had to be masked. `data` is {} for a body that can't be parsed: its
        text is searched then for the paths' last names.
        """
        if not data:
            return self._mask_text(body), data
        if not self.may_match(body):
            return body, data
        masked = self._walk(data, self._places)
        if masked is data:
            return body, data
        try:
            return _encoded(masked, ensure_ascii=False), masked
        except UnicodeEncodeError:  # half a character, which only an escape can spell
            return _encoded(masked, ensure_ascii=True), masked

    def mask(self, data: dict[str, Any], masked: Iterable[Any] = ()) -> dict[str, Any]:
        """Return `data` masked, or itself when nothing had to be. For members that no body has in that place.

        `masked`: values that are masked in another place. With paths such as `**.name` alone, they are in any place.
        """
        done = set() if self._places else set(map(id, masked))
        rest = {name: value for name, value in data.items() if id(value) not in done or name in self._anywhere}
        new = self._walk(rest, self._places)
        return data if new is rest else {**data, **new}

    def may_match(self, body: bytes) -> bool:
        """Whether anything in a JSON object may have to be masked, and a walk is worth its while: a path's last name
        occurs in the bytes with something other than null."""
        # A name can be spelt with escapes, though Skyvern never does. A single byte is found much sooner than two.
        if self._nameless or (b"\\" in body and b"\\u" in body):
            return True
        return self._named is not None and self._named.search(body) is not None

    def _walk(self, value: Any, places: frozenset[Place]) -> Any:
        """Return `value` with its fields masked, or itself. One frame a level."""
        is_list = type(value) is list
        changed: Any = None
        for key, item in enumerate(value) if is_list else value.items():
            if item is None:
                continue
            inner, hit = _step(places, str(key)) if places else (places, False)
            if hit or (not is_list and key in self._anywhere):
                new = _mask(item)
            elif type(item) is dict or type(item) is list:
                new = self._walk(item, inner | places if is_list else inner)  # a path need not mention a list
            else:
                continue
            if new is not item:
                changed = value.copy() if changed is None else changed
                changed[key] = new
        return value if changed is None else changed

    def _mask_text(self, body: bytes) -> bytes:
        """Mask bytes that are not a JSON object: the value that follows `"name":`, as far as it goes."""
        if self._in_text is None:
            return body
        parts: list[bytes] = []
        done = 0
        for match in self._in_text.finditer(body):
            start = match.end()
            if start < done:
                continue  # inside of what is masked already
            end = _end_of_value(body, start, match["slash"])
            quote = match["slash"] + b'"'
            if body[start:end] in (b"null", b"", quote + quote, quote + MASK.encode() + quote):
                continue
            parts += [body[done:start], quote, MASK.encode(), quote]
            done = end
        return b"".join([*parts, body[done:]]) if parts else body


def _place(path: str) -> Place:
    place = tuple(path.split("."))
    if not all(place):
        raise ConfigError(
            f"redact: {path!r} has an empty name in it; write names with one dot between, such as **.token"
        )
    if place[-1] == "**":
        raise ConfigError(f"redact: {path!r} names no field: end it with a name or *")
    return place


def _step(places: frozenset[Place], key: str) -> tuple[frozenset[Place], bool]:
    """Return the rest of `places` one level down at `key`, and whether one of them ends there."""
    inner: set[Place] = set()
    for place in places:
        rest = place
        while rest[0] == "**":
            inner.add(rest)
            rest = rest[1:]
        if rest[0] in (key, "*"):
            if len(rest) == 1:
                return frozenset(), True
            inner.add(rest[1:])
    return frozenset(inner), False


def _mask(value: Any) -> Any:
    """Return `value` with every leaf masked, or itself when there is nothing to mask. One frame a level."""
    if type(value) is not dict and type(value) is not list:
        return value if value is None or value in ("", MASK) else MASK
    changed: Any = None
    for key, item in value.items() if type(value) is dict else enumerate(value):
        if (new := _mask(item)) is not item:
            changed = value.copy() if changed is None else changed
            changed[key] = new
    return value if changed is None else changed


def _key_pattern(names: Iterable[str]) -> re.Pattern[bytes] | None:
    """Return a pattern for a key of `names` that has another value than null, in JSON without spaces."""
    quoted = [re.escape(json.dumps(name, ensure_ascii=False)[1:-1].encode()) for name in sorted(names)]
    return re.compile(b'"(?:' + b"|".join(quoted) + b')"(?!:null)') if quoted else None


def _text_pattern(names: Iterable[str]) -> re.Pattern[bytes] | None:
    """Return a pattern for a key of `names` with its colon, in JSON or in JSON that is quoted in a string."""
    quoted = b"|".join(re.escape(name.encode()) for name in sorted(names))
    return re.compile(rb'(?<!\\)(?P<slash>\\*)"(?:' + quoted + rb')(?P=slash)"\s*:\s*') if quoted else None


# The look-behinds keep a body of nothing but backslashes from being read once for each of them.
_QUOTE = re.compile(rb'(?<!\\)(\\*)"')
_BARE = re.compile(rb"[^,\]}\s]*")
_BRACKET = re.compile(rb'(?<!\\)\\*"|[\[\]{}]')


def _end_of_value(body: bytes, start: int, slash: bytes) -> int:
    """Return where the value at `start` ends: at the end of the body when it is cut off."""
    opening = body[start : start + 1]
    if body.startswith(slash + b'"', start):
        return _end_of_string(body, start + len(slash) + 1, slash)
    if opening not in (b"{", b"["):
        match = _BARE.match(body, start)
        return match.end() if match else start
    depth, position = 0, start
    while match := _BRACKET.search(body, position):
        position = match.end()
        token = match[0]
        if token.endswith(b'"'):
            position = _end_of_string(body, position, slash)
        else:
            depth += 1 if token in b"{[" else -1
            if not depth:
                return position
    return len(body)


def _end_of_string(body: bytes, start: int, slash: bytes) -> int:
    """Return where the string from `start` ends: after the next quote with as many backslashes as `slash`.

    Fewer end the string around it, and this one with it.
    """
    position = start
    while match := _QUOTE.search(body, position):
        position = match.end()
        slashes = len(match[1])
        if slashes < len(slash):
            return match.start()
        if slashes == len(slash) or (not slash and slashes % 2 == 0):
            return position
    return len(body)


def _encoded(data: dict[str, Any], *, ensure_ascii: bool) -> bytes:
    return json.dumps(data, ensure_ascii=ensure_ascii, separators=(",", ":"), check_circular=False).encode()
