"""Who may read the data folder."""

from pathlib import Path

import pytest

from receiver.errors import NotStarted
from receiver.runtime.data_folder import secure


def modes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): f"{path.stat().st_mode & 0o777:o}" for path in folder.rglob("*")}


def test_new_folders_are_private(tmp_path: Path) -> None:
    secure(tmp_path / "srv" / "runhook")

    assert modes(tmp_path) == {"srv": "700", "srv/runhook": "700"}


def test_folder_that_others_may_read_is_closed(tmp_path: Path) -> None:
    data = tmp_path / "var"
    data.mkdir(mode=0o755)
    (data / "ledger.db").touch(mode=0o644)
    (tmp_path / "link").symlink_to(data)

    secure(tmp_path / "link")

    assert modes(tmp_path)["var"] == "700"


@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_folder_of_others_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    # Given a folder around the current one, and one that all may write to
    folder = tmp_path / "tmp"
    (folder / "project").mkdir(parents=True)
    folder.chmod(mode)
    if mode == 0o755:
        monkeypatch.chdir(folder / "project")
    secure(folder)
    assert folder.stat().st_mode & 0o7777 == mode
    assert "set RUNHOOK_DATA to a separate folder" in caplog.text


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(NotStarted, match="set RUNHOOK_DATA"):
        secure(tmp_path / "file" / "data")
