"""The sink `s3`: a mirror whose store is a bucket."""

from __future__ import annotations

from typing import ClassVar

from handlers.contract import Delivery, ReadableFile, Receipt, Services, Sink
from handlers.mirror.mirror import Mirror
from handlers.s3.options import S3Options
from handlers.s3.store import S3Store


class S3Sink(Sink[S3Options]):
    """Stores each event and its run's files in a bucket."""

    Options = S3Options
    shares_worker: ClassVar[bool] = True
    takes_updates: ClassVar[bool] = True

    def __init__(self, name: str, options: S3Options, services: Services) -> None:
        super().__init__(name, options, services)
        self._store = S3Store(options)
        self._mirror = Mirror(options, services, self._store)

    def send(self, delivery: Delivery) -> Receipt:
        """Store the event. The receipt's id is s3://bucket/ and its folder, `keys` the objects in it."""
        return self._mirror.send(delivery)

    def find_file(self, location: str) -> ReadableFile | None:
        """See Sink."""
        return self._mirror.find_file(location)

    def check(self) -> str:
        """Ask for the bucket."""
        return self._store.check()

    def close(self) -> None:
        """Close connections and let idle threads end."""
        self._mirror.close()
        self._store.close()
