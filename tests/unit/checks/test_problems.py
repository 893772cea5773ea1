"""What is wrong, as a function of a report; and that each of these words has its section in the operator's page."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from receiver.checks.finding import REMEDIES
from receiver.checks.processes import last_seen
from receiver.checks.registry import find
from receiver.checks.report import LedgerReport, RedisReport, StatusReport
from receiver.config.loader import file_sections
from receiver.config.settings import Settings
from receiver.domain.breaker import Lane
from receiver.domain.liveness import SeenProcess
from receiver.inbox.state import InboxState
from receiver.ledger.database.clock_correction import Corrected
from receiver.ledger.database.timeouts import Cancelled
from receiver.ledger.lists.words import Coverage
from receiver.ledger.stats import Newest
from receiver.ledger.watches import Watch
from tests.support.paths import ROOT
from tests.support.reports import GIB, NOW, WELL, seen, with_sinks


def but(**changes: Any) -> StatusReport:
    """All is well, but for this."""
    return replace(WELL, **changes)


def beside(*others: SeenProcess) -> StatusReport:
    return but(processes=[*WELL.processes, *others])


def without(role: str, *others: SeenProcess) -> StatusReport:
    return but(processes=[*(each for each in WELL.processes if each.beat.role != role), *others])


def ledger(**changes: Any) -> StatusReport:
    names = ("counts", "oldest_due", "watches", "cancelled", "search")
    gauges = replace(WELL.ledger.gauges, **{name: changes.pop(name) for name in names if name in changes})
    return but(ledger=replace(WELL.ledger, gauges=gauges, **changes))


def disk(**changes: Any) -> StatusReport:
    return but(disk=replace(WELL.disk, **changes))


def redis(**changes: Any) -> StatusReport:
    return but(redis=replace(WELL.redis, **changes))


def receiver(age: float = 1.0, **details: Any) -> SeenProcess:
    return seen("receiver", age=age, details={"data": "/var/lib/runhook", **details})


def followed_by_webhook(refused: int) -> StatusReport:
    """Wrongly signed requests, and then a good webhook."""
    found = disk(quarantine=refused, newest_refused=NOW - 600, refused_lately=refused)
    return replace(found, ledger=replace(WELL.ledger, newest=Newest(NOW - 60)))


def newest(**facts: Any) -> StatusReport:
    return replace(WELL, ledger=replace(WELL.ledger, newest=Newest(**facts)))


def shut(reason: str) -> StatusReport:
    return ledger(lanes=[Lane("ops", "ops", breaker="open", until=NOW + 20, reason=reason, opened_at=NOW - 7200)])


def spooling(trouble: str) -> StatusReport:
    return without("receiver", receiver(store="spool", trouble=trouble))


CALLING = [*WELL.processes, seen("deliver:callback")]
BEHIND_PATH = Settings.from_env({"PUBLIC_URL": "http://8.8.8.8:8000/x"})
LOCAL = Settings.from_env({"PUBLIC_URL": "http://10.0.0.5", "SKYVERN_BASE_URL": "http://127.0.0.1:8100"})
CANCELLED = Cancelled("deliveries.claim", 3, NOW - 99, NOW - 30)
GONE = Lane("old", "old", True, breaker="open", reason="503")
NO_LIST = Watch("skyvern", None, 0.0, None, None, "403")
NO_STREAM = RedisReport("r", inbox=InboxState(trouble="the key is a string"))
ONLY_CRM = seen("deliver:crm", details={"only": "--only dispatch --only crm"})
SUSPENDED = replace(seen("clock", age=300.0), process="suspended")

# code → report in which it is the only one, words of it, and whether it is only a note
CASES: list[tuple[str, StatusReport, str, bool]] = [
    ("config_wrong", but(config_problems=["c.yaml:3: sinks.ops: unknown key"]), "c.yaml:3", False),
    ("config_doubtful", but(warnings=["c.yaml:3: no route names the sink ops"]), "no route names", True),
    ("public_url", but(config=with_sinks("ops", api_key="k"), processes=CALLING), "PUBLIC_URL is not set", True),
    ("public_url", but(settings=Settings.from_env({"PUBLIC_URL": "http://10.0.0.5"})), "Skyvern refuses a", False),
    ("public_url", but(settings=LOCAL), "your own Skyvern sends webhooks to 10.0.0.5 only if", True),
    ("public_url", but(settings=BEHIND_PATH), "the path /x", True),
    ("redis_away", redis(trouble="Connection refused"), "Connection refused", False),
    ("redis_full", redis(trouble="command not allowed when used memory > 'maxmemory'"), "no memory left", False),
    ("redis_weak", redis(weak="appendfsync is everysec"), "appendfsync", False),
    ("redis_lost", ledger(redis_lost=NOW - 600), "lost its data at 07:50 UTC (10 min ago): results", False),
    ("alert_failed", redis(alerts_failing={"ops": "410 Gone"}), "ops does not accept alerts: 410 Gone", False),
    ("ledger_away", but(ledger=LedgerReport("postgresql://h/l", "no route to host")), "no route to host", False),
    ("ledger_slow", ledger(cancelled=[CANCELLED]), "cancelled deliveries.claim for time, 3 times in a row", False),
    ("clock_was_ahead", ledger(corrected=Corrected(3, 1, 0, NOW - 60)), "3 deliveries, 1 breaker and 0 polls", False),
    ("clock_was_ahead", ledger(corrected=Corrected(3, 1, 0, NOW - 7200)), "0 polls 2 h ago", True),
    ("part_missing", without("clock"), "no clock is running: not seen", False),
    ("part_missing", without("clock", seen("clock", age=90.0)), "process 7), fell silent 90 s ago", False),
    ("part_missing", without("clock", seen("clock", age=200.0, stopped=True)), "was stopped 3 min ago", False),
    ("part_missing", without("deliver:ops"), "no deliver:ops is running", False),
    (
        "part_missing",
        but(processes=[seen("receiver"), seen("clock")]),
        "no worker is running: not seen in the last",
        False,
    ),
    # How late its deliveries are is no news then
    (
        "part_missing",
        replace(ledger(oldest_due={"ops": 1.0}), processes=without("deliver:ops").processes),
        "no deliver:",
        False,
    ),
    ("part_missing", without("deliver:ops", ONLY_CRM), "no deliver:ops is running", False),
    ("part_stuck", without("clock", seen("clock", stalled=100.0)), "made no progress for 100 s", False),
    ("part_stuck", beside(seen("clock", "b", stalled=100.0)), "clock on b", False),
    ("part_silent", beside(seen("clock", "b", age=100.0)), "clock on b (process 7)", True),
    (
        "spool_left",
        beside(seen("receiver", "b", age=100.0, details={"data": "/var/lib/r", "spool_events": 0})),
        "its spool on b may hold acknowledged results, which no other receiver sends: /var/lib/r/spool",
        False,
    ),
    (
        "spool_left",  # an operator has dealt with it
        replace(
            beside(seen("receiver", "b", age=100.0, details={"data": "/d", "spool_events": 12})),
            ledger=replace(WELL.ledger, spool_sent={"": NOW - 30}),
        ),
        "held 12 events, in /d/spool on b; a spool was sent 30 s ago",
        True,
    ),
    (
        "spool_left",  # an operator has sent another one
        replace(
            beside(seen("receiver", "b", age=100.0, details={"data_id": "b", "spool_events": 12})),
            ledger=replace(WELL.ledger, spool_sent={"c": NOW - 30}),
        ),
        "held 12 events, in ",
        False,
    ),
    (
        "worker_split",
        without("deliver:ops", seen("deliver:ops", details={"apart": "it ended three times: killed by signal 6"})),
        "each sink have their own process on a: it ended three times: killed by signal 6",
        False,
    ),
    ("spool_left", disk(spool_left=5 << 20), "5.0 MiB", False),
    ("clock_skew", beside(seen("clock", "b", skew=-6.0)), "b is 6 s behind", False),
    ("config_old", without("clock", seen("clock", config="old")), "processes run an older config than config/", True),
    ("config_old", without("clock", seen("clock", config="old")), "runhook.yaml: clock on a", True),
    (
        "configs_differ",
        beside(seen("clock", "b", config="old")),
        "on a, and not for clock on",
        False,
    ),
    ("part_suspended", without("clock", SUSPENDED), "clock on a (process 7) is suspended (SIGSTOP", False),
    # At once, although its heartbeat is young
    (
        "part_missing",
        without("clock", replace(seen("clock"), process="gone")),
        "7), ended unexpectedly; its last heartbeat was 1 s ago",
        False,
    ),
    ("webhooks_refused", without("receiver", receiver(refusing="the disk is full")), "with 503: receiver on a", False),
    (
        "misdirected",
        without("receiver", receiver(misdirected=[3, "/x/webhooks/skyvern", NOW - 180])),
        "3 signed requests got 404, the last 3 min ago: /x/webhooks/skyvern is not the path of a webhook",
        False,
    ),
    ("versions_differ", beside(seen("clock", "b", version="0.0.9")), "0.0.9, 0.1.0", True),
    ("receiver_spooling", spooling("refused"), "to its spool, though Redis answers here: refused", False),
    ("receiver_spooling", spooling(""), "the inbox, with what was set aside, has reached its limits", False),
    ("disk_unreadable", disk(trouble="there is no such directory"), "no such directory", False),
    ("disk_full", disk(free=GIB - 1), "1.0 GiB", False),
    ("disk_low", disk(free=GIB + 1), "1.0 GiB free", True),
    ("spool_full", disk(spool_bytes=int(1.7 * GIB)), "1.7 GiB of 2.0 GiB", False),
    ("spool_damaged", disk(set_aside=2), "2 damaged files", False),
    ("quarantine", disk(quarantine=4, newest_refused=NOW - 600), "4 requests", False),
    ("quarantine", disk(quarantine=4, newest_refused=NOW - 900_000), "10 d old", True),
    ("quarantine", followed_by_webhook(refused=1), "1 request with a wrong signature is in quarantine", True),
    ("quarantine", followed_by_webhook(refused=3), "3 requests with a wrong signature are", False),
    ("inbox_unreadable", redis(inbox=InboxState(trouble="the key is a string")), "is a string", False),
    ("inbox_set_aside", redis(inbox=InboxState(set_aside=2)), "2 entries of the inbox were set aside", False),
    ("ledger_weak", ledger(weak="fsync is off"), "fsync is off", False),
    ("task_failing", without("receiver", receiver(store="redis", failing="drain fails")), "drain fails", False),
    ("search_behind", ledger(search=Coverage(5, NOW - 61)), "5 changes of runs yet, the oldest 61 s old", True),
    ("inbox_late", redis(inbox=InboxState(12, 0, 61.0)), "12 events wait in the inbox", False),
    (
        "inbox_late",
        redis(inbox=InboxState(20_000, 0, 61.0, rate=600.0)),
        "the oldest for 61 s; 600.0 fewer each second, drained in 33 s at this rate",
        True,
    ),
    ("redis_away", redis(trouble="refused", down_since=NOW - 600), "(redis://h/0), for 10 min now: refused", False),
    (
        "ledger_away",
        but(ledger=LedgerReport("postgresql://h/l", "refused", down_since=NOW - 600)),
        "(postgresql://h/l), for 10 min now: refused",
        False,
    ),
    ("sink_paused", ledger(lanes=[Lane("ops", "ops", True, paused_at=NOW - 7200)]), "2 h ago; 3 deliveries", False),
    ("sink_paused", ledger(lanes=[Lane("ops", "ops", True)], counts={}), "; 0 deliveries", True),
    (
        "sink_paused",  # not in its first hour: an operator did it
        ledger(lanes=[Lane("ops", "ops", True, paused_at=NOW - 60)], paused_by={"ops": "deploy-bot (key)"}),
        "60 s ago by deploy-bot (key); 3 deliveries",
        True,
    ),
    (
        "sink_down",
        ledger(
            lanes=[Lane("ops", "ops", breaker="open", until=NOW + 20, reason="503", opened_at=NOW - 7200)],
            oldest_due={"ops": 1.0},
        ),
        "ops cannot be used, for 2 h now: 503; 3 deliveries wait, and the next probe is in 20 s",
        False,
    ),
    ("sink_down", ledger(lanes=[Lane("ops", "ops", breaker="open")], counts={}), "; 0 deliveries wait", True),
    ("sink_refuses", newest(refused={"ops": (5, "NotNullViolation")}), "refused its last 5 deliveries: NotNull", False),
    ("webhooks_missed", without("receiver", receiver(refused=[18, NOW - 60.0])), "18 requests to webhooks got", True),
    ("files_left_out", newest(files_left_out={"ops": 2}), "ops left out files of 2 recent deliveries", True),
    ("event_trouble", newest(troubled=2, example=("evt_1", "no JSON")), "a problem, the last evt_1: no JSON", True),
    (
        "event_trouble",
        newest(unrouted=6, unrouted_example=("evt_1", "route big can't be evaluated")),
        "6 recent events were not sent where a rule can't be evaluated, the last evt_1: route big",
        False,
    ),
    (
        "callers_down",
        ledger(lanes=[Lane("callback https://c", "callback", breaker="open")]),
        "1 server of callers does not accept webhooks, such as https://c",
        True,
    ),
    ("sink_gone", ledger(orphans={"old": {"queued": 2, "held": 1}}), "removed sink old still has", False),
    # Nobody sends to it any more, so it is neither down nor paused; `resume` and `test` would know no such sink
    ("sink_gone", ledger(lanes=[GONE], orphans={"old": {"queued": 2}}), "2 queued", False),
    # What keeps receivers from Redis is told once, with what fixes it
    ("redis_weak", replace(spooling("weak"), redis=RedisReport("r", weak="no AOF")), "no AOF", False),
    ("inbox_unreadable", replace(spooling("no stream"), redis=NO_STREAM), "is a string", False),
    ("delivery_late", ledger(oldest_due={"ops": NOW - 301}), "should have been sent 5 min ago", False),
    ("delivery_dead", ledger(counts={("ops", "dead"): 2}), "2 of ops", True),
    (
        "delivery_dead",
        ledger(counts={("ops", "dead"): 2}, newest=Newest(died=frozenset({"ops"}))),
        "2 of ops",
        False,
    ),
    (
        "sink_refuses",  # its dead letters are no second problem
        ledger(counts={("ops", "dead"): 5}, newest=Newest(died=frozenset({"ops"}), refused={"ops": (5, "no")})),
        "ops has refused its last 5 deliveries: no",
        False,
    ),
    ("operations", ledger(operations=1), "1 operation is running", True),
    ("watch_trouble", ledger(watches=[NO_LIST]), "runs of skyvern can't be read: 403", False),
]


def test_nothing_is_wrong_when_all_is_well() -> None:
    assert find(WELL) == []


def test_receiver_may_take_seconds_to_return_to_a_restarted_redis() -> None:
    assert find(replace(spooling("refused"), redis=replace(WELL.redis, uptime=3))) == []
    (problem,) = find(replace(spooling("refused"), redis=replace(WELL.redis, uptime=60)))
    assert problem.code == "receiver_spooling"


def test_paused_sink_that_is_down_has_no_next_probe() -> None:
    # Given a sink whose outage counts from its pause
    lane = Lane("ops", "ops", True, "open", until=NOW + 20, reason="503", paused_at=NOW - 60, opened_at=NOW - 60)
    problems = find(ledger(lanes=[lane]))
    assert {problem.what for problem in problems} == {
        "ops was paused 60 s ago; 3 deliveries wait",
        "ops cannot be used: 503; 3 deliveries wait",
    }


@pytest.mark.parametrize(("code", "report", "words", "note"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)])
def test_each_problem_has_words_and_a_remedy(code: str, report: StatusReport, words: str, note: bool) -> None:
    (problem,) = find(report)

    assert (problem.code, problem.note) == (code, note)
    assert words in problem.what
    assert problem.todo


@pytest.mark.parametrize("trouble", ["Connection refused", "command not allowed when used memory > 'maxmemory'"])
def test_redis_trouble_says_that_rated_sinks_wait(trouble: str) -> None:
    (problem,) = find(redis(trouble=trouble))
    assert "sinks with a rate wait" in problem.todo


@pytest.mark.parametrize(
    ("code", "report", "words"),
    [
        ("event_trouble", newest(unrouted=1), "`runhook reroute --since 1d`"),
        ("spool_left", disk(spool_left=9), "`runhook spool send --data DIR --dry-run`"),
        ("quarantine", disk(quarantine=4, newest_refused=NOW - 600), "if the API key changed, put the new one"),
        ("public_url", but(settings=BEHIND_PATH), "remove /x from PUBLIC_URL"),
    ],
)
def test_fix_is_the_command_that_ends_the_problem(code: str, report: StatusReport, words: str) -> None:
    (problem,) = find(report)
    assert problem.code == code
    assert words in problem.todo


def test_stuck_process_has_the_same_words_in_readyz() -> None:
    stuck = seen("clock", stalled=100.0)
    (problem,) = find(without("clock", stuck))
    assert last_seen(stuck) == problem.what == "clock on a (process 7) has made no progress for 100 s"


def test_missing_worker_is_one_line_with_its_sinks() -> None:
    sinks = [f"sink{number}" for number in range(12)]
    well = but(
        config=with_sinks(*sinks),
        ledger=ledger(oldest_due=dict.fromkeys(sinks, NOW - 999)).ledger,
        processes=[seen("receiver"), seen("clock"), seen("dispatch"), *(seen(f"deliver:{sink}") for sink in sinks)],
    )
    workers = [each for each in well.processes if each.beat.role.startswith("d")]
    others = [each for each in well.processes if each not in workers]

    # When its host went away, the whole of it
    (problem,) = find(replace(well, processes=[*others, *(replace(each, age=90.0) for each in workers)]))
    assert (problem.code, problem.what[:44]) == ("part_missing", "no worker is running: the last one, on a (pr")
    assert problem.todo == (
        f"events stay in the inbox, and nothing is sent to {', '.join(sinks)}; start `runhook worker`"
    )
    # When one of two workers has some of the sinks only
    here = [each for each in workers if each.beat.role not in ("deliver:sink3", "deliver:sink7")]
    (problem,) = [each for each in find(replace(well, processes=[*others, *here])) if each.code != "delivery_late"]
    assert problem.what == "no deliver:sink3, deliver:sink7 is running: not seen in the last day"
    assert problem.todo == "nothing is sent to sink3, sink7; start `runhook worker`"
    # When another host does its work
    gone = [replace(each, age=90.0, beat=replace(each.beat, name=f"{each.beat.name}b", host="b")) for each in workers]
    (problem,) = [each for each in find(replace(well, processes=[*well.processes, *gone])) if each.note]
    assert problem.what.startswith("dispatch and deliver:sink0, ")
    assert problem.what.endswith("deliver:sink11 on b have been silent for 90 s; others do their work")


@pytest.mark.parametrize(
    ("reason", "what", "todo"),
    [
        ("crm.example answered 429", "limits its rate", "set `rate` of this sink"),
        ("Slack answered 429: too many messages", "limits its rate", "set `rate` of this sink"),
        ("crm.example answered 503", "responds with errors", "`runhook attempts --sink ops` shows its responses; once"),
        ("the disk that holds /out is full", "has no disk space left", "free disk space there"),
        ("/out has less than the reserve of 9 bytes free", "has no disk space left", "free disk space there"),
        ("SQLite: database or disk is full (SQLITE_FULL)", "has no disk space left", "free disk space there"),
        ("crm.example: it can't be reached", "cannot be used", "`runhook sink test ops` tests it"),
    ],
)
def test_each_cause_of_an_open_breaker_has_its_remedy(reason: str, what: str, todo: str) -> None:
    (problem,) = find(shut(reason))
    assert problem.what.startswith(f"ops {what}, for 2 h now: {reason}")
    assert problem.todo.startswith(todo)


def test_refused_webhooks_come_first_and_nothing_says_spool() -> None:
    report = replace(disk(free=GIB - 1), redis=RedisReport("redis://h/0", "refused"))

    first, *others = find(report)

    assert (first.code, first.note) == ("webhooks_refused", False)
    assert first.what == (
        "webhooks are being refused with 503: Redis cannot be used, and var has 1024.0 MiB free, less than "
        "spool.reserve_bytes (1.0 GiB)"
    )
    assert [problem.code for problem in others] == ["redis_away"]
    assert "webhooks are refused" in others[0].todo
    # And a spool at its limit is the same
    report = replace(disk(spool_bytes=2 * GIB), redis=RedisReport("redis://h/0", "refused"))
    assert [problem.code for problem in find(report)] == ["webhooks_refused", "redis_away"]
    # An embedded Redis writes to the same disk
    report = replace(disk(free=GIB - 1), redis=replace(WELL.redis, embedded=True))
    assert [problem.code for problem in find(report)] == ["webhooks_refused"]


def test_new_sink_of_an_edited_config_needs_a_reload() -> None:
    # Given a config file with a new sink, and processes that still run the file as it was
    sections = {"sinks.ops": "1", "routes": "2"}
    old = [
        replace(each, beat=replace(each.beat, config="old", details={**each.beat.details, "sections": sections}))
        for each in WELL.processes
    ]
    edited = but(
        processes=old,
        config=with_sinks("crm", "ops"),
        config_sections={"sinks.ops": "1", "sinks.crm": "3", "routes": "4"},
    )

    # Then one line says so, and none to start a second worker
    (problem,) = find(edited)
    assert (problem.code, problem.note) == ("config_old", False)
    assert problem.what == (
        "processes run an older config than config/runhook.yaml: "
        "receiver, worker, clock on a (changed: routes, sinks.crm)"
    )
    assert problem.todo.startswith("`runhook reload` on their hosts; until then nothing is sent to crm.")
    # And a file that differs only in comments is no news
    assert find(replace(edited, config=WELL.config, config_sections=sections)) == []


def test_some_refusals_in_a_row_are_no_problem_of_the_sink() -> None:
    assert find(newest(refused={"ops": (4, "no"), "removed": (9, "no")})) == []


def test_events_that_wait_for_the_ledger_are_no_second_problem() -> None:
    inbox = InboxState(entries=25, oldest=90.0)
    report = but(redis=RedisReport("r", inbox=inbox), ledger=LedgerReport("postgresql://h/l", "hangs"))

    (problem,) = find(report)

    assert problem.code == "ledger_away"
    assert problem.what.endswith("hangs; 25 events wait in the inbox")


def test_two_hosts_with_different_files_are_both_named() -> None:
    other = [replace(each, beat=replace(each.beat, host="b", config="other")) for each in WELL.processes]
    other[0] = replace(other[0], beat=replace(other[0].beat, details={"sections": {"routes": "1"}}))

    (problem,) = find(but(processes=[*WELL.processes, *other], config_sections={"routes": "2"}))

    assert (problem.code, problem.note) == ("configs_differ", False)
    assert problem.what == (
        "hosts run different configs: config/runhook.yaml is in effect on a, and not for receiver, worker, "
        "clock on b (changed: routes)"
    )


@pytest.mark.parametrize(("folder", "port", "route", "changed"), [("/b", 9000, "", ""), ("/a", 8000, "x", "routes")])
def test_hosts_may_differ_in_paths_and_addresses(
    tmp_path: Path, folder: str, port: int, route: str, changed: str
) -> None:
    def sections(folder: str, port: int, route: str) -> dict[str, str]:
        sink = {"type": "files", "path": f"{folder}/out"}
        file = {"server": {"port": port}, "sinks": {"archive": sink}, "routes": [route]}
        (tmp_path / "c.yaml").write_text(json.dumps(file))
        return file_sections(tmp_path / "c.yaml")

    here, there = sections("/a", 8000, ""), {"sections": sections(folder, port, route)}
    other = seen("clock", "b", config="other", details=there)

    found = find(but(processes=[*WELL.processes, other], config_sections=here))
    assert [changed in each.what for each in found] == ([True] if changed else [])
    # But on one host, where the file was edited, all of it counts
    (problem,) = find(
        but(
            processes=[
                each if each.beat.role != "clock" else replace(other, beat=replace(other.beat, host="a"))
                for each in WELL.processes
            ],
            config_sections=here,
        )
    )
    assert problem.code == "config_old"


def test_lost_processes_are_named_once_and_for_an_hour() -> None:
    gone = [seen("deliver:ops", "b", age=age, name=f"{age}") for age in (100.0, 200.0, 300.0)]

    (problem,) = find(beside(*gone))

    assert problem.what == "deliver:ops on b have been silent for 100 s; others do their work"
    assert find(beside(seen("clock", "b", age=3700.0))) == []


@pytest.mark.parametrize(("stopped", "words"), [(False, "is gone"), (True, "was stopped")])
def test_left_spool_is_reported_until_a_receiver_has_it(stopped: bool, words: str) -> None:
    def there(name: str, host: str = "b", age: float = 1.0, stopped: bool = False, **details: Any) -> SeenProcess:
        return seen("receiver", host, age=age, name=name, stopped=stopped, details={"data": "/d", **details})

    gone = there("gone", age=99.0, stopped=stopped, data_id="1", spool_events=12)

    found = {problem.code: problem for problem in find(beside(gone))}

    assert set(found) == {"spool_left"}
    assert f"{words}, and its spool held 12 events, in /d/spool on b" in found["spool_left"].what
    # And no more once a receiver has that directory, on whatever host, or had it later and left nothing in it
    back = there("back", "elsewhere", data_id="1", store="redis")
    drained = there("drained", age=50.0, stopped=True, data_id="1", spool_events=0)
    other = there("other", data_id="2", store="redis")
    assert "spool_left" not in {problem.code for problem in find(beside(gone, back))}
    assert "spool_left" not in {problem.code for problem in find(beside(gone, drained))}
    assert "spool_left" in {problem.code for problem in find(beside(gone, other))}


@pytest.mark.parametrize(
    ("options", "advice"), [({}, "set `rate`"), ({"rate": "50/m"}, "lower `rate` of this sink, now `50/m`")]
)
def test_advice_for_429_depends_on_the_rate_in_force(options: dict[str, str], advice: str) -> None:
    (problem,) = find(replace(shut("crm.example answered 429"), config=with_sinks("ops", **options)))
    assert problem.todo.startswith(advice)


def test_sink_without_a_worker_names_the_limits_of_running_ones() -> None:
    (problem,) = find(without("deliver:ops", ONLY_CRM))
    limits = "the worker on a (`--only dispatch --only crm`) is limited: start another, or restart it without `--only`"
    assert problem.todo == f"nothing is sent to ops; start `runhook worker`; {limits}"


@pytest.mark.parametrize(("seconds", "codes"), [(14.0, []), (16.0, ["part_missing"])])
def test_worker_gets_some_seconds_to_build_its_sinks(seconds: float, codes: list[str]) -> None:
    workers = ("dispatch", "deliver:ops")
    processes = [
        *(each for each in WELL.processes if each.beat.role not in workers),
        seen("dispatch", started_at=NOW - seconds),
    ]

    assert [problem.code for problem in find(but(processes=processes))] == codes
    # But one that runs an older file does not build a new sink
    old = [replace(each, beat=replace(each.beat, config="old")) for each in processes]
    assert [(it.code, it.note) for it in find(but(processes=old))] == [("config_old", False)]


def test_missed_heartbeat_says_nothing_about_a_clock() -> None:
    assert find(beside(seen("clock", "b", age=31.0, skew=-6.0))) == []


def test_breaker_of_a_removed_sink_is_not_a_problem() -> None:
    assert find(ledger(lanes=[GONE])) == []


def test_without_the_ledger_only_local_processes_are_known() -> None:
    report = but(ledger=LedgerReport("l", "refused", "call its owner"), processes=[])

    assert [problem.code for problem in find(report)] == ["ledger_away", "part_unknown"]
    assert find(report)[0].todo.startswith("call its owner. Until then webhooks")
    # And a host that has only a worker does not miss what others have
    silent = seen("clock", age=99.0)
    report = replace(report, processes=[seen("dispatch"), seen("deliver:ops"), silent])
    assert [problem.code for problem in find(report)] == ["ledger_away", "part_missing", "part_unknown"]


def test_what_stops_most_comes_first_and_notes_last() -> None:
    report = replace(
        ledger(counts={("ops", "dead"): 1}, lanes=[Lane("ops", "ops", breaker="open")], orphans={"old": {"held": 1}}),
        redis=RedisReport("r", "refused"),
        processes=[],
        config_problems=["x"],
    )

    codes = [problem.code for problem in find(report)]

    assert codes[:2] == ["config_wrong", "redis_away"]
    assert codes[2] == "part_missing"
    assert codes[-1] == "delivery_dead"


def test_each_problem_has_its_section_in_the_operators_page() -> None:
    page = (ROOT / "docs" / "how-to" / "operations.md").read_text()
    codes = {code for code in REMEDIES if "." not in code}  # of cheap checks

    section = page.partition("## What is wrong, and what to do")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == codes
    assert {code for code, *_ in CASES} | {"part_unknown"} == codes
