"""`runhook check` and `runhook schema`, as a person calls them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from receiver.config.json_schema import json_schema
from receiver.config.settings import Settings
from receiver.config.yaml_file import read
from tests.support.events import press
from tests.support.formats import mismatches
from tests.support.paths import ROOT
from tests.unit.cli.conftest import Runhook

SHIPPED = ROOT / "config" / "runhook.yaml"
PRODUCTION = ROOT / "config" / "production.yaml"
PRODUCTION_VARIABLES = {
    "SKYVERN_API_KEY": "sekret",
    "RESULTS_DATABASE_URL": "postgresql://user:sekret@db.example/results",
    "MIRROR_BUCKET": "my-runs",
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0/B0/sekret",
    "BILLING_URL": "https://billing.example/hooks",
    "BILLING_SECRET": "sekret-of-billing",
    "RUNHOOK_RESUBMIT_KEY": "rhk_sekret",
}
CONFIG = """\
sources:
  skyvern: {secrets: [sekret]}
  other: {secrets: [sekret]}
sinks:
  results: {type: database, url: "postgresql://u:sekret@h/db", table: skyvern_runs}
  ops: {type: slack, webhook_url: "https://hooks.slack.com/services/T0/B0/sekret"}
routes:
  - {name: quiet, when: {labels.env: staging}, to: [results], stop: true}
  - {name: everything, to: [results]}
  - {name: failures, when: {status: [failed, timed_out]}, to: [{sink: ops, after: results}]}
  - {name: big, when: 'run.output.total > 1000.0', to: [ops]}
"""


@pytest.fixture(autouse=True)
def _here(runhook: Runhook, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PRODUCTION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(CONFIG)
    return path


# --- Check


UNSET = """\
sources: {skyvern: {secrets: ["${SKYVERN_API_KEY}"]}}
sinks:
  results: {type: database, url: "${RESULTS_URL}"}
  archive: {type: files, path: var/archive, concurrency: "${PLACES}"}
  ops: {type: slack, webhook_url: "${SLACK_WEBHOOK_URL}"}
routes: [{name: all, to: [results, ops, archive]}]
console: {users: {ada: {password: "${ADA_HASH}"}}}
submit: {max_wait: "${MAX_WAIT}"}
"""


def test_allow_unset_checks_all_but_unset_variables(runhook: Runhook, config: Path) -> None:
    config.write_text(UNSET)

    allowed = runhook("check", config, "--allow-unset", "--strict", "--json", environ={"PLACES": ""})
    strict = runhook("check", config)

    assert (allowed.code, allowed.err) == (0, "")
    found = json.loads(allowed.out)
    assert found["unset"] == ["ADA_HASH", "MAX_WAIT", "PLACES", "RESULTS_URL", "SKYVERN_API_KEY", "SLACK_WEBHOOK_URL"]
    assert strict.code == 2
    assert strict.err.count("is not set; set it") == 4  # the key is only a warning


def test_allow_unset_still_reports_other_mistakes(runhook: Runhook, config: Path) -> None:
    config.write_text(UNSET.replace("webhook_url", "webhok_url").replace("to: [results", "to: [result"))

    result = runhook("check", config, "--allow-unset", environ={"MAX_WAIT": "never"})

    assert result.code == 2
    assert "sinks.ops.webhok_url: unknown key; did you mean webhook_url?" in result.err
    assert "there is no sink result; did you mean results?" in result.err
    assert "submit.max_wait: must be a duration" in result.err


def test_strict_fails_on_warnings(runhook: Runhook, config: Path) -> None:
    config.write_text(CONFIG + "  - {name: typo, when: {status: cancelled}, to: [ops]}\n")

    plain, strict = runhook("check", config), runhook("check", config, "--strict")
    document = runhook("check", config, "--strict", "--json")

    assert (plain.code, strict.code, document.code) == (0, 1, 1)
    assert plain.out == strict.out
    assert "warning: " in strict.out
    assert json.loads(document.out)["ok"] is False


def test_valid_file_is_summed_up_without_secrets(runhook: Runhook, config: Path) -> None:
    result = runhook("check", config)

    assert result.code == 0
    assert f"{config}: ok" in result.out
    for word in ("skyvern", "/webhooks/other", "results", "failures", "ops (after results)", "then stop"):
        assert word in result.out
    assert "sekret" not in result.out + result.err


SECRETIVE = """\
sources: {skyvern: {secrets: [sekret], api_key: sekret}}
sinks:
  one: {type: http, url: "https://u:sekret@h.example/x?t=sekret", secret: sekret, headers: {authorization: sekret}}
  two: {type: http, url: "https://h.example/x", secret: [sekret, whsec_c2VrcmV0LXNla3JldA==]}
  bot: {type: slack, token: xoxb-sekret, channel: "#ops"}
  bucket: {type: s3, bucket: my-runs, access_key_id: sekret, secret_access_key: sekret, session_token: sekret}
  more: {type: notify, urls: ["json://u:sekret@h.example/x", "discord://sekret/sekret"]}
  stream: {type: queue, to: redis-stream, stream: runs, url: "redis://:sekret@h/0"}
  jobs: {type: queue, to: sqs, queue_url: "https://sqs.eu-west-1.amazonaws.com/1/a", access_key_id: sekret,
         secret_access_key: sekret}
  again: {type: resubmit, base_url: "http://h", key: rhk_sekret,
          changes: {cdp_connect_headers: {x-key: sekret, y: [sekret]}}}
  rows: {type: database, url: "postgresql://u:sekret@h/db", table: runs}
routes: [{name: all, to: [one, two, bot, bucket, more, stream, jobs, again, rows]}]
"""


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_no_secret_is_shown_wherever_it_is_written(runhook: Runhook, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "secretive.yaml").write_text(SECRETIVE)

    result = runhook("check", tmp_path / "secretive.yaml", *options)

    assert result.code == 0, result.err
    assert "sekret" not in result.out
    assert "c2VrcmV0" not in result.out


def test_each_problem_is_a_line_with_exit_code_2(runhook: Runhook, config: Path) -> None:
    config.write_text(CONFIG.replace("table:", "tabel:").replace("to: [ops]", "to: [opps]"))

    result = runhook("check", config)

    problems = [
        f"{config}:5: sinks.results.tabel: unknown key; did you mean table?",
        f"{config}:11: routes[3].to[0]: there is no sink opps; did you mean ops?",
    ]
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines() == [f"runhook: {problem}" for problem in problems]
    document = runhook("check", config, "--json")
    assert document.code == 2
    assert json.loads(document.out) == {"ok": False, "file": str(config), "problems": problems}


def test_the_file_is_the_configured_one_when_none_is_given(runhook: Runhook, config: Path) -> None:
    assert runhook("check", environ={"RUNHOOK_CONFIG": str(config)}).code == 0
    missing = runhook("check", environ={"RUNHOOK_CONFIG": "nowhere.yaml"})
    assert (missing.code, missing.err) == (
        2,
        "runhook: nowhere.yaml: no such file; name one with --config or RUNHOOK_CONFIG\n",
    )


def test_bodies_are_shown_with_what_matches_and_why(runhook: Runhook, config: Path, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"run_id": "tsk_1", "run_type": "task_v2", "status": "failed", "output": {"total": 1500}}')

    result = runhook("check", config, "--against", body)

    assert result.code == 0
    assert f"{body}: task_v2 tsk_1 failed; as the first event of its run: new" in result.out
    assert re.search(r"quiet +no +labels.env is missing", result.out)
    assert re.search(r"everything +yes +it has no condition", result.out)
    assert re.search(r'failures +yes +status is "failed", wanted "failed" or "timed_out"', result.out)
    assert re.search(r"big +yes +the expression is true; there: run.output.total is 1500", result.out)
    assert "→ results, ops (after results)" in result.out


def test_a_test_webhook_goes_only_where_tests_are_asked_for(runhook: Runhook, config: Path, tmp_path: Path) -> None:
    (tmp_path / "press.json").write_bytes(press("workflow"))

    result = runhook("check", config, "--json", "--against", tmp_path / "press.json")

    (trial,) = json.loads(result.out)["against"]
    assert (trial["disposition"], trial["deliveries"]) == ("test", [])
    told = "it is a test webhook, and the route does not say `test: true`"
    assert [told in each["why"] for each in trial["routes"]] == [True] * len(trial["routes"]) != []
    config.write_text(config.read_text().replace("- {name: everything,", "- {name: everything, test: true,"))
    result = runhook("check", config, "--json", "--against", tmp_path / "press.json")
    assert json.loads(result.out)["against"][0]["deliveries"] == [
        {"sink": "results", "route": "everything", "after": []}
    ]
    assert "(also test)" in runhook("check", config).out


@pytest.mark.parametrize(
    ("body", "problem"),
    [(b"no json", "it is not JSON"), (b"[]", "it is an array"), (b'{"status": "completed"}', "run_id")],
)
def test_a_body_that_cannot_be_understood_says_so(
    runhook: Runhook, config: Path, tmp_path: Path, body: bytes, problem: str
) -> None:
    (tmp_path / "body.json").write_bytes(body)

    result = runhook("check", config, "--against", tmp_path / "body.json")

    assert result.code == 0
    assert "unreadable: " in result.out
    assert problem in result.out
    assert "stored and listed, never routed" in result.out


def test_labels_and_the_source_are_what_one_says(runhook: Runhook, config: Path) -> None:
    result = runhook("check", config, "--json", "--against", "completed.json", "--label", "env=staging")
    assert result.code == 2, "there is no such body"

    result = runhook("check", config, "--json", "--against", "task_v1.completed", "--label", "env=staging")
    (trial,) = json.loads(result.out)["against"]
    assert [each["matched"] for each in trial["routes"]] == [True, False, False, False]
    assert "stop: true" in trial["routes"][1]["why"]

    assert runhook("check", config, "--source", "other").code == 0
    wrong = runhook("check", config, "--source", "nobody")
    assert (wrong.code, wrong.err) == (2, f"runhook: --source nobody: not found; {config} has skyvern, other\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--against", "nowhere.json"], "--against nowhere.json: neither a file nor a sample. `runhook"),
        (["--against", "."], "--against .: cannot be read: Is a directory"),
        (["--label", "x"], "--label x: write NAME=VALUE"),
        (["second.yaml"], "2 config files given: pass one"),
    ],
)
def test_a_wrong_call_is_one_line(runhook: Runhook, config: Path, arguments: list[str], problem: str) -> None:
    result = runhook("check", config, *arguments)

    assert result.code == 2
    assert result.err.startswith(f"runhook: {problem}")
    assert len(result.err.splitlines()) == 1


def test_what_the_config_redacts_is_not_shown_in_reasons(runhook: Runhook, config: Path, tmp_path: Path) -> None:
    config.write_text(CONFIG.replace("{status: [failed, timed_out]}", "{totp_identifier: nobody}"))
    (tmp_path / "body.json").write_text('{"run_id": "r", "status": "failed", "totp_identifier": "sekret"}')

    result = runhook("check", config, "--against", tmp_path / "body.json")

    assert "sekret" not in result.out
    assert "`redact` masks fields" in result.out


# --- The configs that are shipped


def test_the_shipped_config_needs_no_account(runhook: Runhook, tmp_path: Path) -> None:
    lacking = runhook("check", SHIPPED)
    assert (lacking.code, lacking.err) == (0, "")
    assert "warning: SKYVERN_API_KEY is not set: `runhook dev` creates one" in lacking.out
    assert runhook("check", SHIPPED, "--strict").code == 1

    Settings.from_env({}, data=tmp_path / "data").with_local_key()

    result = runhook("check", SHIPPED, "--data", tmp_path / "data", "--json", "--against", "workflow_run.completed")
    found = json.loads(result.out)
    assert result.code == 0
    assert found["warnings"] == []
    assert [each["sink"] for each in found["against"][0]["deliveries"]] == ["results", "archive"]


def test_the_production_example_is_right(runhook: Runhook) -> None:
    result = runhook(
        *("check", PRODUCTION, "--against", "workflow_run.completed", "--label", "team=billing"),
        environ={**PRODUCTION_VARIABLES, "PUBLIC_URL": "https://hooks.example.com"},
    )

    assert result.code == 0, result.err
    assert "warning" not in result.out
    assert "sekret" not in result.out


# --- Schema


def test_the_schema_is_printed_and_written(runhook: Runhook, tmp_path: Path) -> None:
    printed = runhook("schema")
    written = runhook("schema", "--output", tmp_path / "schema.json")
    refused = runhook("schema", "--output", tmp_path / "nowhere" / "schema.json")

    assert json.loads(printed.out) == json.loads((tmp_path / "schema.json").read_text()) == json_schema()
    assert written.code == 0
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)


SHIPPED_CONFIGS = [(SHIPPED, {"SKYVERN_API_KEY": "k"}), (PRODUCTION, PRODUCTION_VARIABLES)]


@pytest.mark.parametrize(("path", "environ"), SHIPPED_CONFIGS)
def test_shipped_configs_watch_the_account(path: Path, environ: Mapping[str, str]) -> None:
    assert [each["watch"] for each in read(path, environ).value["sources"].values()] == [True]


@pytest.mark.parametrize(("path", "environ"), SHIPPED_CONFIGS)
def test_shipped_configs_fit_the_schema(path: Path, environ: Mapping[str, str], tmp_path: Path) -> None:
    schema = json_schema()
    as_an_editor_sees_it = tmp_path / "unexpanded.yaml"
    as_an_editor_sees_it.write_text(path.read_text().replace("${", "$${"))

    for value in (read(path, environ).value, read(as_an_editor_sees_it, {}).value):
        assert mismatches(value, schema) == set()


@pytest.mark.parametrize(
    "part",
    [
        {"sinks": {"db": {"type": "database", "url": "x", "columns": {"a": "output.a", "b": {"path": "output.b"}}}}},
        {"sinks": {"ops": {"type": "slack", "templates": {"failed": "short", "completed": {"title": "long"}}}}},
        {"routes": [{"name": "r", "to": ["a", {"sink": "b", "after": "a"}, {"sink": "b", "after": ["a"]}]}]},
        {"sources": {"s": {"secrets": ["${A}"], "api_base": "${B}"}}, "server": {"max_body": "${F}"}},
        {"sinks": {"a": {"type": "database", "url": "${C}", "concurrency": "${D}", "create": "${E:-true}"}}},
        {"x-anything": {"a": 1}},
    ],
)
def test_the_schema_takes_short_forms_and_variables(part: dict[str, Any]) -> None:
    schema = json_schema()

    assert mismatches({"sources": {"s": {"secrets": ["k"]}}, **part}, schema) == set()


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"sinks": {"a": {"type": "database", "url": "x", "tabel": "y"}}}, "sinks.a"),
        ({"sinks": {"a": {"type": "database"}}}, "sinks.a"),
        ({"sinks": {"a": {"type": "nope"}}}, "sinks.a.type"),
        ({"sinks": {"a b": {"type": "database", "url": "x"}}}, "sinks"),
        ({"sinks": {"a": {"type": "database", "url": "x", "concurrency": "many"}}}, "sinks.a.concurrency"),
        ({"sinks": {"a": {"type": "database", "url": "x", "retry": {"atempts": 1}}}}, "sinks.a.retry"),
        ({"routes": [{"name": "a", "to": []}]}, "routes.0.to"),
        ({"routes": [{"name": "a", "to": [{"snk": "x"}]}]}, "routes.0.to.0"),
        ({"sever": {}}, ""),
        ({"server": {"max_body": "12QiB"}}, "server.max_body"),
        ({"sources": {}}, "sources"),
        ({"sources": {"s": {}}}, "sources.s"),
    ],
)
def test_the_schema_marks_what_is_wrong(part: dict[str, Any], where: str) -> None:
    schema = json_schema()
    good = {"sources": {"s": {"secrets": ["k"]}}}

    assert mismatches(good, schema) == set()
    assert where in mismatches({**good, **part}, schema)


def test_a_submit_api_without_a_public_url_is_warned_of(runhook: Runhook, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("sources: {skyvern: {secrets: [sekret], api_key: sekret}}")

    without, given = runhook("check", config), runhook("check", config, environ={"PUBLIC_URL": "https://hooks.example"})

    assert (without.code, given.code) == (0, 0)
    assert "warning: PUBLIC_URL is not set, though runs can be submitted to skyvern" in without.out
    assert "PUBLIC_URL" not in given.out
