"""Data that cannot be used ends a command with one clear sentence and exit code 2, and nothing is written."""

import contextlib
import io
import os
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from cli_command import Ran, refused, run, start

pytest.importorskip("PIL", reason="Pillow is not installed")
from PIL import Image

TOY = Path(__file__).with_name("cli_toy.py")
needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")


def prune(data: str, tmp_path: Path, *options: str) -> Ran:
    """Run a job that would work on good data: grey images, three classes."""
    words = ("--model", f"{TOY}:network", "--data", data, "--macs", "0.5", "--train-epochs", "1", "--epochs", "1", "-q")
    ran = run("prune", *words, "--batch-size", "16", *options, "--out", tmp_path / "run")
    if ran.code:
        assert not (tmp_path / "run").exists()
    return ran


def encoded(seed: int, width: int = 9, height: int = 9, mode: str = "L", kind: str = "PNG") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A sound tree of grey images of three classes."""
    folder = tmp_path / "tree"
    for split, count in (("train", 12), ("test", 3)):
        for label, name in enumerate(("ant", "bee", "cow")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                (folder / split / name / f"{number:02}.png").write_bytes(encoded(100 * label + number))
    return folder


def test_a_sound_tree_works(tree: Path, tmp_path: Path) -> None:
    ran = prune(f"folder:{tree}", tmp_path)
    assert ran.code == 0, ran.err
    assert (tmp_path / "run" / "record.json").is_file()


def test_trees_without_images_or_classes(tree: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(prune(f"folder:{empty}", tmp_path), f"{empty} holds no class folders", f"{empty}/cat")
    refused(prune(f"folder:{empty}/none", tmp_path), f"there is no folder {empty}/none")
    refused(prune("folder:", tmp_path), "names no folder", "folder:DIR")
    refused(prune("foldre:here", tmp_path), "unknown data set 'foldre:here'", "'folder:DIR'")
    (tree / "train" / "dog").mkdir()
    refused(prune(f"folder:{tree}", tmp_path), "train/dog holds no images")


def test_a_tree_of_one_class(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "one" / split / "cat").mkdir(parents=True)
        (tmp_path / "one" / split / "cat" / "0.png").write_bytes(encoded(0))
    refused(prune(f"folder:{tmp_path / 'one'}", tmp_path), "has one class only, 'cat'", "at least 2")


def test_a_class_that_train_lacks(tree: Path, tmp_path: Path) -> None:
    (tree / "test" / "cow").rename(tree / "test" / "cows")
    refused(prune(f"folder:{tree}", tmp_path), "has the class 'cows', which train lacks", "it has 'cow'")


def test_a_missing_split(tree: Path, tmp_path: Path) -> None:
    (tree / "train").rename(tree / "trian")
    refused(prune(f"folder:{tree}", tmp_path), f"{tree} has test but no train folder", "add train/")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (encoded(1, 11, 9), ("bee/05.png is 11×9 grey", "ant/00.png is 9×9 grey", "such as imagenet")),
        (encoded(1, mode="RGB"), ("bee/05.png is 9×9 colour", "ant/00.png is 9×9 grey", "convert all images alike")),
        (encoded(1, mode="I;16"), ("bee/05.png is an image of mode I;16", "8 bits per channel")),
        (encoded(1)[:60], ("bee/05.png is not an image that Pillow can read whole",)),
        (b"<html>not found</html>", ("bee/05.png is not an image that Pillow can read", "replace or remove")),
        (b"", ("bee/05.png is empty",)),
    ],
    ids=["size", "mode", "depth", "truncated", "page", "empty"],
)
def test_one_bad_image_is_found_before_work_starts(
    tree: Path, tmp_path: Path, content: bytes, parts: tuple[str, ...]
) -> None:
    (tree / "train" / "bee" / "05.png").write_bytes(content)
    refused(prune(f"folder:{tree}", tmp_path), *parts)


@needs_torchvision
@pytest.mark.parametrize("name", ["imagenet", "cub200", "svhn", "cifar100", "fashion-mnist"])
def test_published_data_that_is_not_there(name: str, tmp_path: Path) -> None:
    refused(prune(name, tmp_path, "--data-root", str(tmp_path)), str(tmp_path))


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_parquet_files(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path / "rows"
    folder.mkdir()

    def write(name: str, images: list[bytes | None], labels: list[int | None]) -> None:
        table = pyarrow.table({"image": pyarrow.array(images, pyarrow.binary()), "label": pyarrow.array(labels)})
        parquet.write_table(table, folder / name, row_group_size=4)

    spec, good, labels = f"parquet:{folder}", [encoded(seed) for seed in range(12)], [0, 1, 2] * 4
    write("train.parquet", list(good), list(labels))
    refused(prune(spec, tmp_path), "has no test.parquet")
    write("test.parquet", list(good), [*labels[:-1], 3])
    refused(prune(spec, tmp_path), "test label 11", "is 3 but 3 classes", "0 … 2")
    write("test.parquet", list(good), [*labels[:-1], -1])
    refused(prune(spec, tmp_path), "test label 11", "is -1")
    write("test.parquet", list(good), [*labels[:-1], None])
    refused(prune(spec, tmp_path), "row 11 of", "has no label")
    write("test.parquet", list(good), list(labels))
    for bad, words in (
        (encoded(1, 10, 9), "row 5 of"),
        (encoded(1, mode="RGB"), "9×9 colour but row 0 is 9×9 grey"),
        (b"?", "not an image"),
        (None, "has no image bytes"),
    ):
        write("train.parquet", [*good[:5], bad, *good[6:]], list(labels))
        refused(prune(spec, tmp_path), "row 5 of", words)
    write("train-00000-of-00002.parquet", list(good), list(labels))
    refused(prune(spec, tmp_path), "lacks train-00001-of-00002.parquet")
    (folder / "train-00000-of-00002.parquet").unlink()
    (folder / "train.parquet").write_bytes((folder / "train.parquet").read_bytes()[:200])
    refused(prune(spec, tmp_path), "train.parquet is not a readable parquet file")


SLOW = """
import os, time
import torch
class Rows:
    def __init__(self, count):
        self.targets = [row % 3 for row in range(count)]
        self.main = os.getpid()
    def __len__(self):
        return len(self.targets)
    def __getitem__(self, row):
        if os.getpid() != self.main:
            time.sleep(0.05)
        return torch.zeros(1, 9, 9, dtype=torch.uint8), self.targets[row]
def data():
    return {"train": Rows(600), "test": Rows(30)}
"""


def reading_processes(process: "subprocess.Popen[str]") -> list[int]:
    """Return the children that run what ``process`` runs: those are forked from it."""
    found = []
    with contextlib.suppress(OSError):  # one of them ended meanwhile
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        found = [int(pid) for pid in children.split() if Path(f"/proc/{pid}/cmdline").read_bytes() == words]
    return found


def training_on_slow_data(tmp_path: Path) -> "tuple[subprocess.Popen[str], int]":
    """Start a job, and return it with the id of a process that reads training images for it."""
    (tmp_path / "slow.py").write_text(SLOW)
    data = f"{tmp_path / 'slow.py'}:data"
    words = ("--model", f"{TOY}:network", "--data", data, "--macs", "0.5", "--workers", "1", "--train-epochs", "1")
    process = start("prune", *words, "-q", "--out", tmp_path / "run")
    limit = time.monotonic() + 60
    found: list[int] = []
    while not ((tmp_path / "run" / "log.jsonl").exists() and found) and time.monotonic() < limit:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
        found = reading_processes(process)
    return process, found[0]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found through /proc")
def test_ctrl_c_reaches_the_reading_processes_too_and_they_are_silent(tmp_path: Path) -> None:
    process, reader = training_on_slow_data(tmp_path)
    os.kill(reader, signal.SIGINT)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("stopped; continue with: ")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found through /proc")
def test_a_reading_process_that_is_killed(tmp_path: Path) -> None:
    process, reader = training_on_slow_data(tmp_path)
    os.kill(reader, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    refused(Ran(process.returncode, out, err), "a reading process of", "was killed", "fewer workers")
    assert not (tmp_path / "run" / "record.json").exists()
