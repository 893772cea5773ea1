"""The command line as a whole: how it starts, how it says what is wrong with a call, how it prints tables."""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from receiver import __version__
from receiver.cli import COMMANDS, main, output
from receiver.cli.options import parse_time
from receiver.config.settings import Settings
from receiver.dispatch.dispatcher import Dispatcher
from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import Event
from receiver.domain.redaction import Redactor
from receiver.errors import RunhookError
from receiver.ledger import Ledger
from receiver.routing.router import Router
from tests.support import queries
from tests.support.ledger import claim, new_event, record, settle, with_tables
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE


@pytest.fixture
def runhook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """`runhook …` in an empty directory with nothing set: exit code, output, errors."""
    for name in ("RUNHOOK_CONFIG", "RUNHOOK_DATA", "REDIS_URL", "DATABASE_URL", "SKYVERN_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["runhook", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


Run = Callable[..., tuple[int, str, str]]


def test_the_version_comes_without_importing_any_command() -> None:
    program = (
        "import sys; sys.argv[1:] = ['--version']; from receiver.cli import main\n"
        "try: main()\nfinally: print(*sys.modules)"
    )
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=PATIENCE
    )

    first, modules = done.stdout.splitlines()
    assert first == f"runhook {__version__}"
    assert {"typer", "pydantic", "sqlalchemy", "dataclasses", "difflib"}.isdisjoint(modules.split())


def test_runhook_alone_shows_every_command(runhook: Run) -> None:
    code, out, err = runhook()

    assert code == 2
    assert err == ""
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "no such command 'nonsense'; see `runhook -h`"),
        (["deliverys"], "no such command 'deliverys'. Did you mean 'deliveries'?; see `runhook -h`"),
        (["sink", "pause"], "missing argument 'NAME'; see `runhook sink pause -h`"),
        (["runs", "--colour"], "no such option: --colour"),
        (["artifacts", "tsk_1", "--download"], "option '--download' requires an argument; see `runhook artifacts -h`"),
        (["dev", "--port", "99999"], "invalid value for '--port': must be less than or equal to 65535;"),
        (["simulate", "--port", "70000"], "invalid value for '--port': must be less than or equal to 65535;"),
        (["status", "--data", "\udcff"], "argument 3 is no UTF-8 text; write it anew"),
        (["runs", "-o", "xml"], "invalid value for '--output' / '-o': 'xml' is not one of 'table', 'json'"),
        (["replay"], "say what to replay"),
        (["runs", "--since", "yesterday"], "--since yesterday: must be a time ago such as 15m"),
        (["deliveries", "--until", "tomorrow"], "--until tomorrow: must be a time ago such as 15m"),
        (["dead", "--since", "1h", "--until", "2h"], "--until 2h: must be later than --since 1h"),
        (["replay", ""], "an id is empty"),
        (["replay", "dlv_"], "dlv_: an id has 12 to 32 digits and letters after dlv_"),
        (["replay", "evt_12"], "evt_12: an id has"),
        (["cancel", "dlv_1"], "dlv_1: an id has"),
        (["attempts", "evt_"], "evt_: an id has"),
        (["open", "dlv_1"], "dlv_1: an id has"),
        (["open", "op_1"], "op_1: has no page; a run, an event or a delivery has one"),
    ],
)
def test_a_wrong_call_is_one_line(runhook: Run, arguments: list[str], said: str) -> None:
    code, out, err = runhook(*arguments)

    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"runhook: {said}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-24", 1_795_478_400.0),
        ("2026-11-24 09:30", 1_795_512_600.0),
        ("2026-11-24T09:30Z", 1_795_512_600.0),
        ("2026-11-24T10:30+01:00", 1_795_512_600.0),
    ],
)
def test_a_time_is_in_utc_unless_it_says_otherwise(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


def test_a_time_ago_is_counted_from_now() -> None:
    assert parse_time("2h") == pytest.approx(time.time() - 7200, abs=60)


def make_ledger(data: Path) -> None:
    with_tables(Ledger(Settings.from_env(data=data).database_url)).close()


_NO_LEDGER = (
    "runhook: there is no ledger yet ({}): name the right one with RUNHOOK_DATA or DATABASE_URL, or start Runhook, "
    "whose worker makes one\n"
)


def test_a_list_makes_no_ledger_and_says_which_one_is_missing(runhook: Run, tmp_path: Path) -> None:
    where = f"sqlite:///{tmp_path}/var/ledger.db"

    for arguments in (["runs"], ["dead"], ["operations"], ["attempts", "tsk_1"], ["replay", "--all"], ["keys", "list"]):
        code, out, err = runhook(*arguments)

        assert (code, out) == (3, "")
        assert err == _NO_LEDGER.format(where)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://u:sekret@h:port/db", "not a database URL"),
        ("postgresql:/u:sekret@h/db", "not a database URL"),
        ("postgresql://u:se/kret@h@h/db", "has several @"),
        ("postgresql+asyncpg://u:sekret@h/db", "the driver asyncpg is not used here"),
        ("postgresql://u:sekret@h:99999/db", 'invalid port number: "99999"'),
        ("postgresql://u:sekret@h/db?sslmod=require", 'invalid connection option "sslmod"'),
        ("postgresql://u:sekret@h/db?sslmode=requir", 'invalid sslmode value: "requir"'),
        ("postgresql://u:sekret@h/db?connect_timeout=3s", 'invalid integer value "3s"'),
        ("postgresql://u:sekret@/db?host=h1,h2&port=1,2,3", "number of hosts and ports don't match"),
        ("postgresql://u:sekret@h/db?service=none", 'definition of service "none" not found'),
        ("sqlite:var/ledger.db", "not a database URL"),
        ("sqlite://var/ledger.db", "names a host after two slashes"),
    ],
)
def test_what_is_wrong_with_database_url_is_told_as_that(
    runhook: Run, monkeypatch: pytest.MonkeyPatch, url: str, problem: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")

    for command in ("status", "runs"):
        code, out, err = runhook(command)

        assert (code, out) == (2, ""), err
        assert err.startswith(f"runhook: DATABASE_URL: {problem}")
        assert "postgresql://" in err or "sqlite:///" in err or "%40" in err  # what would be right
        assert "kret" not in err


def test_database_urls_that_may_be_right_are_told_as_away_only_when_they_are(
    runhook: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ("?sslmode=require&connect_timeout=2", "?host=127.0.0.1:1&host=[::1]:1&target_session_attrs=read-write")
    for query in right:
        host = "" if "host" in query else "127.0.0.1:1"
        monkeypatch.setenv("DATABASE_URL", f"postgresql://u:sekret@{host}/db{query}")

        code, _, err = runhook("runs")

        assert (code, "Connection refused; no PostgreSQL listens there" in err) == (3, True), err


def test_an_action_in_the_wrong_folder_makes_nothing_and_one_in_the_right_names_the_ledger(
    runhook: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = "sources: {s: {secrets: [k], api_key: k}}\nsinks: {ops: {type: files, path: var/a}}\n"
    (tmp_path / "c.yaml").write_text(source)
    where = f"sqlite:///{tmp_path}/var/ledger.db"
    actions = [
        ["keys", "create", "app"],
        ["keys", "revoke", "k1"],
        ["sink", "pause", "ops"],
        ["sink", "resume", "ops"],
        ["replay", "--all"],
        ["reroute", "--since", "1d"],
    ]

    # Given no ledger here, and nothing that names one
    for action in actions:
        assert runhook(*action, "--config", "c.yaml") == (3, "", _NO_LEDGER.format(where))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml"]

    # A sink that is tried says where from
    code, _, err = runhook("sink", "test", "ops", "--config", "c.yaml")
    assert (code, err) == (0, f"runhook: config: {tmp_path}/c.yaml; data directory: {tmp_path}/var\n")

    # One that is named is made, for its first key, and that is said
    monkeypatch.setenv("DATABASE_URL", "sqlite:///named/ledger.db")
    where = f"sqlite:///{tmp_path}/named/ledger.db"
    (tmp_path / "named").mkdir()
    code, out, err = runhook("keys", "create", "app", "--config", "c.yaml")
    assert (code, "rhk_" in out) == (0, True)
    assert err == (
        f"runhook: there was no ledger: a new one is made: {where}\n"
        f"runhook: there was no RUNHOOK_SECRET: a new one is made: {tmp_path}/var/runhook-secret\n"
    )
    # And from then on each says where it acts
    for action in actions:
        _, _, err = runhook(*action, "--config", "c.yaml")
        assert err.splitlines()[0] == f"runhook: ledger: {where}", action
        assert err.count("runhook: ledger: ") == 1


def test_limits_that_a_wrong_config_has_are_not_known_rather_than_none(
    runhook: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    (tmp_path / "var").mkdir()
    (tmp_path / "c.yaml").write_text("sources: {s: {secrets: [k], no_such_key: 1}}\n")

    code, out, _ = runhook("status", "--config", "c.yaml")
    _, as_json, _ = runhook("status", "--config", "c.yaml", "--json")

    assert code == 1
    assert "no_such_key" in out
    assert "0 B of what the config says (it can't be read), on this machine" in " ".join(out.split())
    assert "of 0 B" not in out
    assert "; 0 B" not in out
    assert json.loads(as_json)["disk"]["spool_limit"] is None
    (tmp_path / "c.yaml").write_text("sources: {s: {secrets: [k]}}\nspool: {max_bytes: 64MiB}\n")
    assert "of 64.0 MiB, on this machine" in runhook("status", "--config", "c.yaml")[1]
    (tmp_path / "var").rmdir()
    assert "of 64.0 MiB, on this machine" in runhook("status", "--config", "c.yaml")[1]


def test_an_empty_quarantine_of_the_wrong_folder_is_no_success(runhook: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sources: {s: {secrets: [k]}}\n")

    for command in (["list"], ["verify"], ["drop", "--all"]):
        said = "runhook: there is no data directory var; name the right one with --data or RUNHOOK_DATA\n"
        assert runhook("quarantine", *command, "--config", "c.yaml") == (3, "", said)
    (tmp_path / "var").mkdir()
    assert runhook("quarantine", "list", "--config", "c.yaml")[1] == "The quarantine is empty (var/quarantine).\n"


def test_a_spool_of_the_wrong_folder_is_told_before_what_the_config_lacks(runhook: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sources: {s: {secrets: ['${NOT_SET}']}}\n")

    said = "runhook: there is no spool in nothing; name the receiver's data directory with --data\n"
    assert runhook("spool", "send", "--config", "c.yaml", "--data", "nothing") == (2, "", said)


def test_an_address_that_is_none_of_this_host_is_not_told_to_take_another_port(runhook: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sources: {s: {secrets: [k]}}\n")

    for command in ("dev", "serve"):
        said = "runhook: can't listen on 192.0.2.1:8000: cannot assign requested address; choose another with --host\n"
        assert runhook(command, "--config", "c.yaml", "--host", "192.0.2.1") == (3, "", said)


@pytest.mark.parametrize("command", ["serve", "worker", "clock"])
def test_production_process_refuses_the_packaged_config(runhook: Run, tmp_path: Path, command: str) -> None:
    said = (
        f"runhook: no config file: {tmp_path} has no runhook.yaml or config/runhook.yaml."
        " Write one with `runhook init`, or set RUNHOOK_CONFIG\n"
    )

    assert runhook(command) == (2, "", said)
    assert list(tmp_path.iterdir()) == []


def test_a_list_refuses_a_ledger_of_another_schema(runhook: Run, tmp_path: Path) -> None:
    make_ledger(tmp_path / "var")
    with closing(sqlite3.connect(tmp_path / "var" / "ledger.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
        connection.commit()
        code, _, err = runhook("runs")
        shown = " ".join(runhook("status")[1].split())
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()

    assert (code, version) == (3, "0001")
    assert err.startswith("runhook: the ledger's schema is 0001, and this version of Runhook needs v1 (sqlite:///")
    assert "): name a new or empty database with DATABASE_URL, or use the version of Runhook that created this" in err
    assert "name a new or empty database with DATABASE_URL" in shown
    assert "start its database" not in shown


def test_a_list_says_which_ledger_it_reads_and_json_says_nothing_else(runhook: Run, tmp_path: Path) -> None:
    make_ledger(tmp_path / "var")

    assert runhook("dead") == (0, "no dead letters\n", f"runhook: ledger: sqlite:///{tmp_path}/var/ledger.db\n")
    assert runhook("dead", "--json") == (0, "[]\n", "")


def test_an_id_that_nothing_has_is_no_success(runhook: Run, tmp_path: Path) -> None:
    make_ledger(tmp_path / "var")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "runhook.yaml").write_text("sources: {s: {secrets: [k]}}\n")
    nobody = "dlv_" + "0" * 32

    said = f"runhook: {nobody}: there is no such delivery; `runhook deliveries --json` shows their ids\n"
    assert runhook("replay", nobody)[::2] == (2, f"runhook: ledger: sqlite:///{tmp_path}/var/ledger.db\n{said}")
    assert runhook("attempts", nobody)[::2] == (2, f"runhook: ledger: sqlite:///{tmp_path}/var/ledger.db\n{said}")
    assert runhook("cancel", nobody)[2].endswith(f"\n{said}")
    assert runhook("cancel", "op_1")[::2] == (
        2,
        f"runhook: ledger: sqlite:///{tmp_path}/var/ledger.db\nrunhook: operation op_1: there is none\n",
    )
    assert "cancelled by their ids, and with nothing else" in runhook("cancel", "op_1", nobody)[2]
    assert "an operation can't be brought back" in runhook("cancel", "op_1", "--undo")[2]


def test_a_file_that_cannot_be_used_is_one_line(runhook: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device", "/data/spool")

    monkeypatch.setattr("receiver.cli.build_app", lambda _: lambda **_: refuse())

    assert runhook("runs") == (3, "", "runhook: /data/spool: no space left on device\n")


@pytest.mark.parametrize("form", ["table", "jsonl", "csv"])
def test_a_reader_that_leaves_ends_a_list_as_it_ends_other_programs(tmp_path: Path, form: str) -> None:
    ledger = with_tables(Ledger(Settings.from_env(data=tmp_path / "var").database_url))
    record(ledger, *(new_event(f"tsk_{number}", title="a long title " * 20) for number in range(300)))
    ledger.close()
    line = [sys.executable, "-m", "receiver.cli", "runs", "-n", "300", "-o", form, "--data", str(tmp_path / "var")]
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with subprocess.Popen(line, env=environ, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 141


@pytest.mark.parametrize("call", ["", "--version", "runs"])
@pytest.mark.parametrize("how", [">&-", "<&- >&- 2>&-", ">/dev/full", "| true"])
def test_an_output_that_is_closed_or_full_makes_no_traceback(tmp_path: Path, call: str, how: str) -> None:
    ledger = with_tables(Ledger(Settings.from_env(data=tmp_path).database_url))
    record(ledger, new_event("tsk_1"))
    ledger.close()
    command = f"{sys.executable} -m receiver.cli {call} {how}"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "RUNHOOK_DATA": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.stderr.count("\n") <= 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_no_file_that_is_opened_takes_the_number_of_a_closed_output(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv[1:] = ['--version']; from receiver.cli import main\n"
        "try: main()\nfinally: sys.exit(open('x').fileno())"
    )
    (tmp_path / "x").touch()
    command = f'{sys.executable} -c "{program}" <&- >&- 2>&-'
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environ, timeout=PATIENCE, check=False)

    assert done.returncode >= 3


def test_a_misspelt_state_of_an_operation_is_no_success(runhook: Run, tmp_path: Path) -> None:
    make_ledger(tmp_path / "var")

    assert runhook("operations", "--state", "runing")[::2] == (
        2,
        "runhook: --state runing: must be running, done or cancelled\n",
    )
    assert runhook("operations", "--state", "running")[0] == 0
    assert runhook("replay", "--rate", "x", "--all")[2] == "runhook: --rate x: must be a valid number\n"


def test_no_error_moves_the_cursor(runhook: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RunhookError("run tsk_\x1b[2J\x9b: there is none")

    monkeypatch.setattr("receiver.cli.build_app", lambda _: lambda **_: refuse())

    assert (
        runhook("runs")[2] == "runhook: run tsk_\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}: there is none\n"
    )


def test_a_misspelt_sink_or_state_is_no_success(runhook: Run, tmp_path: Path) -> None:
    make_ledger(tmp_path / "var")
    (tmp_path / "c.yaml").write_text("sources: {s: {secrets: [k]}}\nsinks: {ops: {type: files, path: a}}\n")

    said = f"runhook: ledger: sqlite:///{tmp_path}/var/ledger.db\nrunhook: no sink is called opps; the config has ops\n"
    assert runhook("replay", "--sink", "opps", "--config", "c.yaml") == (2, "", said)
    assert runhook("replay", "--sink", "ops", "--config", "c.yaml", "--dry-run")[0] == 0
    said = "runhook: --state deed: must be held, queued, sending, waiting, delivered, dead or cancelled\n"
    assert runhook("deliveries", "--state", "deed") == (2, "", said)


def test_an_empty_list_says_whether_there_is_nothing_at_all(runhook: Run, tmp_path: Path) -> None:
    make_ledger(tmp_path / "var")

    assert runhook("runs")[:2] == (0, "no runs yet: send one with `runhook trigger`\n")
    assert runhook("runs", "--status", "failed")[:2] == (0, "no such runs\n")
    assert runhook("events", "--since", "2h")[:2] == (0, "no such events\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs", "--status", "faild"], "--status faild: no run ended so; did you mean failed?"),
        (["events", "--status", "completed", "--status", "ok"], "--status ok: no run ended so; there are canceled, "),
        (["deliveries", "--sink", "opps"], "--sink opps: there is no such sink; did you mean ops?"),
        (["dead", "--sink", "nowhere"], "--sink nowhere: there is no such sink; there are ops"),
        (["runs", "--source", "skyven"], "--source skyven: there is no such source; did you mean skyvern?"),
        (
            ["deliveries", "--run", "tsk_00000000000l"],
            "--run tsk_00000000000l: there is no such run; did you mean",
        ),
        (["submissions", "--run", "wr_9"], "--run wr_9: there is no such run; `runhook runs` lists them"),
        (["deliveries", "--event", "evt_123456789012"], "--event evt_123456789012: there is no such event"),
        (["attempts", "tsk_000"], "tsk_000: there is no such run; did you mean tsk_000000000001?"),
        (["replay", "--status", "faild"], "--status faild: no run ended so; did you mean failed?"),
        (["replay", "tsk_404"], "tsk_404: there is no such run"),
    ],
)
def test_a_name_that_neither_ledger_nor_config_knows_is_a_mistake(
    runhook: Run, tmp_path: Path, arguments: list[str], said: str
) -> None:
    ledger = with_tables(Ledger(Settings.from_env(data=tmp_path / "var").database_url))
    record(ledger, new_event("tsk_000000000001", "results"))
    ledger.close()
    (tmp_path / "config").mkdir()
    config = "sources: {skyvern: {secrets: [k]}}\nsinks: {ops: {type: files, path: a}}\n"
    (tmp_path / "config" / "runhook.yaml").write_text(config)

    code, out, err = runhook(*arguments)

    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"runhook: {said}")
    # And what the config alone, or the ledger alone, knows is a right name that found nothing
    for right in (["--sink", "ops"], ["--sink", "results", "--state", "dead"], ["--run", "tsk_000000000001"]):
        assert runhook("deliveries", *right, "--until", "2020-01-01")[:2] == (0, "no deliveries\n")


@pytest.mark.parametrize(
    ("terminal", "options", "asked"),
    [(True, [], True), (True, ["-y"], False), (True, ["--expect", "11"], False), (False, [], False)],
)
def test_what_takes_many_asks_first_on_a_terminal(
    runhook: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool, options: list[str], asked: bool
) -> None:
    ledger = with_tables(Ledger(Settings.from_env(data=tmp_path / "var").database_url))
    record(ledger, *(new_event(f"tsk_{number}", "results") for number in range(11)))
    settle(ledger, claim(ledger, "results", limit=11), DeliveryMove.ACCEPT)
    record(ledger, *(new_event(f"wr_{number}", "results") for number in range(11)))
    ids = [row["id"] for row in ledger.read(lambda c: queries.list_deliveries(c, queries.Filter(state=("queued",))))]
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "runhook.yaml").write_text(
        "sources: {s: {secrets: [k]}}\nsinks: {results: {type: files, path: a}}\n"
    )
    monkeypatch.setattr("sys.stdin", Answers("n\n", terminal))

    replayed = runhook("replay", "--state", "delivered", *options)
    monkeypatch.setattr("sys.stdin", Answers("n\n", terminal))
    cancelled = runhook("cancel", *ids, *options)

    states = Counter(row["state"] for row in ledger.read(lambda c: queries.list_deliveries(c, queries.Filter())))
    ledger.close()
    assert (replayed[0], cancelled[0]) == ((1, 1) if asked else (0, 0))
    assert states == ({"delivered": 11, "queued": 11} if asked else {"queued": 11, "cancelled": 11})


class Answers(io.StringIO):
    """What a person types, at a terminal or not."""

    def __init__(self, text: str, terminal: bool) -> None:
        super().__init__(text)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_a_test_webhook_is_listed_as_one(runhook: Run, tmp_path: Path) -> None:
    body = json.dumps({"run_id": "tsk_sample_123456789", "status": "completed"}).encode()
    ledger = with_tables(Ledger(Settings.from_env(data=tmp_path / "d").database_url))
    Dispatcher(ledger, Router([]), Redactor([]), None, None).dispatch([Event("evt_1", "skyvern", body, 1.0)])  # type: ignore[arg-type]
    ledger.close()

    assert "test webhook, signature right" in runhook("events", "--data", "d")[1]
    assert runhook("runs", "--data", "d")[1].startswith("no runs yet")


def test_what_an_operation_takes_is_shown_for_people(runhook: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sources: {s: {secrets: [k]}}\nsinks: {ops: {type: files, path: a}}\n")
    ledger = with_tables(Ledger(Settings.from_env(data=tmp_path / "var").database_url))
    now = time.time() - 1
    record(ledger, new_event("tsk_1", "ops"), now=now)
    settle(ledger, claim(ledger, "ops", now=now), DeliveryMove.DIE, now=now)
    ledger.close()
    runhook("replay", "--sink", "ops", "--state", "dead", "--since", "2h", "--config", "c.yaml")

    assert re.search(
        r"  sink=ops state=dead since=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z until=\d{4}-", runhook("operations")[1]
    )


def test_what_a_terminal_has_no_character_for_is_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="iso8859-1"))
    monkeypatch.setattr(sys, "argv", ["runhook", "runs"])
    table = lambda **_: output.print_table(NAMES, [["evt_1…", "Bücher", "dead", ""]], "")  # noqa: E731
    monkeypatch.setattr("receiver.cli.build_app", lambda _: table)

    with pytest.raises(SystemExit) as end:
        main()

    assert end.value.code == 0
    assert "evt_1?  Bücher".encode("iso8859-1") in shown.getvalue()


ROWS = [["evt_1", "tsk_1", "delivered", "s3://runs/a/very/long/receipt/indeed/evt_1"], ["evt_2", "tsk_2", "dead", ""]]
NAMES = ["event", "run", "state", "receipt"]


def printed(monkeypatch: pytest.MonkeyPatch, *, width: int, terminal: bool) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None, highlight=False)
    monkeypatch.setattr(output, "out", lambda: console)
    output.print_table(NAMES, ROWS, "nothing")
    return stream.getvalue().splitlines()


def test_a_row_is_one_line_when_a_program_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    head, first, second = printed(monkeypatch, width=40, terminal=False)

    assert head.split() == NAMES
    assert first.split() == ROWS[0]
    assert second == "evt_2  tsk_2  dead"


def test_the_last_column_goes_below_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, width=40, terminal=True)

    assert [line.rstrip() for line in lines] == [
        "event  run    state",
        "  receipt",
        "evt_1  tsk_1  delivered",
        f"  {ROWS[0][-1]}",
        "evt_2  tsk_2  dead",
    ]


def test_the_last_column_folds_on_a_wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, width=56, terminal=True)

    assert [line.split()[0] for line in lines if line[:1].strip()] == ["event", "evt_1", "evt_2"]
    assert all(len(line) <= 56 for line in lines)
    assert "".join(line[25:].strip() for line in lines[1:3]) == ROWS[0][-1]


def test_an_event_of_skyverns_is_one_line_of_80_columns(
    runhook: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an event whose ids are as long as real ones, and a terminal
    ledger = with_tables(Ledger(Settings.from_env(data=tmp_path / "d").database_url))
    item = new_event("tsk_600635710436290806", "ops")
    record(ledger, item)
    ledger.close()
    stream = io.StringIO()
    terminal = Console(file=stream, width=80, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(output, "out", lambda: terminal)
    monkeypatch.setattr("receiver.cli.list.show_when", lambda _: "59m ago")
    # When it is listed
    runhook("events", "--data", "d")
    # Then it is one line
    _, line = stream.getvalue().splitlines()
    assert line.split() == [
        *(item.event.id[:16], "tsk_600635710436290806", "completed", "webhook", "59m", "ago", "new"),
    ]


def test_what_a_payload_brings_can_not_forge_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROWS", [["evt_1", "tsk_1", "dead", "\nevt_2  tsk_2  delivered\x1b[2J"]])

    assert len(printed(monkeypatch, width=200, terminal=False)) == 2


def test_no_error_brings_what_a_payload_brings(runhook: Run, tmp_path: Path) -> None:
    ledger = with_tables(Ledger(Settings.from_env(data=tmp_path / "var").database_url))
    record(ledger, new_event("tsk_1\x1b[2J\nall is well"))
    ledger.close()

    code, _, said = runhook("runs", "--run", "tsk_1")

    assert (code, said.count("\n")) == (2, 2)  # which ledger, and what is wrong
    assert "did you mean tsk_1\N{REPLACEMENT CHARACTER}[2J" in said


def test_the_help_shows_how_a_fault_is_written(runhook: Run) -> None:
    code, out, _ = runhook("simulate", "--help")

    assert code == 0
    assert '"Get the invoice [lose]"' in out


def test_lists_need_no_secrets(runhook: Run, tmp_path: Path) -> None:
    make_ledger(tmp_path / "var")
    (tmp_path / "c.yaml").write_text(
        """\
sources: {skyvern: {secrets: ["${NOT_SET}"], api_key: "${NOT_SET}", api_base: "${NOT_SET}"}}
sinks: {ops: {type: slack, webhook_url: "${NOT_SET}"}, kept: {type: files, path: a}}
routes: [{name: everything, to: [ops]}]
"""
    )

    for command in (
        ["sink", "list"],
        ["runs"],
        ["deliveries", "--sink", "ops"],
        ["quarantine", "list"],
        ["keys", "list"],
    ):
        code, out, err = runhook(*command, "--config", "c.yaml", "-o", "jsonl")
        assert (code, err) == (0, "")
        assert [json.loads(line)["name"] for line in out.splitlines() if command[0] == "sink"][:1] in ([], ["ops"])
    assert [line.split()[0] for line in runhook("sink", "list", "--config", "c.yaml")[1].splitlines()][1] == "ops"
    code, _, err = runhook("sink", "pause", "ops", "--config", "c.yaml")  # what acts needs them
    assert (code, "the variable NOT_SET is not set" in err) == (2, True)


def test_a_config_is_checked_by_either_word(runhook: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sources: {s: {secrets: [k]}}\nsinks: {ops: {type: files, path: a}}\n")

    assert runhook("check", "c.yaml") == runhook("check", "--config", "c.yaml")
    assert runhook("check", "c.yaml")[0] == 0
    assert runhook("check", "c.yaml", "--config", "d.yaml")[::2] == (
        2,
        "runhook: c.yaml and --config d.yaml: one of them\n",
    )
