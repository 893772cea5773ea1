"""Which problems are reported to which sink, over time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.checks.alerts import AlertState, accepted, notification, observe, refused, transitions
from receiver.checks.finding import Finding, fault

SINKS = ["ops", "pager"]
AFTER = 120.0
ROUND = 15.0


@dataclass
class Rounds:
    """Rounds of checks, 15 seconds apart. `got`: per sink, "+code about" for a begin, "-code about" for an end."""

    sinks: Sequence[str] = ("ops",)
    now: float = 1_800_000_000.0
    state: AlertState = field(default_factory=AlertState)
    got: dict[str, list[str]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def run(self, *findings: Finding, seconds: float = ROUND, failing: Mapping[str, str] = {}) -> Rounds:
        for _ in range(max(1, int(seconds / ROUND))):
            self.now += ROUND
            # As of a clock that reads the state from Redis each time
            self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=AlertState)
            self.state = observe(self.state, findings, self.sinks, self.now)
            for sink in self.sinks:
                found = transitions(self.state, sink, self.now, AFTER)
                if found and sink in failing:
                    self.state = refused(self.state, sink, failing[sink])
                    continue
                if found:
                    self.messages.append("\n".join(notification(found, "").lines))
                    got = self.got.setdefault(sink, [])
                    got += [f"+{each.code} {each.about}".strip() for each in found.begun]
                    got += [f"-{each.code} {each.about}".strip() for each in found.ended]
                self.state = accepted(self.state, sink, found)
        return self


AWAY = Finding("redis_away", "no response", "start it")
OPS_DOWN = fault("sink_down", "crm fails", fix="`runhook attempts --sink X`", sink="crm")
MAIL_DOWN = fault("sink_down", "mail fails", fix="`runhook attempts --sink X`", sink="mail")
NOISY = Finding("quarantine", "2 requests")
NOTE = Finding("disk_low", "12 % are free", note=True)


def test_a_problem_is_reported_once_after_it_has_lasted_and_its_end_once() -> None:
    rounds = Rounds().run(AWAY, seconds=AFTER)
    assert rounds.got == {}

    rounds.run(AWAY, seconds=3600)
    assert rounds.got == {"ops": ["+redis_away"]}

    rounds.run(seconds=AFTER - ROUND)
    assert rounds.got == {"ops": ["+redis_away"]}
    rounds.run(seconds=3600)
    assert rounds.got == {"ops": ["+redis_away", "-redis_away"]}
    assert rounds.state == AlertState()


def test_one_that_ends_before_it_was_reported_is_not() -> None:
    rounds = Rounds()
    for _ in range(20):
        rounds.run(AWAY, seconds=AFTER - ROUND).run(seconds=AFTER)

    assert rounds.got == {}


def test_one_that_comes_and_goes_is_one_problem() -> None:
    rounds = Rounds().run(AWAY, seconds=300)
    for _ in range(20):
        rounds.run(seconds=AFTER - ROUND).run(AWAY)

    assert rounds.got == {"ops": ["+redis_away"]}


@pytest.mark.parametrize("server", ["redis_away", "ledger_away"])
def test_while_a_server_is_away_what_it_knows_does_not_end(server: str) -> None:
    (other,) = {"redis_away", "ledger_away"} - {server}
    rounds = Rounds().run(OPS_DOWN, Finding(other, "x"), seconds=300).run(Finding(server, "x"), seconds=3600)
    assert sorted(rounds.got["ops"]) == sorted(["+sink_down crm", f"+{other}", f"+{server}", f"-{other}"])

    rounds.run(OPS_DOWN, seconds=600)
    assert rounds.got["ops"][4:] == [f"-{server}"]
    rounds.run(seconds=600)
    assert rounds.got["ops"][5:] == ["-sink_down crm"]


def test_notes_are_not_reported_and_a_problem_that_becomes_one_has_ended() -> None:
    urgent = Finding(NOTE.code, NOTE.what)
    rounds = Rounds().run(NOTE, seconds=600).run(NOTE, urgent, seconds=300).run(NOTE, seconds=600)

    assert rounds.got == {"ops": ["+disk_low", "-disk_low"]}


def test_problems_that_began_together_share_a_message_and_others_have_their_own() -> None:
    rounds = Rounds().run(AWAY, OPS_DOWN, seconds=300).run(AWAY, OPS_DOWN, MAIL_DOWN, seconds=300)

    assert rounds.got == {"ops": ["+redis_away", "+sink_down crm", "+sink_down mail"]}
    assert [len(message.splitlines()) for message in rounds.messages] == [2, 1]


def test_many_findings_of_one_code_about_the_same_are_one_problem() -> None:
    hosts = [fault("clock_skew", f"host {number} is late") for number in range(40)]

    rounds = Rounds().run(*hosts, seconds=300)

    assert rounds.got == {"ops": ["+clock_skew"]}
    assert "host 0 is late (and 39 more) →" in rounds.messages[0]


def test_a_message_has_twenty_problems_and_counts_the_rest() -> None:
    sinks = [
        fault("sink_down", "x" * 5000, fix="`runhook attempts --sink X`", sink=f"sink{number}") for number in range(500)
    ]

    (message,) = Rounds().run(*sinks, seconds=300).messages

    assert message.splitlines()[20:] == ["and 480 more: `runhook status`"]
    assert len(message) < 16_000


def test_a_sink_that_fails_gets_it_later_and_the_others_at_once() -> None:
    rounds = Rounds(SINKS).run(AWAY, seconds=600, failing={"ops": "410 Gone"})
    assert rounds.got == {"pager": ["+redis_away"]}
    assert rounds.state.failing == {"ops": "410 Gone"}

    rounds.run(AWAY)

    assert rounds.got == {"pager": ["+redis_away"], "ops": ["+redis_away"]}
    assert rounds.state.failing == {}


def test_that_a_sink_fails_is_reported_to_the_others_and_never_to_itself() -> None:
    failed = fault("alert_failed", "ops does not accept alerts", sink="ops")
    rounds = Rounds(SINKS).run(NOISY, failed, seconds=600, failing={"ops": "410 Gone"})
    rounds.run(NOISY, failed).run(NOISY, seconds=600)

    assert rounds.got == {"pager": ["+quarantine", "+alert_failed ops", "-alert_failed ops"], "ops": ["+quarantine"]}


def test_the_end_of_a_problem_waits_for_the_sink_a_day() -> None:
    rounds = Rounds().run(AWAY, seconds=600).run(seconds=80_000, failing={"ops": "503"})
    assert rounds.run().got == {"ops": ["+redis_away", "-redis_away"]}

    rounds = Rounds().run(AWAY, seconds=600).run(seconds=90_000, failing={"ops": "503"})
    assert rounds.run().got == {"ops": ["+redis_away"]}
    assert rounds.state.alerts == {}


def test_a_sink_that_is_no_longer_named_is_forgotten_and_a_new_one_gets_what_lasts() -> None:
    rounds = Rounds(SINKS).run(AWAY, seconds=600, failing={"ops": "410"})
    rounds.sinks = ["pager", "mail"]
    rounds.run(AWAY).run(seconds=600)

    assert rounds.got == {"pager": ["+redis_away", "-redis_away"], "mail": ["+redis_away", "-redis_away"]}
    assert rounds.state == AlertState()


def test_a_message_has_what_happened_the_fix_and_the_same_for_programs() -> None:
    state = observe(AlertState(), [OPS_DOWN], ["ops"], 1_800_000_000.0)
    state = observe(state, [OPS_DOWN], ["ops"], 1_800_000_300.0)
    found = transitions(state, "ops", 1_800_000_300.0, AFTER)

    message = notification(found, "https://runhook.example/console")

    assert (message.kind, message.title, message.urgent) == ("alert", "Runhook: 1 problem", True)
    assert message.link == "https://runhook.example/console"
    assert message.lines[0].startswith("• sink_down: crm fails → `runhook attempts --sink X`")
    (row,) = message.data["problems"]
    assert (row["code"], row["about"], row["since"]) == ("sink_down", "crm", "2027-01-15T08:00:00Z")
    # The same message has the same key when it is sent again, and another one another
    assert notification(found, "").key == message.key
    ended = observe(accepted(state, "ops", found), [], ["ops"], 1_800_000_600.0)
    end = notification(transitions(ended, "ops", 1_800_000_600.0, AFTER), "")
    assert (end.title, end.urgent, end.key == message.key) == ("Runhook: 1 problem ended", False, False)
    assert end.lines == ["• ended after 5 min: sink_down: crm fails"]
    assert end.data["ended"][0]["until"] == "2027-01-15T08:05:00Z"


Present = Collection[str]


@given(st.lists(st.tuples(st.sets(st.sampled_from(["a", "b", "c"])), st.booleans()), max_size=120))
def test_each_sink_gets_begin_and_end_in_turn_and_the_last_word_is_right(history: list[tuple[Present, bool]]) -> None:
    rounds = Rounds(SINKS)
    for present, fails in history:
        rounds.run(*(Finding(code, "x") for code in sorted(present)), failing={"ops": "503"} if fails else {})
    last = history[-1][0] if history else set()
    rounds.run(*(Finding(code, "x") for code in sorted(last)), seconds=600)

    for sink in SINKS:
        for code in "abc":
            told = [each[0] for each in rounds.got.get(sink, []) if each[1:] == code]
            assert all(first != second for first, second in pairwise(told))
            assert (told[-1:] == ["+"]) == (code in last)


@pytest.mark.parametrize("sinks", [[], ["ops"]])
def test_without_problems_nothing_is_sent(sinks: list[str]) -> None:
    assert Rounds(sinks).run(NOTE, seconds=600).got == {}
