"""API keys through the API: what may be given, shown once, and revoked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from receiver.api.service import Actor, Service
from receiver.domain import api_key
from receiver.domain.api_key import OPERATE, VIEW
from receiver.errors import Conflict, Forbidden, Invalid, NotFound, RequestError
from receiver.ledger import Ledger
from receiver.ledger.access import api_keys
from tests.support import api
from tests.support.api import actor, call, done
from tests.support.ledger import with_tables
from tests.support.waiting import eventually

SHOP = ("view", "operate", "submit")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    yield api.service(ledger, tmp_path)
    ledger.close()


def test_a_key_is_shown_once_and_works(service: Service) -> None:
    # When one of a source makes a key with some of its scopes
    made = call(service, "create_key", actor("other", *SHOP), name=" shop ", scopes=["submit", "view"], rate="5/s")

    # Then it is one of that source, and the ledger knows its hash alone
    row = made["row"]
    assert (row["name"], row["scopes"], row["source"], row["rate"]) == ("shop", ["submit", "view"], "other", "5/s")
    key = service.ledger.read(lambda it: api_keys.by_hashes(it).get(api_key.digest(made["key"])))
    assert key is not None
    assert key.id == row["id"]

    # And no list, and no line of the audit, has the key or its hash
    listed = str(call(service, "list_keys")) + str(call(service, "list_audit"))
    assert made["key"] not in listed
    assert key.hash not in listed
    assert made["key"].startswith(row["hint"])
    assert call(service, "list_keys")["items"] == [row]
    (line,) = call(service, "list_audit")["items"]
    assert (line["action"], line["source"], line["selection"]["scopes"]) == ("key.create", "other", ["submit", "view"])


@pytest.mark.parametrize(
    ("who", "parameters", "error", "words"),
    [
        (actor("skyvern", *SHOP), {"scopes": ["read"]}, Forbidden, "ada has no read, and can't give it"),
        (actor("skyvern", *SHOP), {"scopes": ["resubmit", "view"]}, Forbidden, "no resubmit"),
        (actor("skyvern", *SHOP), {"source": "other", "scopes": ["view"]}, Forbidden, "source skyvern only"),
        (actor("skyvern", *SHOP), {"source": "*", "scopes": ["view"]}, Forbidden, "source skyvern only"),
        (actor("skyvern", VIEW), {"scopes": ["view"]}, Forbidden, "needs the scope operate"),
        (actor(), {"scopes": ["view"]}, Invalid, "source: say which; there are skyvern, other"),
        (actor(), {"scopes": ["view"], "source": "third"}, Invalid, "unknown source"),
        (actor("", *SHOP), {"scopes": ["submit"], "source": "*"}, Invalid, "but not submit"),
        (actor(), {"scopes": ["all"], "source": "other"}, Forbidden, "no all"),
        (actor(), {"scopes": [], "source": "other"}, Invalid, "scopes"),
        (actor(), {"name": "a\nb", "scopes": ["view"], "source": "other"}, Invalid, "printable"),
        (actor(), {"name": "", "scopes": ["view"], "source": "other"}, Invalid, "printable"),
        (actor(), {"rate": "fast", "scopes": ["view"], "source": "other"}, Invalid, "must be a rate"),
    ],
)
def test_nobody_gives_what_it_has_not(
    service: Service, who: Actor, parameters: dict[str, Any], error: type[RequestError], words: str
) -> None:
    with pytest.raises(error) as refused:
        call(service, "create_key", who, **{"name": "app", **parameters})
    assert words in str(refused.value)
    assert call(service, "list_keys")["items"] == []
    assert done(service) == []


def test_a_key_gives_no_higher_rate_than_its_own(service: Service) -> None:
    own = call(service, "create_key", name="slow", scopes=["view", "operate"], source="other", rate="60/m")["row"]
    holder = Actor("key", "slow", frozenset({VIEW, OPERATE}), "other", own["id"])

    assert call(service, "create_key", holder, name="a", scopes=["view"])["row"]["rate"] == "60/m"
    assert call(service, "create_key", holder, name="b", scopes=["view"], rate="1/s")["row"]["rate"] == "1/s"
    with pytest.raises(Forbidden, match="can't give more"):
        call(service, "create_key", holder, name="c", scopes=["view"], rate="61/m")


@pytest.mark.parametrize(
    ("usual", "allowed", "refused"),
    [("30/m", "30/m", "31/m"), ("1/s", "1/s", "60/m"), (None, "200/s", "201/s"), (None, "2000/m", "2001/m")],
)
def test_key_without_a_rate_gives_at_most_the_usual_rate(
    tmp_path: Path, ledger: Ledger, usual: str | None, allowed: str, refused: str
) -> None:
    service = api.service(ledger, tmp_path, submit={"rate": usual})
    own = call(service, "create_key", name="usual", scopes=["view", "operate"], source="other")["row"]
    holder = Actor("key", "usual", frozenset({VIEW, OPERATE}), "other", own["id"])

    assert call(service, "create_key", holder, name="a", scopes=["view"])["row"]["rate"] is None
    assert call(service, "create_key", holder, name="b", scopes=["view"], rate=allowed)["row"]["rate"] == allowed
    with pytest.raises(Forbidden, match="can't give more"):
        call(service, "create_key", holder, name="c", scopes=["view"], rate=refused)


def test_a_key_of_all_sources_is_made_by_one_of_all(service: Service) -> None:
    row = call(service, "create_key", name="ops", scopes=["view", "operate"], source="*")["row"]
    assert row["source"] == "*"
    assert call(service, "list_keys", actor("other"))["items"] == []


def test_keys_are_revoked_once_and_by_their_own_source(service: Service) -> None:
    mine = call(service, "create_key", name="m", scopes=["view"], source="skyvern")["row"]["id"]
    theirs = call(service, "create_key", name="t", scopes=["view"], source="other")["row"]["id"]

    for ids in ([theirs], [mine, theirs], ["nobody"]):
        with pytest.raises(NotFound, match="no such key: "):
            call(service, "revoke_keys", actor("skyvern"), ids=ids)
    assert call(service, "revoke_keys", actor("skyvern"), ids=[mine, mine])["count"] == 1
    assert call(service, "revoke_keys", ids=[mine, theirs])["count"] == 1

    assert [bool(row["revoked_at"]) for row in call(service, "list_keys")["items"]] == [True, True]
    assert done(service)[2:] == [("key.revoke", "ada", 1, "done"), ("key.revoke", "ada", 1, "done")]


def test_a_key_is_revoked_by_a_name_that_only_it_has(service: Service) -> None:
    for name in ("bot", "twin", "twin"):
        call(service, "create_key", name=name, scopes=["view"], source="skyvern")

    with pytest.raises(Invalid, match="twin: is the name of 2 keys: "):
        call(service, "revoke_keys", ids=["bot", "twin"])
    assert call(service, "revoke_keys", ids=["bot"])["count"] == 1

    rows = call(service, "list_keys")["items"]
    assert [(row["name"], bool(row["revoked_at"])) for row in rows] == [("bot", True), ("twin", False), ("twin", False)]


def test_keys_made_with_another_secret_are_told_of(service: Service) -> None:
    call(service, "create_key", name="old", scopes=["view"], source="other")
    other = Service(
        type(service.settings).from_env({**service.settings.environ, "RUNHOOK_SECRET": "another secret of the tests"}),
        service.ledger,
        service.config,
    )
    with pytest.raises(Conflict, match="is not the secret that key"):
        call(other, "create_key", name="new", scopes=["view"], source="other")
    # And one of another source is not told whose key that is, nor of what file
    with pytest.raises(Conflict) as refused:
        call(other, "create_key", actor("skyvern"), name="new", scopes=["view"])
    assert str(refused.value) == "no key can be made for source skyvern: `runhook keys create` on the host says why"


def test_a_key_ends_by_the_clock_of_the_ledger(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = api.service(ledger, tmp_path)
    brief = call(service, "create_key", name="brief", scopes=["view"], source="other", expires_in=1e-3)
    lasting = call(service, "create_key", name="lasting", scopes=["view"], source="other", expires_in=3600)
    if ledger.url.get_backend_name() == "postgresql":  # whose clock it is, whatever this host's says
        monkeypatch.setattr(time, "time", lambda: 0.0)

    def read(made: dict[str, Any]) -> api_keys.Key | None:
        return service.ledger.read(lambda it: api_keys.by_hashes(it).get(api_key.digest(made["key"])))

    eventually(lambda: (key := read(brief)) is not None and key.expired)
    assert (key := read(lasting)) is not None
    assert key.in_use
    rows = {row["name"]: row for row in call(service, "list_keys")["items"]}
    assert (rows["brief"]["expired"], rows["lasting"]["expired"]) == (True, False)
    assert rows["lasting"]["expires_at"] > rows["lasting"]["created_at"]


def test_no_key_gives_another_a_longer_life(service: Service) -> None:
    own = call(service, "create_key", name="o", scopes=["view", "operate"], source="other", expires_in=3600)["row"]
    holder = Actor("key", "o", frozenset({VIEW, OPERATE}), "other", own["id"])

    made = call(service, "create_key", holder, name="a", scopes=["view"])["row"]
    assert made["expires_at"] == own["expires_at"]
    with pytest.raises(Forbidden, match=r"expires_in: o expires in 3,[56]"):
        call(service, "create_key", holder, name="b", scopes=["view"], expires_in=7200)
    with pytest.raises(Forbidden, match="expires_in"):
        call(service, "rotate_key", holder, key=made["id"], expires_in=7200)


def test_rotated_key_works_beside_its_successor_until_its_end(service: Service) -> None:
    whole = {"name": "shop", "scopes": ["submit", "read"], "source": "other", "rate": "5/s"}
    old = call(service, "create_key", actor("", "view", "operate", "submit", "read"), **whole)
    rotating = actor("", "view", "operate", "submit", "read")

    with pytest.raises(Forbidden, match="no read, submit, and can't give it"):
        call(service, "rotate_key", key="shop")
    with pytest.raises(NotFound):
        call(service, "rotate_key", actor("skyvern", "view", "operate", "submit", "read"), key=old["row"]["id"])
    made = call(service, "rotate_key", rotating, key="shop", grace=3600)

    # Then both are keys of the same rights, and the old one has an end
    new = made["row"]
    assert {name: new[name] for name in whole} == whole
    assert new["expires_at"] is None
    assert (made["old"]["id"], made["old"]["replaced_by"]) == (old["row"]["id"], new["id"])
    assert made["old"]["expires_at"] > made["old"]["created_at"]
    hashes = service.ledger.read(api_keys.by_hashes).keys()
    assert hashes == {api_key.digest(old["key"]), api_key.digest(made["key"])}
    # And the name means the new one, the old one is rotated no more
    with pytest.raises(Conflict, match=f"was rotated already: its successor is {new['id']}"):
        call(service, "rotate_key", rotating, key=old["row"]["id"])
    again = call(service, "rotate_key", rotating, key="shop", grace=0)
    assert again["old"]["id"] == new["id"]
    replaced = service.ledger.read(lambda it: api_keys.by_hashes(it).get(api_key.digest(made["key"])))
    assert replaced is None or replaced.expired
    assert [line[0] for line in done(service)] == ["key.create", "key.rotate", "key.rotate"]


def test_of_rotations_at_once_only_one_makes_a_successor(ledger: Ledger, tmp_path: Path) -> None:
    service = api.service(ledger, tmp_path)
    old = call(service, "create_key", name="shop", scopes=["view"], source="other")["row"]["id"]
    together = threading.Barrier(4)

    def rotate(_number: int) -> bool:
        together.wait()
        try:
            return bool(call(service, "rotate_key", key=old))
        except Conflict:
            return False

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(rotate, range(4)))

    assert made.count(True) == 1
    assert len(call(service, "list_keys")["items"]) == 2
