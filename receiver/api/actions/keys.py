"""Actions on API keys: create and revoke. Nobody gives what it has not: no other scope, source or rate."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Final

from pydantic import Field

from receiver.api.actions import audited
from receiver.api.endpoint import Endpoint
from receiver.api.keys import KeyRow, in_order
from receiver.api.models import Result, Scoped
from receiver.api.service import Actor, Service
from receiver.config.advice import local_key
from receiver.config.fields import parse_rate
from receiver.config.models import Config
from receiver.config.settings import SECRET_FILE, Settings
from receiver.domain import api_key
from receiver.domain.api_key import OPERATE
from receiver.errors import ConfigError, Conflict, Forbidden, Invalid, NotFound
from receiver.ledger import Connection, Ledger, api_keys
from receiver.ledger.api_keys import Key
from receiver.ledger.database_clock import database_now
from receiver.submit.auth import USUAL_RATE

LONGEST_NAME: Final = 100
# What the audit calls it.
CREATE: Final = "key.create"
REVOKE: Final = "key.revoke"


class NewKeyParameters(Scoped):
    """A new key. `source`: whose things it is for; * for all. It may be left out where there is one only."""

    name: str = Field(description=f"What it is called in lists: 1 to {LONGEST_NAME} printable characters.")
    scopes: tuple[str, ...] = Field(
        api_key.SCOPES, min_length=1, max_length=10, description=f"Of {', '.join(api_key.ALL_SCOPES)}: those you have."
    )
    rate: str | None = Field(None, max_length=50, description="Most calls in a time, such as 10/s or 100/m.")


class NewKey(Result):
    """A key that was created. `key` is shown this once."""

    row: KeyRow
    key: str


class KeysParameters(Scoped):
    """Which keys."""

    ids: tuple[str, ...] = Field(min_length=1, max_length=1000, description="Their ids, as lists show them.")


class RevokedKeys(Result):
    """`count`: how many were revoked; those that were so already do not count."""

    count: int


def make_key(
    settings: Settings,
    config: Config,
    ledger: Ledger,
    actor: Actor,
    name: str,
    scopes: Collection[str],
    source: str = "",
    rate: str | None = None,
) -> tuple[Key, str]:
    """Create a key, with its line in the audit, and return it with the whole key, which nobody can see again.

    Raises Invalid, and ConfigError where no key can be made. Whether the actor may give it is not asked here.
    """
    chosen = check_key(settings, config, name, scopes, source, rate)
    master = settings.master_secret(make=True)
    _check_master(ledger.read(api_keys.every), master, settings)
    key_id = secrets.token_hex(6)
    whole = api_key.derive(master, key_id)
    digest, hint = api_key.digest(whole), api_key.hint(whole)

    def work(connection: Connection) -> Key:
        now = database_now(connection)
        key = Key(key_id, name.strip(), digest, hint, frozenset(scopes), chosen, rate, now)
        api_keys.create(connection, key)
        told = {"key": key_id, "name": key.name, "scopes": in_order(key.scopes), "source": chosen, "rate": rate}
        audited.note(connection, actor, CREATE, told, 1, source=_audited_source(chosen))
        return key

    return ledger.write(work), whole


def check_key(
    settings: Settings, config: Config, name: str, scopes: Collection[str], source: str, rate: str | None
) -> str:
    """Return the source of a new key: the only one for "". Raises Invalid, and ConfigError for a source whose API
    nobody may call."""
    if not scopes:
        raise Invalid(f"scope: give at least one of {', '.join(api_key.ALL_SCOPES)}")
    if unknown := sorted(set(scopes) - set(api_key.ALL_SCOPES)):
        raise Invalid(f"scope: {unknown[0]!r} is none; there are {', '.join(api_key.ALL_SCOPES)}")
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise Invalid(f"the name must be 1 to {LONGEST_NAME} printable characters")
    if rate is not None:
        try:
            parse_rate(rate)
        except ValueError as error:
            raise Invalid(f"rate: {error}") from None
    return _source_of(settings, config, source, scopes)


def _source_of(settings: Settings, config: Config, source: str, scopes: Collection[str]) -> str:
    chosen = source or (next(iter(config.sources)) if len(config.sources) == 1 else "")
    if chosen == api_key.ALL_SOURCES:
        if wrong := sorted(set(scopes) - {api_key.VIEW, OPERATE}):
            raise Invalid(f"source '*': a key of all sources can view and operate, but not {', '.join(wrong)}")
    elif chosen not in config.sources:
        what = f"source {source}: there is no such source" if source else "source: say which"
        raise Invalid(f"{what}; there are {', '.join(config.sources)}")
    elif set(scopes) - {api_key.VIEW} and config.sources[chosen].api(settings.skyvern_base_url) is None:
        raise ConfigError(
            local_key(settings)
            or f"{settings.config}: sources.{chosen}: has no api_key, so nothing can be submitted for it"
        )
    return chosen


def _audited_source(source: str) -> str:
    return "" if source == api_key.ALL_SOURCES else source


def _check_master(known: list[Key], master: str, settings: Settings) -> None:
    """Raise ConfigError when a key in use was made with another secret: its webhooks would be signed wrongly."""
    for key in known:
        if key.revoked_at is None and api_key.digest(api_key.derive(master, key.id)) != key.hash:
            where = (
                "RUNHOOK_SECRET" if settings.secret else f"RUNHOOK_SECRET is not set, and {settings.data}/{SECRET_FILE}"
            )
            raise ConfigError(
                f"{where}: is not the secret that key {key.id} ({key.name[:40]}) was made with; set"
                " RUNHOOK_SECRET to the same value on each host, or revoke the keys that were made with the other one"
            )


def create_key(service: Service, actor: Actor, wanted: NewKeyParameters) -> NewKey:
    """Create an API key, which is shown this once. You can give the scopes that you have, for your own source."""
    if actor.kind != "cli" and (missing := sorted(set(wanted.scopes) - actor.scopes)):
        raise Forbidden(f"scopes: {actor.name} has no {', '.join(missing)}, and can't give it")
    rate = _rate_within(service, actor, wanted.rate)
    try:
        key, whole = make_key(
            service.settings, service.config, service.ledger, actor, wanted.name, wanted.scopes, wanted.source, rate
        )
    except ConfigError as error:
        # It names files of the host, and keys of other sources.
        hidden = f"no key can be made for source {actor.source}: `runhook keys create` on the host says why"
        raise Conflict(hidden if actor.source else str(error)) from None
    return NewKey(row=KeyRow.of(key), key=whole)


def _rate_within(service: Service, actor: Actor, rate: str | None) -> str | None:
    """Return the rate of a new key: no more than that of the actor's own, in a time or at once. Raises Forbidden."""
    own = service.ledger.read(lambda it: api_keys.one(it, actor.key_id)) if actor.key_id else None
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


def revoke_keys(service: Service, actor: Actor, wanted: KeysParameters) -> RevokedKeys:
    """Revoke API keys. They are refused within 5 seconds."""
    ids = sorted(set(wanted.ids))

    def work(connection: Connection) -> int:
        found = {key_id: api_keys.one(connection, key_id) for key_id in ids}
        unknown = [each for each, key in found.items() if key is None or wanted.source not in ("", key.source)]
        if unknown:
            raise NotFound(f"no such key: {', '.join(unknown)}")
        now = database_now(connection)
        revoked = [each for each in ids if api_keys.revoke(connection, each, now)]
        sources = {_audited_source(key.source) for key in found.values() if key is not None}
        source = sources.pop() if len(sources) == 1 else ""
        audited.note(connection, actor, REVOKE, {"keys": ids}, len(revoked), source=source)
        return len(revoked)

    return RevokedKeys(count=service.ledger.write(work))


CREATE_KEY: Final = Endpoint("create_key", "POST", "/keys", OPERATE, NewKeyParameters, NewKey, create_key)
REVOKE_KEYS: Final = Endpoint("revoke_keys", "POST", "/keys/revoke", OPERATE, KeysParameters, RevokedKeys, revoke_keys)
ENDPOINTS = (CREATE_KEY, REVOKE_KEYS)
