"""Folders for their owner only, whose names are on disk."""

import errno
import os
from pathlib import Path

import pytest

from handlers.support.private_file import make_private_folder


def test_new_folder_is_private_and_its_name_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    for _ in range(2):  # there is nothing to do the second time
        make_private_folder(tmp_path / "one" / "two")
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "one", tmp_path / "one" / "two")] == [0o700] * 2
    assert synced == [path.stat().st_ino for path in (tmp_path, tmp_path / "one")]


@pytest.mark.parametrize("answer", [errno.EACCES, errno.EINVAL, errno.EIO])
def test_failed_sync_of_a_folder_is_raised_only_for_disk_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    def fsync(_handle: int) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(os, "fsync", fsync)
    if answer == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            make_private_folder(tmp_path / "one")
    else:
        make_private_folder(tmp_path / "one")
    assert (tmp_path / "one").is_dir()
