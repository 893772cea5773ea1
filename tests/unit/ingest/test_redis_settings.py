"""What the settings of a Redis mean for the promise that a 202 means on disk."""

import pytest
import redis

from receiver.ingest.redis_settings import Durability, assess, explain
from receiver.runtime.redis_client import auth_error

GOOD = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
    "proto-max-bulk-len": "536870912",
}


def test_redis_that_syncs_and_evicts_nothing_is_strong() -> None:
    assert assess(GOOD, 16 << 20).strong
    assert str(assess(GOOD)) == "on disk before 202: yes"


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("appendonly", "no", "set it to yes"),
        ("appendfsync", "everysec", "set it to always"),
        ("appendfsync", "no", "set it to always"),
        ("no-appendfsync-on-rewrite", "yes", "set it to no"),
        ("maxmemory-policy", "allkeys-lru", "set it to noeviction"),
        ("maxmemory-policy", "allkeys-random", "set it to noeviction"),
        ("proto-max-bulk-len", "1048576", "set it to 16777216 or more"),
    ],
)
def test_each_weaker_setting_is_named_with_what_would_be_right(name: str, value: str, advice: str) -> None:
    found = assess({**GOOD, name: value}, 16 << 20)
    assert not found.strong
    (problem,) = found.problems
    assert problem.startswith(f"{name} is {value}")
    assert problem.endswith(advice)


@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-ttl", "volatile-random", "noeviction"])
def test_a_policy_that_evicts_only_what_expires_spares_the_inbox(policy: str) -> None:
    assert assess({**GOOD, "maxmemory-policy": policy}).strong


def test_what_could_not_be_asked_is_not_known() -> None:
    found = Durability(("this Redis forbids CONFIG GET",), known=False)
    assert not found.strong
    assert str(found).startswith("on disk before 202: not known")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            redis.AuthenticationError("HELLO must be called with the client already authenticated, otherwise …"),
            "Redis at redis://h:1/9 wants a password: write it into REDIS_URL, redis://:password@host:port/0",
        ),
        (redis.AuthenticationError("Authentication required."), "wants a password"),
        (
            redis.AuthenticationError("invalid username-password pair"),
            "refuses our password or user: invalid username-password pair; correct them in REDIS_URL",
        ),
        (redis.ResponseError("DB index is out of range"), "has no database of that number: write another one"),
    ],
)
def test_redis_that_denies_entry_is_reported_with_the_remedy(error: Exception, said: str) -> None:
    assert said in auth_error("redis://h:1/9", error)


@pytest.mark.parametrize(
    "error", [redis.ConnectionError("refused"), redis.BusyLoadingError("x"), redis.ReadOnlyError()]
)
def test_a_redis_that_may_let_us_in_later_is_waited_for(error: Exception) -> None:
    assert auth_error("redis://h:1/0", error) == ""


def test_refusal_of_weak_redis_names_the_fix_and_no_password() -> None:
    text = explain("redis://:hunter2@redis.example/0", assess({**GOOD, "appendfsync": "everysec"}), "runhook.yaml")
    assert "\n" not in text
    assert "hunter2" not in text
    assert "appendfsync is everysec" in text
    assert "server.accept_weaker_durability: true in runhook.yaml" in text
