"""Each list, on this machine's ledger and on a real service: the same output, byte for byte, and the same errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from receiver.api.names import none_such
from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Ledger
from tests.servers.scripted import ScriptedServer
from tests.servers.skyvern import KEY
from tests.servers.submitting import Submitting
from tests.support.command import Said
from tests.support.ledger import claim, new_event, record, settle

LISTS = [
    ["runs"],
    ["events"],
    ["deliveries"],
    ["dead"],
    ["attempts", "tsk_2"],
    ["submissions"],
    ["artifacts"],
    ["operations"],
    ["audit"],
    ["sink", "list"],
]
# What else is asked, and how it ends.
FURTHER = [
    (["runs", "--run-prefix", "tsk_2", "--sink", "ops"], 0),
    (["runs", "--status", "failed"], 0),
    (["events", "--run", "tsk_3", "--since", "2020-01-01"], 0),
    (["events", "-n", "2"], 0),
    (["deliveries", "--state", "dead", "--state", "delivered", "-n", "1200"], 0),
    (["deliveries", "--label", "team=billing"], 0),
    (["attempts"], 0),
    (["attempts", "--outcome", "refused", "--outcome", "lapsed"], 0),
    (["attempts", "--outcome", "lost"], 2),
    (["events", "--disposition", "new"], 0),
    (["events", "--disposition", "old"], 2),
    (["attempts", "--run", "tsk_2", "--sink", "ops"], 0),
    (["runs", "--status", "faild"], 2),
    (["runs", "--since", "1h", "--until", "2h"], 2),
    (["deliveries", "--sink", "opps"], 2),
    (["deliveries", "--state", "deed"], 2),
    (["deliveries", "--route", "everthing"], 2),
    (["stats", "--sink", "opps"], 2),
    (["tail", "--source", "skyven"], 2),
    (["tail", "--sink", "opps"], 2),
    (["events", "--run", "tsk_404"], 2),
    (["events", "--run", "dlv_0123456789ab"], 2),
    (["events", "--event", "evt_0123456789ab"], 2),
    (["attempts", "tsk_404"], 2),
    (["attempts", "dlv_1"], 2),
    (["dead", "--label", "team"], 2),
    (["audit", "--action", "cancell"], 2),
    # what a script's empty variable makes is not all there are
    (["dead", "--sink", ""], 2),
    (["runs", "--status", ""], 2),
    (["artifacts", ""], 2),
]


@pytest.fixture
def service(
    submitting: Callable[..., Submitting],
    scripted_server: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Submitting:
    """A service whose ledger and config are this machine's too, with all that lists show."""
    sinks = {name: {"type": "files", "path": name} for name in ("results", "ops")}
    server = submitting(scripted_server.url, dispatching=False, sinks=sinks)
    source = {"secrets": ["other"], "api_base": scripted_server.url, "api_key": KEY}
    (tmp_path / "c.json").write_text(json.dumps({"sources": {"skyvern": source}, "sinks": sinks}))
    monkeypatch.setenv("RUNHOOK_CONFIG", str(tmp_path / "c.json"))
    monkeypatch.setenv("RUNHOOK_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RUNHOOK_URL", "RUNHOOK_KEY", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    fill(server.ledger)
    return server


def fill(ledger: Ledger) -> None:
    """Events of three runs, with deliveries that were done and that are dead."""
    title = '=cmd("x"), "quoted"\nand more \N{GREEK SMALL LETTER ALPHA}'
    files = {"recording_url": "https://files.example/recording.webm?signature=secret"}
    record(ledger, *(new_event(f"tsk_{number}", "results", "ops", title=title, **files) for number in (1, 2, 3)))
    settle(ledger, claim(ledger, "results"), DeliveryMove.ACCEPT)
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)


def test_a_service_is_listed_as_this_machines_ledger_is(
    service: Submitting, said: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = said("replay", "--sink", "ops", "--state", "dead", "--since", "2020-01-01", "--rate", "0.001")
    assert replayed[0] == 0, replayed
    remote = ["--url", service.url, "--key", service.key("view", source="*")]
    forms = [[*each, *form] for each in LISTS for form in ([], ["-o", "json"], ["-o", "jsonl"], ["-o", "csv"])]

    for arguments, code in [*((each, 0) for each in forms), *FURTHER]:
        here, there = said(*arguments), said(*arguments, *remote)

        assert here == there, arguments
        assert here[0] == code, (arguments, here)
        empty = code != 0 or arguments == ["submissions", "-o", "jsonl"]
        assert (here[1] == "") == empty, (arguments, here)
    assert "unknown action; did you mean cancel?" in said("audit", "--action", "cancell")[2]
    assert "--sink opps: unknown sink; did you mean ops?" in said("tail", "--sink", "opps")[2]
    assert "unknown run; it is the id of a delivery" in said("events", "--run", "dlv_0123456789ab")[2]

    # and by variables in place of options
    monkeypatch.setenv("RUNHOOK_URL", service.url)
    monkeypatch.setenv("RUNHOOK_KEY", remote[-1])
    monkeypatch.setenv("RUNHOOK_DATA", "nowhere")
    assert len(json.loads(said("runs", "--json")[1])) == 3


def test_one_run_and_one_event_are_told_alike(service: Submitting, said: Callable[..., Said]) -> None:
    remote = ["--url", service.url, "--key", service.key("view", source="*")]
    event = json.loads(said("events", "--run", "tsk_2", "--json")[1])[0]["id"]
    body = said("event", event, "--raw")[1]
    cases = [
        ["run", "tsk_2"],
        ["run", "tsk_2", "--json"],
        ["run", "tsk_404"],
        ["run", ""],
        ["event", ""],
        ["event", event],
        ["event", event[:14]],
    ]
    cases += [["event", event, form] for form in ("--body", "--raw", "--json")]

    for each in cases:
        assert said(*each) == said(*each, *remote), each

    # a run is told with its timeline, its output and its files, none of whose addresses opens anything
    code, shown, _ = said("run", "tsk_2")
    assert code == 0
    assert "webhook: completed, new" in shown
    assert "results  ✓  attempt 1: accepted" in shown
    assert "ops      ✗  attempt 1: refused" in shown
    assert "└── n: 1" in shown
    assert "recording.webm" in shown
    assert "signature" not in shown
    told = json.loads(said("run", "tsk_2", "--json")[1])
    assert told["output"] == {"n": 1}
    assert [each["name"] for each in told["files"]] == ["recording.webm"]
    assert said("run", "tsk_404")[2] == f"runhook: {none_such('run', 'tsk_404')}\n"
    assert said("run", "")[2] == "runhook: an id is empty\n"
    # an event's bytes are those that came
    assert json.loads(body)["output"] == {"n": 1}
    assert said("event", event, "--body", "--raw")[0] == 2


def test_local_command_refuses_a_remote_service(said: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNHOOK_URL", "https://a.example")
    commands = [["inbox", "list"], ["inbox", "drop", "--all"], ["spool", "send"], ["reconcile"], ["connect"]]
    commands += [["sink", "columns"]]
    for command in commands:
        code, out, error = said(*command)

        assert (code, out, error.count("\n")) == (2, "", 1), command
        assert error.startswith("runhook: RUNHOOK_URL (environment) names a remote service"), command
    monkeypatch.setenv("RUNHOOK_URL", "")
    assert "RUNHOOK_URL" not in said("sink", "columns")[2]


def test_the_doctor_of_a_service_is_its_own_process(service: Submitting, said: Callable[..., Said]) -> None:
    remote = ["--url", service.url, "--key", service.key("view", "operate", source="*")]
    code, shown, _ = said("doctor", "-o", "json", *remote)
    assert code == 1
    rows = {row["check"]: row for row in json.loads(shown)}
    assert str(service.settings.data) in rows["disk.free"]["what"]
    assert not rows["part_missing"]["ok"]
    # And only for who may act for all sources
    for key in (service.key("view", source="*"), service.key("view", "operate")):
        code, _, error = said("doctor", "--url", service.url, "--key", key)
        assert code != 0
        assert "this " in error


def test_old_events_are_rerouted_by_the_rules_of_the_service(service: Submitting, said: Callable[..., Said]) -> None:
    remote = ["--url", service.url, "--key", service.key("view", "operate", source="*")]
    for form in ([], ["-o", "json"]):
        here, there = (said("reroute", "--since", "2020-01-01", *form, *where) for where in ([], remote))
        assert (here[0], here[1]) == (there[0], there[1])
        assert "3 events: 0 new deliveries" in there[1] + there[2]
    code, _, error = said("reroute", "--since", "2020-01-01", "--sink", "opps", *remote)
    assert (code, "unknown sink opps" in error) == (2, True)
    code, _, error = said("reroute", "--since", "2020-01-01", "--url", service.url, "--key", service.key("view"))
    assert (code, "operate" in error) == (2, True), error
