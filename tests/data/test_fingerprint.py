from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="Pillow is not installed")

from image_files import save, tree
from test_cub200 import write_cub200
from test_vision import write_mnist

from secateur.data import data_fingerprint
from secateur.errors import DataError

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")


def grown(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def test_a_tree_is_known_by_names_and_sizes(tmp_path: Path) -> None:
    spec = f"folder:{tree(tmp_path, {'train': 2, 'test': 1})}"
    first = data_fingerprint(spec)
    assert first == data_fingerprint(spec)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".hidden.png").write_bytes(b"1")
    assert data_fingerprint(spec) == first
    seen = {first}
    changes: list[Callable[[], object]] = [
        lambda: grown(tmp_path / "train" / "ant" / "0.png"),
        lambda: (tmp_path / "train" / "ant" / "0.png").rename(tmp_path / "train" / "ant" / "7.png"),
        lambda: (tmp_path / "train" / "ant" / "7.png").rename(tmp_path / "train" / "bee" / "7.png"),
        lambda: (tmp_path / "test" / "cow" / "0.png").unlink(),
    ]
    for change in changes:
        change()
        seen.add(data_fingerprint(spec))
    assert len(seen) == 5


def test_a_copy_elsewhere_has_the_same_fingerprint(tmp_path: Path) -> None:
    one, other = (tree(tmp_path / name, {"train": 2, "val": 1}) for name in ("one", "other"))
    assert data_fingerprint(f"folder:{one}") == data_fingerprint(f"folder:{other}")
    first = data_fingerprint("imagenet", one)
    assert first == data_fingerprint("imagenet", other) is not None
    save(other / "birds" / "0.png", 1)  # another data set beside it
    assert first == data_fingerprint("imagenet", other)
    grown(other / "val" / "ant" / "0.png")
    assert first != data_fingerprint("imagenet", other)


def test_files_and_lists_are_known_by_their_content(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    first = data_fingerprint("mnist", tmp_path)
    file = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\7")
    assert data_fingerprint("mnist", tmp_path) != first
    folder = write_cub200(tmp_path)
    first = data_fingerprint("cub200", tmp_path)
    assert data_fingerprint(f"cub200:{folder}") == first
    text = (folder / "train_test_split.txt").read_text()
    (folder / "train_test_split.txt").write_text(text.replace("3 1", "3 0"))
    second = data_fingerprint("cub200", tmp_path)
    save(folder / "images" / "001.Black_footed_Albatross" / "new.jpg", 1)
    assert len({first, second, data_fingerprint("cub200", tmp_path)}) == 3


@pytest.mark.parametrize("inner", ["", "data"])
def test_parquet_is_known_by_its_content(tmp_path: Path, inner: str) -> None:
    (tmp_path / inner).mkdir(exist_ok=True)
    for name in ("train", "test", "val"):
        (tmp_path / inner / f"{name}.parquet").write_bytes(name.encode())
    first = data_fingerprint(f"parquet:{tmp_path}")
    (tmp_path / inner / "val.parquet").write_bytes(b"VAL")
    assert data_fingerprint(f"parquet:{tmp_path}") != first


def test_only_the_ends_of_a_large_file_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.data.fingerprint.WHOLE_BYTES", 10)
    content = bytearray(range(30))
    seen = set()
    for place in (None, 0, 15, 29):
        changed = bytearray(content)
        if place is not None:
            changed[place] ^= 255
        (tmp_path / "train.parquet").write_bytes(changed)
        (tmp_path / "test.parquet").write_bytes(b"")
        seen.add(data_fingerprint(f"parquet:{tmp_path}"))
    assert len(seen) == 3


def test_what_has_no_files_has_no_fingerprint(tmp_path: Path) -> None:
    assert data_fingerprint("digits", tmp_path) is None
    assert data_fingerprint("mine.py:data", tmp_path) is None
    specs = ("mnist", "imagenet", "cub200", f"cub200:{tmp_path}", f"folder:{tmp_path}/none", f"parquet:{tmp_path}")
    assert [data_fingerprint(spec, tmp_path / "none") for spec in specs] == [None] * 6


def test_a_file_that_is_there_but_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.parquet").write_bytes(b"")
    (tmp_path / "train.parquet").mkdir()  # opens as no file does, for the superuser too
    with pytest.raises(DataError, match=r"cannot read .*train\.parquet: Is a directory"):
        data_fingerprint(f"parquet:{tmp_path}")
