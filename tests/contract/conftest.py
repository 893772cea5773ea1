"""What the tests of several sinks share."""

import functools
from collections.abc import Iterator

import botocore.session
import pytest


@pytest.fixture(scope="session", autouse=True)
def _descriptions_of_aws_are_read_once() -> Iterator[None]:
    """Reading them takes a seventh of a second for each client, and each of hundreds of sinks makes one of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield
