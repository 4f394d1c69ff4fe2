import hashlib
import pickle
import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.data import load_data
from secateur.data.vision import CIFAR10_FILES, read_both_parts
from secateur.errors import DataError
from secateur.torchvision_shim import import_torchvision

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")


def write_mnist(root: Path, *, train: int = 30, test: int = 10) -> Path:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
        labels = bytes(row % 10 for row in range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels)
    return root


def write_cifar10(root: Path) -> dict[str, str]:
    """Write 4 images per batch file and return the MD5 sum of each file."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    for name in CIFAR10_FILES:
        content: dict[str, object] = {"data": rows, "labels": [0, 1, 2, 3]}
        if name.endswith("meta"):
            content = {"label_names": [str(number) for number in range(10)]}
        (root / name).write_bytes(pickle.dumps(content))
    return {Path(name).name: hashlib.md5((root / name).read_bytes()).hexdigest() for name in CIFAR10_FILES}


def test_mnist_files_are_read_as_they_are(tmp_path: Path) -> None:
    data = load_data("mnist", root=write_mnist(tmp_path), normalize="none", validation_share=0.0)
    assert (data.sample_shape, data.num_classes, data.size("train"), data.size("test")) == (
        (1, 28, 28),
        10,
        30,
        10,
    )
    x, y = next(iter(data.batches("train", batch_size=30)))
    pixels = np.random.default_rng(30).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    assert (x * 255).round().to(torch.uint8).equal(torch.from_numpy(pixels).unsqueeze(1))
    assert y.tolist() == [row % 10 for row in range(30)]


def test_missing_mnist_names_the_files(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"MNIST is not complete under .*missing MNIST/raw/train-images-idx3-ubyte, .*root"
    ):
        load_data("mnist", root=tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 1000])
def test_truncated_mnist_is_one_sentence(tmp_path: Path, keep: int) -> None:
    file = write_mnist(tmp_path) / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"MNIST under .* cannot be read .*truncated") as caught:
        load_data("mnist", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_cifar10_missing_or_not_the_published_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"CIFAR-10 is not complete under .*missing cifar-10-batches-py/data_batch_1"):
        load_data("cifar10", root=tmp_path)
    write_cifar10(tmp_path)
    with pytest.raises(DataError, match=r"CIFAR-10 under .* cannot be read .*not the published ones"):
        load_data("cifar10", root=tmp_path)


def test_cifar10_layout_is_read_through_torchvision(tmp_path: Path) -> None:
    sums = write_cifar10(tmp_path)
    original = import_torchvision().datasets.CIFAR10

    class Tiny(original):  # type: ignore[misc,valid-type]
        train_list = [[name, sums[name]] for name, _ in original.train_list]  # noqa: RUF012
        test_list = [[name, sums[name]] for name, _ in original.test_list]  # noqa: RUF012
        meta = {**original.meta, "md5": sums["batches.meta"]}  # noqa: RUF012

    train, test = read_both_parts("CIFAR-10", Tiny, CIFAR10_FILES, tmp_path, download=False)
    rows = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8).reshape(4, 3, 32, 32)
    assert train.pixels.shape == (20, 3, 32, 32)
    assert test.pixels.equal(torch.from_numpy(rows))
    assert test.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "MNIST").is_dir(), reason="the real MNIST is not beside the checkout")
def test_the_real_mnist() -> None:
    data = load_data("mnist", root=SHARED)
    assert [data.size("train"), data.size("validation"), data.size("test")] == [54_000, 6_000, 10_000]
    x = torch.cat([x for x, _ in data.batches("train", batch_size=2000)])
    assert abs(float(x.mean())) < 0.01
    assert abs(float(x.std()) - 1) < 0.01
