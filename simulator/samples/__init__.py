"""Sample webhook bodies, one for each run type and way to end, as Skyvern would send them: for demo, tests, trials.

Pure: the time is passed in, and with run id and number it fixes every byte. A sample's name is `<run type>.<ending>`;
`SERIES` are several bodies about one run, in the order in which Skyvern sends them.
"""

from __future__ import annotations

from simulator.samples.artifacts import artifact
from simulator.samples.bodies import TASK_TYPES, Moment, dumps, task, task_v2, workflow_run

__all__ = ["ALIASES", "SERIES", "artifact", "build", "expand", "names", "run_type"]

ENDINGS = ("completed", "failed", "terminated", "timed_out", "canceled")

_EXTRA = (
    "task_v2.undelivered",  # 1.0.50: completed, then called failed because its webhook could not be delivered
    "workflow_run.retry_pending",
    "workflow_run.retry_pending_again",
    "workflow_run.completed_after_retries",
    "workflow_run.canceled_with_output",
)

_NAMES = (
    *(f"{kind}.{ending}" for kind in (*TASK_TYPES, "task_v2", "workflow_run") for ending in ENDINGS),
    *_EXTRA,
)

SERIES: dict[str, tuple[str, ...]] = {
    "workflow_run.retries": (
        "workflow_run.retry_pending",
        "workflow_run.retry_pending_again",
        "workflow_run.completed_after_retries",
    ),
    "workflow_run.canceled_twice": ("workflow_run.canceled", "workflow_run.canceled_with_output"),
}

ALIASES: dict[str, str] = {
    **{ending: f"task_v1.{ending}" for ending in ENDINGS},
    **{kind: f"{kind}.completed" for kind in (*TASK_TYPES, "task_v2", "workflow_run")},
    "retry_pending": "workflow_run.retry_pending",
    "undelivered": "task_v2.undelivered",
    "retries": "workflow_run.retries",
    "canceled_twice": "workflow_run.canceled_twice",
}


def names() -> list[str]:
    """Return the names that `build` takes, without aliases and series."""
    return list(_NAMES)


def expand(name: str) -> tuple[str, ...]:
    """Return the samples that a name, an alias or a series stands for, in order of sending. Raises KeyError."""
    name = ALIASES.get(name, name)
    if name in SERIES:
        return SERIES[name]
    if name not in _NAMES:
        raise KeyError(name)
    return (name,)


def run_type(name: str) -> str:
    """Return the run type of a sample."""
    return name.partition(".")[0]


def build(name: str, *, now: float, run_id: str | None = None, seq: int = 0, artifacts: str = "") -> bytes:
    """Return the body of sample `name` (or of an alias for one), sent at `now` (seconds since the epoch).

    `run_id`: by default one made from `now` and `seq`. `seq`: its place among several, which also varies the invoice.
    `artifacts`: base URL at which recording, screenshots and files are (their bytes: `artifact(id)`); without it the
    run has none, as on a Skyvern with local storage. Raises KeyError for an unknown name and for a series.
    """
    sample, *more = expand(name)
    if more:
        raise KeyError(name)
    kind, _, ending = sample.partition(".")
    moment = Moment(now, seq, artifacts.rstrip("/"))
    if kind == "workflow_run":
        body = workflow_run(ending, moment, run_id)
    elif kind == "task_v2":
        body = task_v2(ending, moment, run_id)
    else:
        body = task(kind, ending, moment, run_id)
    return dumps(body)
