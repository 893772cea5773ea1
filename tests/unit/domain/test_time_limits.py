"""The order of the time limits on which promises rest."""

from receiver.domain import time_limits as limits
from receiver.ledger.database import engine
from receiver.ledger.deliveries.lanes import PROBE_LEASE
from receiver.runtime.supervisor import PULSE_WITHIN

# Promise 6: seconds within which work resumes after kill -9.
RESUMES = 30.0


def test_renewal_that_waits_for_the_ledger_precedes_the_lapse() -> None:
    assert limits.RENEW_EVERY + engine.LOCK_WAIT < limits.START_WITHIN < limits.CLAIM


def test_work_of_a_killed_or_hung_process_resumes_as_promised() -> None:
    assert max(limits.CLAIM, PROBE_LEASE, PULSE_WITHIN + limits.SIGN_EVERY) < RESUMES
    assert limits.SIGN_EVERY * 3 <= PULSE_WITHIN <= limits.CLAIM


def test_job_ends_by_itself_before_it_is_cut_off() -> None:
    assert limits.JOB_FOR + 2 * engine.LOCK_WAIT < limits.JOB_TIMEOUT < limits.JOB_HANGS
