"""API keys: list, create, rotate, revoke. A key can only grant scopes, sources, rates and lifetimes it has."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from pydantic import Field

from receiver.api.audit import record_action
from receiver.api.endpoint import call
from receiver.api.listing import paged
from receiver.api.models import Moment, Page, PageParameters, Result, Scoped
from receiver.api.service import Actor, Service
from receiver.config.fields import parse_rate
from receiver.config.settings import SECRET_FILE
from receiver.config.skyvern_key import missing_api_key
from receiver.domain import api_key
from receiver.domain.api_key import OPERATE, VIEW
from receiver.errors import ConfigError, Conflict, Forbidden, Invalid, NotFound
from receiver.ledger import Connection
from receiver.ledger.access import api_keys
from receiver.ledger.access.api_keys import Key
from receiver.ledger.database.database_clock import database_now
from receiver.web.keys import USUAL_RATE

LONGEST_NAME: Final = 100
# What the audit calls these actions.
CREATE: Final = "key.create"
ROTATE: Final = "key.rotate"
REVOKE: Final = "key.revoke"
# Maximum lifetime of a key, in seconds. Seconds that a rotated key stays valid: default and maximum.
LONGEST_LIFE: Final = 3650 * 86400.0
GRACE: Final = 86400.0
LONGEST_GRACE: Final = 90 * 86400.0


class KeyRow(Result):
    """A key."""

    id: str
    name: str
    hint: str = Field(description="How the key begins.")
    scopes: list[str] = Field(description=f"Of {', '.join(api_key.ALL_SCOPES)}.")
    source: str = Field(description=f"Whose things it is for; {api_key.ALL_SOURCES}: all sources.")
    rate: str | None = Field(description="Most calls in a time, such as 10/s.")
    created_at: Moment
    used_at: Moment | None
    revoked_at: Moment | None
    expires_at: Moment | None = Field(None, description="From when on it is refused; null: never.")
    expired: bool = Field(False, description="Whether that is past, by the clock of the ledger.")
    replaced_by: str = Field("", description="The id of the key that it was rotated to.")

    @classmethod
    def of(cls, key: Key) -> KeyRow:
        """Return the row of a key."""
        names = cls.model_fields.keys() - {"scopes"}
        return cls(scopes=in_order(key.scopes), **{name: getattr(key, name) for name in names})


def in_order(scopes: frozenset[str]) -> list[str]:
    """Return scopes in their usual order."""
    return [scope for scope in api_key.ALL_SCOPES if scope in scopes]


def list_keys(service: Service, _actor: Actor, parameters: PageParameters) -> Page[KeyRow]:
    """List API keys, including revoked and expired ones, oldest first."""
    found, following = paged(service, "keys", parameters, api_keys.page, created_at=float, id=str)
    return Page(items=[KeyRow.of(key) for key in found], next=following)


class NewKeyParameters(Scoped):
    """A new key. `source`: whose things it is for; * for all. It may be left out where there is one only."""

    name: str = Field(description=f"Name in lists: 1 to {LONGEST_NAME} printable characters.")
    scopes: tuple[str, ...] = Field(
        api_key.SCOPES,
        min_length=1,
        max_length=10,
        description=f"Of {', '.join(api_key.ALL_SCOPES)}: those you have.",
    )
    rate: str | None = Field(None, max_length=50, description="Maximum rate of calls, such as 10/s or 100/m.")
    expires_in: float | None = Field(
        None, gt=0, le=LONGEST_LIFE, description="Lifetime in seconds; null: unlimited, or that of your own key."
    )


class NewKey(Result):
    """A new key. `key`: its text, shown only once."""

    row: KeyRow
    key: str


class RotationParameters(Scoped):
    """A key that gets a successor."""

    key: str = Field(max_length=200, description="Its id, or its name if that is unique among keys in use.")
    grace: float = Field(GRACE, ge=0, le=LONGEST_GRACE, description="Seconds that the old key still works.")
    expires_in: float | None = Field(
        None,
        gt=0,
        le=LONGEST_LIFE,
        description="Lifetime of the new key in seconds; null: that of the old one.",
    )


class RotatedKey(NewKey):
    """The successor of a key, shown only once, and the old key."""

    old: KeyRow


class KeysParameters(Scoped):
    """Which keys."""

    ids: tuple[str, ...] = Field(min_length=1, max_length=1000, description="Ids, or unique names of keys in use.")


class RevokedKeys(Result):
    """`count`: how many were revoked; those that were so already do not count."""

    count: int


def _issued(
    connection: Connection, master: str, plan: Key, life: float | None, latest: float | None
) -> tuple[Key, str]:
    """Insert a new key with name, scopes, source and rate of `plan`. `life`: seconds, None for no end but `latest`."""
    now, key_id = database_now(connection), secrets.token_hex(6)
    text = api_key.derive(master, key_id)
    ends = [each for each in (None if life is None else now + life, latest) if each is not None]
    key = replace(
        plan,
        id=key_id,
        hash=api_key.digest(text),
        hint=api_key.hint(text),
        created_at=now,
        used_at=None,
        expires_at=min(ends, default=None),
        replaced_by="",
    )
    api_keys.create(connection, key)
    return key, text


def _checked_source(service: Service, parameters: NewKeyParameters) -> str:
    """Return the source of a new key: the only one for "". Raises Invalid for anything wrong, and ConfigError for a
    source without an API key of Skyvern."""
    settings, config, name, scopes = service.settings, service.config, parameters.name, parameters.scopes
    if unknown := sorted(set(scopes) - set(api_key.ALL_SCOPES)):
        raise Invalid(f"scope: {unknown[0]!r}: unknown scope; there are {', '.join(api_key.ALL_SCOPES)}")
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise Invalid(f"the name must be 1 to {LONGEST_NAME} printable characters")
    if parameters.rate is not None:
        try:
            parse_rate(parameters.rate)
        except ValueError as error:
            raise Invalid(f"rate: {error}") from None
    chosen = parameters.source or (next(iter(config.sources)) if len(config.sources) == 1 else "")
    if chosen == api_key.ALL_SOURCES:
        if wrong := sorted(set(scopes) - {api_key.VIEW, OPERATE, api_key.ERASE}):
            raise Invalid(f"source '*': a key of all sources can view, operate and erase, but not {', '.join(wrong)}")
    elif chosen not in config.sources:
        what = f"unknown source {chosen}" if chosen else "source: say which"
        raise Invalid(f"{what}; there are {', '.join(config.sources)}")
    elif set(scopes) - {api_key.VIEW} and config.sources[chosen].api(settings.skyvern_base_url) is None:
        raise ConfigError(missing_api_key(settings, config, chosen))
    return chosen


def _audited_source(source: str) -> str:
    return "" if source == api_key.ALL_SOURCES else source


def _checked_master(service: Service) -> str:
    """Return the master secret. Raises ConfigError when a key in use was made with another one: the webhooks of its
    callers would get wrong signatures."""
    settings = service.settings
    master = settings.master_secret(make=True)
    for key in service.ledger.read(api_keys.page):
        if key.in_use and api_key.digest(api_key.derive(master, key.id)) != key.hash:
            unset = f"RUNHOOK_SECRET is not set, and {settings.data}/{SECRET_FILE}"
            raise ConfigError(
                f"{'RUNHOOK_SECRET' if settings.secret else unset}: is not the secret that key {key.id} "
                f"({key.name[:40]}) was made with; set RUNHOOK_SECRET to the same value on each host, or revoke the "
                "keys that were made with the other one"
            )
    return master


@contextmanager
def _hidden_errors(actor: Actor) -> Iterator[None]:
    """Raise Conflict for a ConfigError. It names files of the host, so only an actor of all sources gets its text."""
    try:
        yield
    except ConfigError as error:
        hidden = f"no key can be made for source {actor.source}: `runhook keys create` on the host says why"
        raise Conflict(hidden if actor.source else str(error)) from None


def create_key(service: Service, actor: Actor, parameters: NewKeyParameters) -> NewKey:
    """Create an API key, which is shown only once. You can grant the scopes that you have, for your own source."""
    _require_scopes(actor, parameters.scopes)
    rate, latest = _rate_within(service, actor, parameters.rate), _own_end(service, actor, parameters.expires_in)
    with _hidden_errors(actor):
        source = _checked_source(service, parameters)
        master = _checked_master(service)
    plan = Key("", parameters.name.strip(), "", "", frozenset(parameters.scopes), source, rate, 0.0)

    def work(connection: Connection) -> tuple[Key, str]:
        key, text = _issued(connection, master, plan, parameters.expires_in, latest)
        facts: dict[str, Any] = {"key": key.id, "name": key.name, "scopes": in_order(key.scopes)}
        facts |= {"source": source, "rate": rate} | (
            {"expires_in": parameters.expires_in} if parameters.expires_in else {}
        )
        record_action(connection, actor, CREATE, facts, 1, source=_audited_source(source))
        return key, text

    key, text = service.ledger.write(work)
    return NewKey(row=KeyRow.of(key), key=text)


def rotate_key(service: Service, actor: Actor, parameters: RotationParameters) -> RotatedKey:
    """Create the successor of a key, with its name, scopes, source and rate. The old key works for `grace` seconds."""
    with _hidden_errors(actor):
        master = _checked_master(service)
    old = service.ledger.read(lambda it: _to_rotate(it, parameters))
    _require_scopes(actor, old.scopes)
    rate = _rate_within(service, actor, old.rate)
    planned = None if old.expires_at is None else old.expires_at - old.created_at
    life, latest = parameters.expires_in or planned, _own_end(service, actor, parameters.expires_in)

    def work(connection: Connection) -> tuple[Key, str, Key]:
        api_keys.get(connection, old.id, lock=True)  # of two rotations at once, the second finds it replaced
        before = _to_rotate(connection, parameters.model_copy(update={"key": old.id}))
        key, text = _issued(connection, master, replace(old, rate=rate), life, latest)
        api_keys.replace(connection, before.id, key.id, key.created_at + parameters.grace)
        facts = {"key": before.id, "name": key.name, "by": key.id, "grace": parameters.grace}
        record_action(connection, actor, ROTATE, facts, 1, source=_audited_source(key.source))
        after = api_keys.get(connection, before.id)
        assert after is not None
        return key, text, after

    key, text, after = service.ledger.write(work)
    return RotatedKey(row=KeyRow.of(key), key=text, old=KeyRow.of(after))


def _to_rotate(connection: Connection, parameters: RotationParameters) -> Key:
    """Return the selected key. Raises NotFound, Invalid for a name of several, and Conflict for one not in use."""
    key = _key(connection, parameters.key, parameters.source)
    if key.replaced_by:
        raise Conflict(f"key {key.id} was rotated already: its successor is {key.replaced_by}")
    if not key.in_use:
        raise Conflict(f"key {key.id} {'was revoked' if key.revoked_at is not None else 'has expired'}")
    return key


def _key(connection: Connection, given: str, source: str) -> Key:
    """Return the key with this id, or the only one in use with this name. `source`: the only one, or "" for all.

    Raises NotFound, and Invalid for a name of several keys.
    """
    by_id = api_keys.get(connection, given)
    found = [by_id] if by_id else api_keys.list_by_name(connection, given)
    found = [each for each in found if source in ("", each.source)]
    if not found:
        raise NotFound(f"no such key: {given}; `runhook keys list` lists them")
    if len(found) > 1:
        raise Invalid(f"{given}: is the name of {len(found)} keys: {', '.join(each.id for each in found)}")
    return found[0]


def _require_scopes(actor: Actor, scopes: Collection[str]) -> None:
    if actor.kind != "cli" and (missing := sorted(set(scopes) - actor.scopes)):
        raise Forbidden(f"scopes: {actor.name} has no {', '.join(missing)}, and can't give it")


def _own_key(service: Service, actor: Actor) -> Key | None:
    return service.ledger.read(lambda it: api_keys.get(it, actor.key_id)) if actor.key_id else None


def _own_end(service: Service, actor: Actor, life: float | None) -> float | None:
    """Return when the actor's own key ends, None for never. Raises Forbidden for a `life` (seconds) beyond that."""
    own = _own_key(service, actor)
    if own is None or own.expires_at is None:
        return None
    left = own.expires_at - service.ledger.read(database_now)
    if life is not None and life > left:
        raise Forbidden(f"expires_in: {actor.name} expires in {max(0, int(left)):,} s, and can't give more")
    return own.expires_at


def _rate_within(service: Service, actor: Actor, rate: str | None) -> str | None:
    """Return the rate of a new key: no more than that of the actor's own, in a time or at once. Raises Forbidden."""
    own = _own_key(service, actor)
    if own is None:
        return rate
    if rate is None:
        return own.rate
    usual_rate, usual_at_once = USUAL_RATE
    most, within = usual_at_once, usual_at_once / usual_rate
    may = f"{usual_rate:g}/s"
    if known := own.rate or service.config.submit.rate:
        may, (most, within) = known, parse_rate(known)
    try:
        count, seconds = parse_rate(rate)
    except ValueError as error:
        raise Invalid(f"rate: {error}") from None
    if count / seconds > most / within or count > most:
        raise Forbidden(f"rate: {actor.name} may make {may}, and can't give more")
    return rate


def revoke_keys(service: Service, actor: Actor, parameters: KeysParameters) -> RevokedKeys:
    """Revoke API keys. They are refused within 5 seconds."""

    def work(connection: Connection) -> int:
        found = {key.id: key.source for key in (_key(connection, each, parameters.source) for each in parameters.ids)}
        now = database_now(connection)
        revoked = [each for each in sorted(found) if api_keys.revoke(connection, each, now)]
        sources = {_audited_source(source) for source in found.values()}
        source = sources.pop() if len(sources) == 1 else ""
        record_action(connection, actor, REVOKE, {"keys": sorted(found)}, len(revoked), source=source)
        return len(revoked)

    return RevokedKeys(count=service.ledger.write(work))


LIST_KEYS: Final = call("GET", "/keys", VIEW, list_keys)
CREATE_KEY: Final = call("POST", "/keys", OPERATE, create_key)
ROTATE_KEY: Final = call("POST", "/keys/rotate", OPERATE, rotate_key)
REVOKE_KEYS: Final = call("POST", "/keys/revoke", OPERATE, revoke_keys)
