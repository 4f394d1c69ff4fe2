"""The folder of an INT8 file: where its files are made before they come there, and what counts as other settings."""

import os
from pathlib import Path

import pytest

from secateur.recipe.quantizing.folder import FILES, Int8Folder
from secateur.recipe.quantizing.settings import Quantize


@pytest.mark.parametrize("obstacle", ["mount", "parent"])
def test_a_folder_that_files_cannot_be_moved_into_is_written_inside(
    obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "volume"
    folder.mkdir()
    (folder / ".volume.killed.part").mkdir()
    if obstacle == "mount":
        monkeypatch.setattr(Path, "is_mount", lambda path: path == folder)
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    (tmp_path / "link").symlink_to(folder)
    place = Int8Folder(tmp_path / "link")
    assert place.enter({}, force=False) is None
    with place.staged() as staging:
        assert staging.parent == folder
        for name in FILES.values():
            (staging / name).write_text(name)
    assert {path.name for path in folder.iterdir()} == {*FILES.values(), ".volume.killed.part"}


def test_the_order_of_repairs_is_no_setting() -> None:
    one, other = ("adaround", "equalization"), ("equalization", "adaround")
    assert Quantize(repair=one) == Quantize(repair=other)
