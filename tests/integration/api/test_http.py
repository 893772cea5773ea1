"""The API over HTTP: who may call it, and what a wrong call is told."""

from __future__ import annotations

import time

import pytest

from receiver.ledger.access import api_keys
from tests.servers.submitting import Submitting
from tests.support.api import SKYVERNS, get, problem
from tests.support.ledger import new_event, record


def test_a_run_is_told_whole(api_server: Submitting) -> None:
    # given a run with one delivery
    record(api_server.ledger, new_event("tsk_1", "results"))
    # when it is asked for
    answer = get(api_server, "/runs/tsk_1", api_server.key("view"))
    # then it is told with its event and delivery
    assert answer.status_code == 200
    told = answer.json()
    assert told["run"]["run_id"] == "tsk_1"
    assert told["run"]["updated_at"] == "2023-11-14T22:13:20Z"
    assert [each["disposition"] for each in told["events"]] == ["new"]
    assert [each["sink"] for each in told["deliveries"]] == ["results"]


def test_a_caller_without_a_key_is_told_so(api_server: Submitting) -> None:
    answer = get(api_server, "/runs/tsk_1")
    assert problem(answer)["type"] == "urn:runhook:problem:no_key"
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "give an API key" in problem(answer)["detail"]


@pytest.mark.parametrize("key", ["hello", "rhk_879e228b785b_T2-eahvjmDKoOQ6-Zs-6BsRv_QFnjpRpfFXXiEVHTHc"])
def test_a_caller_whose_key_is_wrong_is_not_told_to_give_one(api_server: Submitting, key: str) -> None:
    answer = get(api_server, "/runs/tsk_1", key)
    assert answer.status_code == 401
    assert "invalid or revoked API key" in problem(answer)["detail"]


def test_the_log_tells_a_refusal_as_it_was_answered(api_server: Submitting, caplog: pytest.LogCaptureFixture) -> None:
    assert get(api_server, "/runs/tsk_1").status_code == 401
    assert api_server.client.get("/v1/runs/tsk_1", headers={"x-api-key": "none"}).status_code == 403

    said = [line.split()[2] for line in caplog.messages if line.startswith("submit.refused reason=bad_key")]
    assert said == ["status=401", "status=403"]


def test_a_caller_whose_key_has_expired_is_told_so(api_server: Submitting) -> None:
    whole = api_server.key("view", "read")
    api_server.ledger.write(lambda it: api_keys.replace(it, whole.split("_")[1], "", 1.0))
    answer = get(api_server, "/runs/tsk_1", whole)
    assert (answer.status_code, problem(answer)["type"]) == (401, "urn:runhook:problem:no_key")
    assert "the API key has expired" in problem(answer)["detail"]
    # And of the submit API in Skyvern's form
    answer = api_server.client.get("/v1/runs/tsk_1", headers={"x-api-key": whole})
    assert (answer.status_code, answer.json()) == (403, {"detail": "The API key has expired"})


def test_a_run_that_is_not_there(api_server: Submitting) -> None:
    answer = get(api_server, "/runs/tsk_9", api_server.key("view"))
    assert problem(answer)["detail"].startswith("run tsk_9: not found; what is older than retention.events")
    assert answer.status_code == 404


def test_a_parameter_that_is_misspelt(api_server: Submitting) -> None:
    answer = get(api_server, "/runs/tsk_9?sorce=skyvern", api_server.key("view"))
    assert problem(answer)["detail"] == "sorce: unknown parameter; did you mean source?"
    assert problem(answer)["errors"] == [{"name": "sorce", "message": problem(answer)["detail"]}]
    assert answer.status_code == 422


def test_key_without_view_gets_skyverns_response_on_its_path(api_server: Submitting) -> None:
    answer = get(api_server, "/runs/tsk_1", api_server.key("read"))
    assert (answer.status_code, answer.content) == (200, SKYVERNS)


def test_a_key_may_not_name_another_source(api_server: Submitting) -> None:
    answer = get(api_server, "/runs/tsk_1?source=other", api_server.key("view"))
    assert answer.status_code == 403
    assert problem(answer)["detail"] == "source other: app is for the source skyvern only"


def test_a_text_that_the_database_refuses_is_the_callers_mistake(api_server: Submitting) -> None:
    assert get(api_server, "/runs/a%00b", api_server.key("view")).status_code in (404, 422)


def test_what_is_wrong_is_for_keys_of_all_sources(api_server: Submitting) -> None:
    assert get(api_server, "/status", api_server.key("view")).status_code == 403
    told = get(api_server, "/status", api_server.key("view", source="*")).json()
    # no clock and no worker run here
    assert told["ok"] is False
    assert "clock" in " ".join(each["what"] for each in told["problems"])
    assert told["ledger"]["trouble"] == ""


def test_a_list_of_one_source_has_no_run_of_another(api_server: Submitting) -> None:
    other = new_event("tsk_2")
    object.__setattr__(other.event, "source", "other")
    record(api_server.ledger, new_event("tsk_1"), other)
    for source, seen in (("skyvern", {"tsk_1"}), ("other", {"tsk_2"}), ("*", {"tsk_1", "tsk_2"})):
        page = get(api_server, "/runs", api_server.key("view", source=source)).json()
        assert {each["run_id"] for each in page["items"]} == seen


def test_skyverns_own_list_of_runs_is_still_there_for_apps(api_server: Submitting) -> None:
    assert get(api_server, "/runs?page=2", api_server.key("read")).content == SKYVERNS


def test_who_polls_gets_no_body_while_nothing_has_changed(api_server: Submitting) -> None:
    # given a run that a client has read
    record(api_server.ledger, new_event("tsk_1", "results"))
    key = api_server.key("view")
    first = get(api_server, "/runs/tsk_1", key)
    assert first.headers["cache-control"] == "private, no-cache"
    # when it asks again
    again = get(api_server, "/runs/tsk_1", key, **{"if-none-match": first.headers["etag"]})
    # then it has it already
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    # and when there is more, it gets all
    record(api_server.ledger, new_event("tsk_1", "results", status="failed"))
    changed = get(api_server, "/runs/tsk_1", key, **{"if-none-match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]
    # and neither somebody without a key nor an error is answered with 304
    assert get(api_server, "/runs/tsk_1", **{"if-none-match": "*"}).status_code == 401
    assert get(api_server, "/runs/tsk_9", key, **{"if-none-match": "*"}).status_code == 404


def test_totals_count_the_runs_outside_the_groups_shown(api_server: Submitting) -> None:
    # given three runs for two reasons
    now = time.time()
    for run_id, reason in (("tsk_1", "no 1"), ("tsk_2", "no 2"), ("tsk_3", "else")):
        record(api_server.ledger, new_event(run_id, status="failed", failure_reason=reason), now=now - 60)
    # when they are counted, and the largest group is asked for
    answer = get(api_server, "/totals?by=status,reason&since=1h&bucket=1h&top=1", api_server.key("view"))
    # then that is told, and how many are in others
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert [(row["key"], row["count"], row["success_rate"]) for row in told["items"]] == [
        ({}, 3, 0.0),
        ({"status": "failed", "reason": "no #"}, 2, 0.0),
    ]
    assert (told["of"], told["others"], told["counted_since"]) == ("runs", 1, None)
    # and of another source's key, nothing is
    other = get(api_server, "/totals?since=1h", api_server.key("view", source="other"))
    assert other.json()["items"][0]["count"] == 0


@pytest.mark.parametrize("query", ["since=1h&until=2h", "since=30d&bucket=60", "text=--"])
def test_totals_that_can_not_be_counted(api_server: Submitting, query: str) -> None:
    assert get(api_server, f"/totals?{query}", api_server.key("view")).status_code == 422
