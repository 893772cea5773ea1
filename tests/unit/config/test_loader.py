"""The config file: what is right loads, and what is wrong is named with file, line and key, all at once."""

import json
import re
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handlers.registry import sink_type
from handlers.support.duration import parse_duration
from receiver.config.destinations import SinkConfig
from receiver.config.fields import parse_listen_address, parse_rate, parse_size
from receiver.config.loader import load, load_file
from receiver.config.models import SourceConfig
from receiver.config.yaml_file import MAX_BYTES, expand
from receiver.errors import ConfigError
from receiver.routing.route import ToSink

WHEN, TABLE = "{status: [failed, timed_out]}", "table: skyvern_runs"
GOOD = """\
sources:
  skyvern: {secrets: ["${KEY}"]}
sinks:
  results: {type: database, url: "sqlite:///var/results.db", table: skyvern_runs}
  ops: {type: slack, webhook_url: "${HOOK:-https://hooks.slack.com/services/T0/B0/x}"}
routes:
  - {name: everything, to: [results]}
  - {name: failures, when: {status: [failed, timed_out]}, to: [{sink: ops, after: results}]}
"""
ENVIRON = {"KEY": "sekret"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runhook.yaml"


def problems(file: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """What is wrong with a file, each without the file's name."""
    file.write_text(textwrap.dedent(text))
    with pytest.raises(ConfigError) as caught:
        load(file, ENVIRON if environ is None else environ)
    assert all(problem.startswith(f"{file}:") for problem in caught.value.problems)
    return [problem.removeprefix(f"{file}:") for problem in caught.value.problems]


def with_part(part: str) -> str:
    """The good file with `part` below it, which begins in line 9."""
    return GOOD + textwrap.dedent(part)


# --- What is right


def test_a_file_becomes_models(file: Path) -> None:
    file.write_text(GOOD)

    config = load(file, ENVIRON)

    assert config.sources["skyvern"].secrets[0].get_secret_value() == "sekret"
    assert config.sinks["results"].options == {"url": "sqlite:///var/results.db", "table": "skyvern_runs"}
    assert config.sinks["ops"].retry.attempts == 12
    assert config.routes[1].targets == (ToSink(sink="ops", after=["results"]),)
    assert config.server.max_body == 16 * 1024 * 1024
    assert "**.extra_http_headers" in config.redact


def test_no_secret_is_in_the_repr_of_a_config(file: Path) -> None:
    file.write_text(GOOD)

    shown = repr(load(file, {"KEY": "sekret", "HOOK": "https://hooks.slack.com/services/T0/B0/sekret"}))

    assert "sekret" not in shown


def test_units_are_read(file: Path) -> None:
    file.write_text(
        with_part(
            """\
            server: {max_body: 1.5MiB}
            spool: {max_bytes: 3GB, reserve_bytes: 1048576}
            retention: {events: 90d}
            """
        ).replace(TABLE, "retry: {first: 500ms, max: 2h}, rate: 10/s")
    )

    config = load(file, ENVIRON)

    sink, spool = config.sinks["results"], config.spool
    assert (config.server.max_body, spool.max_bytes, spool.reserve_bytes) == (1_572_864, 3_000_000_000, 1_048_576)
    assert (config.retention.events, sink.retry.first, sink.retry.max) == (90 * 86400, 0.5, 7200)
    assert sink.rate_limit == (10, 1.0)


def test_anchors_have_a_place_and_merge(file: Path) -> None:
    file.write_text(
        "x-patient: &patient {attempts: 20, max: 6h}\n"
        + GOOD.replace(TABLE, "retry: {<<: *patient, attempts: 30}").replace(
            "ops: {type: slack,", "ops: {type: slack, retry: *patient,"
        )
    )

    config = load(file, ENVIRON)

    assert (config.sinks["results"].retry.attempts, config.sinks["results"].retry.max) == (30, 21600)
    assert config.sinks["ops"].retry.attempts == 20


def test_yaml_has_no_surprises(file: Path) -> None:
    file.write_text(
        GOOD.replace(
            WHEN,
            "{output.country: [no, NO, on, 2026-11-24, 12:30, 1e3, 0o17, 010], output.a: [0x1F, true, null, ~, 1.5]}",
        )
    )

    when = load(file, ENVIRON).routes[1].when

    assert isinstance(when, dict)
    assert when["output.country"] == ["no", "NO", "on", "2026-11-24", "12:30", 1000.0, 15, 10.0]
    assert when["output.a"] == [31, True, None, None, 1.5]


def test_what_is_probably_not_meant_is_a_warning(file: Path) -> None:
    file.write_text(GOOD.replace(WHEN, "{staus: failed}").replace("to: [results]", "to: [ops]"))
    with pytest.raises(ConfigError):  # ops now waits for results, which nothing feeds
        load(file, ENVIRON)
    file.write_text(GOOD.replace(WHEN, "{staus: failed}").replace("after: results", "after: []"))

    loaded = load_file(file, ENVIRON)

    assert loaded.warnings == [f"{file}:8: routes[1].when: Skyvern sends no field staus; did you mean status?"]


DISPOSITIONS = "new, interim, repeat, superseded, test, update"
STATUSES = "canceled, completed, failed, terminated, timed_out, created, queued, running, paused"


@pytest.mark.parametrize(
    ("rule", "warning"),
    [
        ("{status: cancelled}", "Skyvern sends no status cancelled; did you mean canceled?"),
        ("{status: success}", f"Skyvern sends no status success; it is one of {STATUSES}"),
        ("'run.status in [\"error\"]'", f"Skyvern sends no status error; it is one of {STATUSES}"),
        (
            "{step_count: '> 10'}",
            "step_count is compared with the text '> 10'; to compare numbers write an expression: run.step_count > 10",
        ),
        ("'run.stauts == \"failed\"'", "Skyvern sends no field stauts; did you mean status?"),
        ("'has(run.state)'", "Skyvern sends no field state, as far as Runhook knows"),
        ("{run.outcome: [completed, timeout]}", "Skyvern sends no outcome timeout; did you mean timed_out?"),
        ("{run_type: workflow_runs}", "Skyvern sends no run_type workflow_runs; did you mean workflow_run?"),
        ("'run.status == \"complete\"'", "Skyvern sends no status complete; did you mean completed?"),
        ('\'run.status in ["failed", "cancelled"]\'', "Skyvern sends no status cancelled; did you mean canceled?"),
        ("{status: running}", "the route sees no run that is running: it has not ended; add `interim: true`"),
        ("{event.disposition: news}", f"no event has the disposition news: it is {DISPOSITIONS}"),
        ('\'event.disposition in ["new", "news"]\'', f"no event has the disposition news: it is {DISPOSITIONS}"),
        ("'event.disposition == \"repeat\"'", "the route sees no event that is repeat without `repeats: true`"),
        (
            "{event.disposition: [new, 're*'], disposition: x}",
            "Skyvern sends no field disposition, as far as Runhook knows",
        ),
        ('\'event.disposition == "new" && run.event.disposition == "x"\'', ""),
        ("{status: [failed, timed_out, 'comp*'], run_type: [task_v1, brand_new]}", ""),
        ('\'run.status != "completed" && run.output.status == "complete"\'', ""),
        ("{output.status: complete, status: 3}", ""),
    ],
)
def test_a_value_that_skyvern_never_sends_is_a_warning(file: Path, rule: str, warning: str) -> None:
    file.write_text(GOOD.replace(WHEN, rule))

    assert load_file(file, ENVIRON).warnings == ([f"{file}:8: routes[1].when: {warning}"] if warning else [])


@pytest.mark.parametrize(("before", "reached"), [("to: [ops]", True), ("to: [ops], stop: true", False)])
def test_route_behind_an_unconditional_stop_is_reported(file: Path, before: str, reached: bool) -> None:
    routes = f"routes: [{{name: all, {before}}}, {{name: late, to: [ops]}}, {{name: early, to: [ops], interim: true}}]"
    file.write_text(f"sources: {{skyvern: {{secrets: [k]}}}}\nsinks: {{ops: {{type: files, path: /x}}}}\n{routes}\n")

    warnings = load_file(file, ENVIRON).warnings

    expected = f"{file}:3: routes[1]: late never matches: all takes every event and stops"
    assert warnings == ([] if reached else [expected])


@pytest.mark.parametrize(
    "rule",
    ["{status: running}, interim: true", "{event.disposition: repeat}, repeats: true"],
    ids=["interim", "repeats"],
)
def test_a_route_that_sees_such_events_may_name_what_they_are(file: Path, rule: str) -> None:
    file.write_text(GOOD.replace(WHEN, rule))

    assert load_file(file, ENVIRON).warnings == []


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("", "it has no api_key"),
        ("    api_key: ''\nreconcile: {enabled: false}\n", "it has no api_key"),
        ("    api_key: k-123456789\nreconcile: {enabled: false}\n", "reconcile.enabled is false"),
        ("    api_key: k-123456789\n", ""),
    ],
)
def test_a_watch_that_can_not_be_kept_is_a_warning(file: Path, more: str, reason: str) -> None:
    routes = "sinks: {a: {type: files, path: /x}}\nroutes: [{name: r, to: [a]}]\n"
    file.write_text(f"{routes}sources:\n  skyvern:\n    secrets: [a-secret-of-ours]\n    watch: true\n{more}")

    found = load_file(file, ENVIRON).warnings

    expected = f"{file}:6: sources.skyvern.watch: its runs are not watched, for {reason}"
    assert found == ([expected] if reason else [])


def test_a_sink_in_no_route_and_no_routes_at_all_are_warnings(file: Path) -> None:
    file.write_text(GOOD.partition("routes:")[0])

    assert load_file(file, ENVIRON).warnings == [
        f"{file}:4: no route names the sink results, so nothing gets there",
        f"{file}:5: no route names the sink ops, so nothing gets there",
        f"{file}:1: there are no routes: every event is kept, and goes nowhere",
    ]


@pytest.mark.parametrize(
    ("alerts", "problem"),
    [
        ("{to: [ops]}", ""),
        ("{to: [ops], after: 5m, digest: daily, link: 'https://runhook.example'}", ""),
        ("{to: [pager]}", "alerts.to[0]: there is no sink pager; there are ops, results"),
        ("{to: [ops, results]}", "alerts.to[1]: a sink of type files can't send alerts; slack, http and notify can"),
        ("{to: [ops], after: -1}", "alerts.after: "),
        ("{to: [ops], digest: hourly}", "alerts.digest: "),
        ("{to: [ops], link: 'javascript:alert(1)'}", "alerts.link: "),
    ],
)
def test_alerts_go_to_sinks_that_exist_and_can_send_them(file: Path, alerts: str, problem: str) -> None:
    sinks = "sinks: {ops: {type: http, url: 'http://x.example'}, results: {type: files, path: /x}}"
    file.write_text(
        f"sources: {{skyvern: {{secrets: [a-secret-of-ours]}}}}\n{sinks}\n"
        f"routes: [{{name: all, to: [results]}}]\nalerts: {alerts}\n"
    )

    if problem:
        with pytest.raises(ConfigError) as caught:
            load_file(file, ENVIRON)
        assert problem in str(caught.value)
    else:  # and a sink that only gets alerts is used
        assert load_file(file, ENVIRON).warnings == []


# --- Variables


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain $HOME $ {x} 5$", "plain $HOME $ {x} 5$"),
        ("${A}", "a"),
        ("<${A}-${A}>", "<a-a>"),
        ("${NONE:-b}", "b"),
        ("${NONE:-}", ""),
        ("${EMPTY:-b}", "b"),
        ("${EMPTY}", ""),
        ("${A:-b}", "a"),
        ("${NONE:-{{ run.run_id }}/}", "{{ run.run_id }}/"),
        ("${NONE:-${A}}", "a"),
        ("${NONE:-${ALSO_NONE:-c}}", "c"),
        ("$${A}", "${A}"),
        ("${TRICKY}", "${A}: [x"),
    ],
)
def test_variables_are_put_in(text: str, expanded: str) -> None:
    assert expand(text, {"A": "a", "EMPTY": "", "TRICKY": "${A}: [x"}) == expanded


@pytest.mark.parametrize("text", ["${", "${A", "${}", "${A-b}", "${1A}", "${A B}", "${A:b}"])
def test_a_malformed_variable_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="malformed variable"):
        expand(text, {"A": "a"})


def test_an_unset_variable_is_named_with_file_line_and_key(file: Path) -> None:
    assert problems(file, GOOD, {}) == [
        "2: sources.skyvern.secrets[0]: the variable KEY is not set; set it, or give it a default: ${KEY:-…}"
    ]


def test_a_variable_cannot_change_the_structure(file: Path) -> None:
    file.write_text(GOOD)

    config = load(file, {"KEY": 'x"]}\nsinks: {}'})

    assert list(config.sinks) == ["results", "ops"]


# --- What is wrong


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        # keys
        ("table:", "tabel:", "4: sinks.results.tabel: unknown key; did you mean table?"),
        ("to: [results]}", "to: [results], wehn: x}", "7: routes[0].wehn: unknown key; did you mean when?"),
        (TABLE, "after: [ops]", "4: sinks.results.after: unknown key; a route says it: to: [{sink: results, "),
        (TABLE, "frobnicate: 1", "4: sinks.results.frobnicate: unknown key; the keys here are"),
        (TABLE, "retry: {atempts: 1}", "4: sinks.results.retry.atempts: unknown key; did you mean att"),
        (TABLE, "options: {}", "4: sinks.results.options: unknown key; write the options"),
        # names
        ("  ops:", "  results:", "5: sinks.results: written twice (first in line 4)"),
        ("name: failures", "name: everything", "8: routes[1].name: routes[0] has this name already"),
        ("to: [results]", "to: [reslts]", "7: routes[0].to[0]: there is no sink reslts; did you mean results?"),
        ("after: results", "after: [reslts]", "8: routes[1].to[0].after[0]: there is no sink reslts; did you mean"),
        ("after: results", "after: ops", "8: routes[1].to[0].after: ops can't wait for itself"),
        ("to: [results]", "to: [results, results]", "7: routes[0].to[1]: results is named twice"),
        ("type: slack", "type: slak", "5: sinks.ops.type: unknown sink type 'slak'; did you mean slack?"),
        # values
        ("to: [results]", "to: []", "7: routes[0].to: names no sink"),
        ("to: [results]", "to: results", "7: routes[0].to: must be a list of sinks; put the name in brackets"),
        (", to: [results]", "", "7: routes[0].to: is missing"),
        ("to: [results]", "to: [5]", "7: routes[0].to[0]: must be the name of a sink, or {sink: …, after: …}"),
        ("name: everything, ", "", "7: routes[0].name: is missing"),
        (WHEN, "5", "8: routes[1].when: must be a mapping such as {status: failed}, or a"),
        (WHEN, "'run.status = 1'", "8: routes[1].when: is not valid CEL at character 12"),
        (WHEN, "'rn.status == 1'", "8: routes[1].when: the name rn is not known at character"),
        ('["${KEY}"]', "[]", "2: sources.skyvern.secrets: has no key in it"),
        ('["${KEY}"]', '["${EMPTY:-}", " "]', "2: sources.skyvern.secrets: has no key in it"),
        ('["${KEY}"]', "[k], api_base: ftp://x", "2: sources.skyvern.api_base: must begin with http:// or https://"),
        ("url: ", "table: x, table: ", "4: sinks.results.table: written twice (first in line 4)"),
        ('url: "sqlite:///var/results.db", ', "", "4: sinks.results.url: is missing: URL of the database"),
        (TABLE, "concurrency: many", "4: sinks.results.concurrency: must be a whole number"),
        (TABLE, "concurrency: 257", "4: sinks.results.concurrency: must be at most 256"),
        (TABLE, "rate: 10 per second", "4: sinks.results.rate: must be a rate such as 10/s"),
        (TABLE, "timeout: soon", "4: sinks.results.timeout: must be a duration such as 30s"),
        (TABLE, "retry: 5", "4: sinks.results.retry: must be a mapping"),
        (TABLE, "create: maybe", "4: sinks.results.create: must be true or false"),
        ("sqlite:///var/results.db", "oracle://h/x", "4: sinks.results.url: "),
        ("sources:", "sources: &x", None),
        # the other sections
        ("", "server: {max_body: 12QiB}", "9: server.max_body: must be a size such as 16MiB"),
        ("", "server: {max_body: 5}", "9: server.max_body: must be at least 1024"),
        ("", "inbox: {max_events: 0}", "9: inbox.max_events: must be at least 1"),
        ("", "retention: {events: 5m}", "9: retention.events: must be at least 3600"),
        ("", "redact: ['a..b']", "9: redact[0]: 'a..b' has an empty name in it"),
        ("", "allowed_addresses: ['http://x']", "9: allowed_addresses[0]: 'http://x' is not a host name"),
        ("", "severs: {}", "9: severs: unknown key; did you mean server?"),
        ("type: database, ", "", "4: sinks.results.type: is missing: database, files"),
    ],
)
def test_mistake_has_line_key_and_fix(file: Path, old: str, new: str, problem: str | None) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1) if old else GOOD + new
    if problem is None:
        file.write_text(text)
        load(file, ENVIRON)
        return

    found = problems(file, text)

    assert [each for each in found if each.startswith(problem)], found


def test_all_problems_come_at_once_in_the_order_of_the_file(file: Path) -> None:
    text = """\
        sources:
          skyvern: {secrets: ["${UNSET_ONE}"]}
        sinks:
          results: {type: database, url: "${UNSET_TWO}", tabel: x}
          results: {type: fiels}
          ops: {type: slack, webhook_url: https://hooks.slack.com/services/T0/B0/x, retry: {attempts: 0}}
        routes:
          - {name: a, to: [reslts], wehn: x}
          - {name: a, when: 'run.x = 1', to: [ops]}
          - {name: b, when: {status: []}}
        sevrer: {}
        """

    found = problems(file, text)

    assert [each.partition(" ")[0] + each.split(": ")[1] for each in found] == [
        "2:sources.skyvern.secrets[0]",
        "4:sinks.results.url",
        "4:sinks.results.tabel",
        "5:sinks.results",
        "6:sinks.ops.retry.attempts",
        "8:routes[0].wehn",
        "8:routes[0].to[0]",
        "9:routes[1].name",
        "9:routes[1].when",
        "10:routes[2].to",
        "10:routes[2].when.status",
        "11:sevrer",
    ]


def test_no_problem_repeats_a_value_that_may_be_secret(file: Path) -> None:
    text = """\
        sources:
          skyvern: {secrets: {a: "${KEY}"}, api_base: "${KEY}", api_key: ["${KEY}"]}
          other: "${KEY}"
        sinks:
          results: {type: database, url: "${KEY}", concurrency: "${KEY}", rate: "${KEY}", create: "${KEY}"}
          ops: {type: slack, webhook_url: "${KEY}", token: "${KEY}", thread: "${KEY}"}
        server: {max_body: "${KEY}", accept_weaker_durability: "${KEY}"}
        retention: {events: "${KEY}"}
        """

    found = problems(file, text)

    assert len(found) > 8
    assert "sekret" not in "\n".join(found)


def test_problem_in_a_block_of_cel_has_its_line(file: Path) -> None:
    text = """\
        sources: {s: {secrets: [k]}}
        sinks: {results: {type: database, url: "sqlite:///var/results.db"}}
        routes:
          - name: late
            to: [results]
            when: |
              run.status == "completed" &&
              run.output.total >
        """

    (found,) = problems(file, text)

    assert found == "6: routes[0].when: is not valid CEL at line 3, character 1: it ends too early"


# --- Files that are no config


def whole(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    (problem,) = caught.value.problems
    return problem


def test_a_missing_file_a_directory_and_an_empty_file(tmp_path: Path, file: Path) -> None:
    assert whole(file) == f"{file}: no such file; name one with --config or RUNHOOK_CONFIG"
    assert whole(tmp_path) == f"{tmp_path}: is a directory; name the YAML file in it"
    for empty in ("", "\n\n", "# only a comment\n", "---\n", "null\n"):
        file.write_text(empty)
        assert "the file is empty" in whole(file)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"sources: {a: [}\n", ":1: not YAML: "),
        (b"sources:\n\tskyvern: x\n", "indent with spaces, not tabs"),
        (b"a: b: c\n", "put a text that holds a colon in quotes"),
        (b"a: *b\n", "a text that begins with * must be in quotes"),
        (b"a: b\nc: 'x\n", ":2: not YAML: a quote is not closed (column 4); add one"),
        (b"a: {b: [1, 2\nc: d\n", ":1: not YAML: [ is not closed (column 8); add ], or a comma before line 2"),
        (b"a: @b\n", "a text that begins with it must be in quotes"),
        (b"a:\n - b\n c: d\n", ":3: not YAML: expected <block end>, but found '?' (column 2); indent it"),
        (b"a: 1\nb: \xff\n", ":2: not UTF-8 text"),
        (b"a: b\nc: \x00\n", ":2: not YAML: the character U+0000 may not stand in it"),
        (b"[" * 5000, "nested too deeply"),
        (b"a: " + b"x" * MAX_BYTES, "larger than 256 KiB"),
        (b"- a\n", ":1: must be a mapping with sources, sinks and routes"),
    ],
)
def test_what_is_no_yaml_is_one_clear_line(file: Path, content: bytes, problem: str) -> None:
    file.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        load(file, {})

    first = caught.value.problems[0]
    assert problem in first
    assert "\n" not in first
    assert first.startswith(str(file))


def test_aliases_that_unfold_without_end_are_refused_quickly(file: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    started = time.thread_time()

    file.write_text("\n".join(levels))
    assert "unfolds to more than 20000 values" in whole(file)
    file.write_text("a: &a [*a]")
    assert "nested too deeply, or inside itself" in whole(file)

    assert time.thread_time() - started < 5


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {<<: *a}",
        "a: &a {<<: [{b: 1}, *a]}",
        "a: &a {b: &b {<<: *a}}",
        "x: &m0 {k: 1}\n" + "\n".join(f"x{n}: &m{n} {{<<: *m{n - 1}}}" for n in range(1, 900)),
        f'a: "{"${A:-" * 20_000}"',
        f'a: "{"${A:-" * 20_000}{"}" * 20_000}"',
        f'a: "{"${A:-" * 25}x{"}" * 25}"',
    ],
    ids=["itself", "in a list", "around itself", "a long chain", "open defaults", "nested defaults", "some defaults"],
)
def test_what_is_inside_itself_or_nested_without_end_is_one_line(file: Path, text: str) -> None:
    file.write_text(text + "\n")
    started = time.thread_time()

    with pytest.raises(ConfigError) as caught:
        load(file, {})

    assert time.thread_time() - started < 5
    first = caught.value.problems[0]
    assert re.search("merges too many mappings|more than 20 defaults|malformed variable|inside itself", first)
    assert "\n" not in first


HUSH = "hush-secret"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("sinks: {s: {type: database, url: %}}", f"{HUSH}://x/y"),
        ("sinks: {s: {type: files, path: /tmp/x, prefix: %}}", "{{ hushsecret }}"),
        ("sinks: {s: {type: files, path: /tmp/x, max_artifact_bytes: %}}", "99hushsecret"),
        ("sinks: {s: {type: http, url: %}}", f"{HUSH}://x/y"),
        ("sinks: {s: {type: http, url: 'https://x.example', template: %}}", "{{ hushsecret }}"),
        ("sinks: {s: {type: resubmit, base_url: %}}", f"{HUSH}://x/y"),
        ("sinks: {s: {type: resubmit, changes: {k: %}}}", "{{ hushsecret }}"),
        ("sinks: {s: {type: s3, bucket: b, tags: {k: %}}}", "{{ hushsecret }}"),
        ("sinks: {s: {type: %}}", HUSH),
        ("routes: [{name: r, to: [%]}]", HUSH),
        ("routes: [{name: r, to: [{sink: d, after: %}]}]", HUSH),
        ("routes: [{name: r, to: [d], when: %}]", "hushsecret.x == 1"),
        ("routes: [{name: r, to: [d], when: %}]", "a b hushsecret"),
        ("routes: [{name: %, to: [d]}, {name: %, to: [d]}]", "hush secret"),
        ("redact: [%]", f"/{HUSH}/.."),
        ("allowed_addresses: [%]", f"{HUSH}://x/y"),
        ("server: {max_body: %}", HUSH),
    ],
)
@pytest.mark.parametrize("given", ["set", "default"])
def test_what_a_variable_gave_is_never_said(file: Path, place: str, value: str, given: str) -> None:
    variable = "${SECRET}" if given == "set" else f"${{SECRET:-{value}}}"
    whole_file = {"sources": {"skyvern": {"secrets": ["k"]}}, "sinks": {"d": {"type": "files", "path": "/tmp/x"}}}
    lines = [f"{key}: {json.dumps(each)}" for key, each in whole_file.items() if not place.startswith(key)]
    if "routes" not in place:
        lines.append("routes: []")
    file.write_text("\n".join([*lines, place.replace("%", json.dumps(variable))]) + "\n")

    with pytest.raises(ConfigError) as caught:
        load(file, {"SECRET": value} if given == "set" else {})

    assert "hush" not in str(caught.value)


def test_nothing_in_a_file_is_ever_called(file: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    file.write_text(f"sources: !!python/object/apply:os.mkdir ['{trap}']\n")

    with pytest.raises(ConfigError, match="is not allowed"):
        load(file, {})

    assert not trap.exists()


# --- The models by themselves

SIZES = [("16MiB", 16777216), ("1kB", 1000), ("2 GiB", 2147483648), ("7", 7), ("0.5MiB", 524288), (9, 9)]
DURATIONS = [("90d", 7776000), ("1.5h", 5400), ("5m", 300), ("200ms", 0.2), ("3", 3)]
RATES = [("10/s", (10, 1)), ("100 / m", (100, 60)), ("5/h", (5, 3600))]


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        *((parse_size, text, number) for text, number in SIZES),
        *((parse_duration, text, seconds) for text, seconds in DURATIONS),
        *((parse_rate, text, rate) for text, rate in RATES),
    ],
)
def test_sizes_durations_and_rates(parse: Callable[[Any], object], text: object, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize("text", ["0/s", "10", "10/d", "-1/s", "1.5/s", ""])
def test_invalid_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a rate"):
        parse_rate(text)


def test_a_sink_keeps_the_keys_that_are_not_its_own_as_options() -> None:
    sink = SinkConfig.model_validate({"type": "files", "path": "var/archive", "concurrency": 2})

    assert sink.options == {"path": "var/archive"}
    assert sink.concurrency == 2
    assert SinkConfig(type="files", options={"path": "x"}).options == {"path": "x"}


@pytest.mark.parametrize(
    ("source", "default", "api"),
    [
        ({"secrets": ["k"]}, "https://api.skyvern.com", None),
        ({"secrets": ["k"], "api_key": ""}, "https://api.skyvern.com", None),
        ({"secrets": ["k"], "api_key": " a\n"}, "https://api.skyvern.com", ("https://api.skyvern.com", "a")),
        ({"secrets": ["k"], "api_key": "a"}, "", None),
        ({"secrets": ["k"], "api_key": "a", "api_base": "http://h/"}, "", ("http://h", "a")),
    ],
)
def test_a_source_without_a_key_or_a_base_is_never_asked(
    source: dict[str, object], default: str, api: tuple[str, str] | None
) -> None:
    assert SourceConfig.model_validate(source).api(default) == api


def test_keys_lose_the_white_space_that_a_file_left_around_them() -> None:
    keys = SourceConfig.model_validate({"secrets": [" a\n", "", "b"]}).secrets

    assert [key.get_secret_value() for key in keys] == ["a", "b"]


@pytest.mark.parametrize(
    ("sink", "option"),
    [
        ("{type: database, url: sqlite:///x.db, table: runs, timeout: %s}", "timeout"),
        ("{type: slack, webhook_url: 'https://hooks.slack.com/services/T/B/x', timeout: %s}", "timeout"),
        ("{type: slack, webhook_url: 'https://hooks.slack.com/services/T/B/x', window: %s}", "window"),
        ("{type: queue, to: redis-stream, url: 'redis://localhost', once_for: %s}", "once_for"),
        ("{type: resubmit, base_url: 'http://127.0.0.1:8000', key: rhk_x, max_age: %s}", "max_age"),
    ],
)
@pytest.mark.parametrize("text", ["90s", "1.5m", "90", '"${NINETY}"'])
def test_options_of_sinks_take_durations(file: Path, sink: str, option: str, text: str) -> None:
    file.write_text(f"sources: {{skyvern: {{secrets: [k]}}}}\nsinks: {{it: {sink % text}}}\n")
    options = load(file, {"NINETY": "90"}).sinks["it"].options
    kind = sink.partition("type: ")[2].partition(",")[0]
    assert getattr(sink_type(kind).Options.model_validate(options), option) == 90


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (9000, ("127.0.0.1", 9000)),
        ("9000", ("127.0.0.1", 9000)),
        (0, ("127.0.0.1", 0)),
        (" 10.0.0.5:65535 ", ("10.0.0.5", 65535)),
        ("[::1]:9000", ("::1", 9000)),
        ("ops-1.internal:9000", ("ops-1.internal", 9000)),
    ],
)
def test_an_address_to_listen_on(text: object, address: tuple[str, int]) -> None:
    assert parse_listen_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":9000", "::1:9000", "65536", -1, True, None, 9.5, "9000/x", "http://h:1", "a b:1", "[h]:1", "٩٠"]
)
def test_what_is_no_address_to_listen_on_says_what_would_be(text: object) -> None:
    with pytest.raises(ValueError, match=r"must be a port such as 9000, or an address and a port"):
        parse_listen_address(text)
