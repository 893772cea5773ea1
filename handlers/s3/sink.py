"""The sink `s3`: a mirror whose store is a bucket."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, ClassVar

from handlers.mirror.sink import MirrorSink
from handlers.s3.options import S3Options

if TYPE_CHECKING:
    from handlers.s3.store import S3Store


class S3Sink(MirrorSink[S3Options]):
    """Stores each event and its run's files in a bucket."""

    Options = S3Options
    shares_worker: ClassVar[bool] = True

    def make_store(self) -> S3Store:
        """See MirrorSink."""
        from handlers.s3.store import S3Store

        return S3Store(self.options)

    def check(self) -> str:
        """Ask for the bucket."""
        with closing(self.make_store()) as store:
            return store.check()
