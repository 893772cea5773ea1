"""The time limits of a worker that depend on each other, in seconds. A test checks their order.

RENEW_EVERY < START_WITHIN < CLAIM    renewals may fail for 11 s, and no send starts after a lapse
SIGN_EVERY < CLAIM                    a process that hangs is killed about when its claims lapse
JOB_FOR < JOB_TIMEOUT < JOB_HANGS     a job returns, else RQ cuts it off, else its process is replaced
"""

from __future__ import annotations

from typing import Final

# After which a claim that its owner does not renew lapses: the longest wait of a killed worker's deliveries.
CLAIM: Final = 15.0
# Between two renewals of what a process owns.
RENEW_EVERY: Final = 2.0
# After the beginning of a claim or a renewal, within which a send may start.
START_WITHIN: Final = CLAIM - 1
# Between two signs of life that a process gives its supervisor.
SIGN_EVERY: Final = 3.0
# That a job looks for more work, however much there is.
JOB_FOR: Final = 10.0
# After which RQ cuts a job off: JOB_FOR, and the longest wait that its last batch may contain.
JOB_TIMEOUT: Final = 60
# After which a job that RQ's signal did not end counts as hung.
JOB_HANGS: Final = JOB_TIMEOUT + 2.0
# Of the time to stop, those that a process keeps for its last steps.
LAST_STEPS: Final = 0.5
