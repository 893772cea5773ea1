"""Operations and the audit: what their pages show, and to whom."""

from __future__ import annotations

import time
from collections.abc import Callable

from receiver.ledger import operations
from receiver.ledger.access import audit
from receiver.ledger.access.audit import AuditActor
from receiver.ledger.selection import Selection
from receiver.ledger.verbs import REPLAY, Operation
from tests.servers.submitting import Submitting
from tests.support.api import done
from tests.support.console import Browser, forms
from tests.support.ledger import new_event, record

AsPerson = Callable[[str], Browser]


def begun(server: Submitting, number: int, **selection: object) -> str:
    """An operation that runs; its id."""
    record(server.ledger, new_event(f"tsk_{number}", "results", source="skyvern"), now=time.time() - 60)
    server.ledger.write(lambda it: it.exec_driver_sql("UPDATE deliveries SET state = 'dead'"))
    name, wanted = f"op_{number:016}", Selection(**selection)  # type: ignore[arg-type]
    server.ledger.write(lambda it: operations.create(it, name, Operation(REPLAY, wanted), time.time(), actor="cron"))
    return name


def test_an_operation_is_followed_and_stopped(operated: Submitting, as_person: AsPerson) -> None:
    # Given one that runs
    name = begun(operated, 1, sink="results")
    admin = as_person("admin")
    listed = admin.get("/operations")
    for page in (listed, admin.get(f"/operations/{name}")):
        assert "0 of 1" in page.text
    # When it is stopped
    asked = admin.click(listed, "Stop")
    assert "What it has done stays done" in asked.text
    after = admin.click(asked, "Stop")
    # Then it is, and the audit has it
    assert f"{name} is stopped after 0 of 1." in after.text
    assert done(operated)[-1] == ("operation.cancel", "admin", 1, "done")
    assert "operation.cancel" in admin.get("/audit").text
    assert "No operation matches" in admin.get("/operations?state=running").text


def test_audit_shows_no_empty_value_and_no_raw_duration(operated: Submitting, as_person: AsPerson) -> None:
    selection = {"key": "k1", "rate": None, "grace": 86400.0, "name": "billing"}
    who = AuditActor("user", "ana", "")
    operated.ledger.write(lambda it: audit.record(it, who, "key.create", selection, 1))
    page = as_person("admin").get("/audit").text
    assert "rate" not in page.partition("<tbody>")[2]
    assert "None" not in page
    assert '<span class="soft">grace</span> 24 h' in page


def test_operations_are_not_everybodys(operated: Submitting, as_person: AsPerson) -> None:
    name = begun(operated, 1, source="skyvern")
    # Who may only view has no button
    ana = as_person("ana")
    assert not [form for form in forms(ana.get(f"/operations/{name}").text) if "cancel" in form.action]
    assert ana.act("cancel_operation", id=name, sure="yes").status_code == 403
    # Who has another source has no such operation
    bo = as_person("bo")
    assert name not in bo.get("/operations").text
    assert bo.get(f"/operations/{name}").status_code == 404
    assert bo.act("cancel_operation", id=name, sure="yes").status_code == 404
    found = operated.ledger.read(lambda it: operations.get(it, name))
    assert found
    assert found.state == "running"


def test_the_audit_tells_who_did_what_to_whom_it_concerns(operated: Submitting, as_person: AsPerson) -> None:
    # Given a sink that was paused, and what one source did
    admin, bo = as_person("admin"), as_person("bo")
    admin.act("pause_sink", sink="ops", sure="yes")
    record(operated.ledger, new_event("tsk_2", "ops", source="other"), now=time.time())
    bo.act("cancel", ids="tsk_2", sure="yes")
    # Then all of it is told to who sees all
    whole = admin.get("/audit").text
    assert "sink.pause" in whole
    assert "user, 127.0.0.1" in whole
    assert "tsk_2" in whole
    assert "sink.pause" not in admin.get("/audit?actor=bo").text
    assert "No action matches" in admin.get("/audit?until=2h").text
    # And of it their own to who has one source
    own = bo.get("/audit").text
    assert "tsk_2" in own
    assert "sink.pause" not in own
    assert bo.get("/audit?source=skyvern").status_code == 403
