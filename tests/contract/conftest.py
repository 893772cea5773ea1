"""What the tests of several sinks share."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from handlers.contract import Services
from handlers.files import FilesSink
from tests.servers.artifacts import ArtifactServer
from tests.support.mirror import Place, tree_of


@pytest.fixture(scope="session", autouse=True)
def _descriptions_of_aws_are_read_once() -> Iterator[None]:
    """Reading them takes a seventh of a second for each client, and each of hundreds of sinks makes one of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield


@pytest.fixture
def server() -> Iterator[ArtifactServer]:
    """A server that has the files of runs."""
    with ArtifactServer() as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty folder, deep in another one, for the sink `files`."""
    root = tmp_path / "deep" / "archive"

    def build(services: Services, **options: Any) -> FilesSink:
        return FilesSink("archive", FilesSink.Options.model_validate({"path": str(root), **options}), services)

    def outside() -> list[str]:
        return sorted(
            str(path) for path in tmp_path.rglob("*") if root not in (path, *path.parents) and path != root.parent
        )

    place = Place(build, lambda: tree_of(root), outside)
    yield place
    place.close()
