"""What the sinks `files` and `s3` are: a mirror, over a store that each of them makes.

Both are imported and made at the first use: receivers and clocks have the sink only to check its options.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from handlers.contract import Delivery, ReadableFile, Receipt, Services, Sink
from handlers.mirror.options import MirrorOptions

if TYPE_CHECKING:
    from handlers.mirror.mirror import Mirror
    from handlers.mirror.store import Store

O = TypeVar("O", bound=MirrorOptions)  # noqa: E741 - as in the contract


class MirrorSink(Sink[O]):
    """Stores each event and its run's files."""

    takes_updates: ClassVar[bool] = True
    erases: ClassVar[bool] = True

    def __init__(self, name: str, options: O, services: Services) -> None:
        super().__init__(name, options, services)
        self._making = threading.Lock()
        self._made: Mirror | None = None

    @abstractmethod
    def make_store(self) -> Store:
        """Make where it stores everything. Opens nothing."""

    def send(self, delivery: Delivery) -> Receipt:
        """Store the event. The receipt's id is the location of its folder, `keys` the files in it."""
        return self._mirror().send(delivery)

    def find_file(self, location: str) -> ReadableFile | None:
        """See Sink."""
        return self._mirror().find_file(location)

    def erase(self, receipt: Mapping[str, Any]) -> None:
        """See Sink."""
        self._mirror().erase(receipt)

    def close(self) -> None:
        """Close connections and let idle threads end."""
        if self._made is not None:
            self._made.close()

    def _mirror(self) -> Mirror:
        with self._making:
            if self._made is None:
                from handlers.mirror.mirror import Mirror

                self._made = Mirror(self.options, self.services, self.make_store())
            return self._made
