"""The work of one queue, as its worker process sees it. Knows neither rq nor Redis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from receiver.wakeups.record import JOB_TIMEOUT


class JobBody(ABC):
    """What the jobs of one queue do in one worker process. A subclass overrides `run` and `close`, and what it needs
    of the rest."""

    @property
    def job_timeout(self) -> float:
        """Seconds that one job may take."""
        return JOB_TIMEOUT

    @property
    def worn_out(self) -> bool:
        """Whether a fresh process should replace this one after the current job."""
        return False

    def share(self, sends: Callable[[int], None]) -> None:  # noqa: B027 - not every body sends
        """Be careful of others, whose work this process does beside this. Called before the first job.

        `sends`: to be called with how many sends are under way, whenever that changes.
        """

    @abstractmethod
    def run(self, stop: Callable[[], bool]) -> None:
        """Work until nothing is left to do or `stop()` is true."""

    def run_without_redis(self, stop: Callable[[], bool]) -> None:  # noqa: B027 - not every body can
        """Do what can be done while Redis is away. Does nothing unless overridden."""

    def run_while_full(self, stop: Callable[[], bool]) -> None:
        """Do what can be done while Redis has no memory left for a wake-up, but answers. By default as without it."""
        self.run_without_redis(stop)

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""
