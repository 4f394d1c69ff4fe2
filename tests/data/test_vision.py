import hashlib
import pickle
import struct
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.data import NORMALIZATIONS, Augmentation, MemorySource, StreamingSource, data_fingerprint, load_data
from secateur.data.vision import CIFAR10_FILES, PUBLISHED_FILES, read_both_parts
from secateur.errors import DataError, UsageError
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


def write_svhn(root: Path, *, train: int = 12, test: int = 6) -> dict[str, list[str]]:
    """Write MATLAB files as published: (32, 32, 3, N), digit 0 as class 10. Return torchvision's list of them."""
    scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed")
    listed = {}
    for split, count in (("train", train), ("test", test)):
        pixels = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = np.array([[row % 10 or 10] for row in range(count)], dtype=np.uint8)
        file = root / f"{split}_32x32.mat"
        scipy_io.savemat(file, {"X": pixels, "y": labels})
        listed[split] = ["http://127.0.0.1/", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    return listed


def write_cifar100(root: Path) -> dict[str, str]:
    """Write 100 + 4 images and return the MD5 sum of each file."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, count in (("train", 100), ("test", 4)):
        rows = np.random.default_rng(count).integers(0, 256, (count, 3072), dtype=np.uint8)
        fine, coarse = list(range(count)), [row % 20 for row in range(count)]
        (folder / name).write_bytes(pickle.dumps({"data": rows, "fine_labels": fine, "coarse_labels": coarse}))
    names = {"fine_label_names": [f"fine {number}" for number in range(100)], "coarse_label_names": ["coarse"] * 20}
    (folder / "meta").write_bytes(pickle.dumps(names))
    return {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_fashion_mnist_files_are_read_as_they_are(tmp_path: Path) -> None:
    write_mnist(tmp_path, train=20, test=10)
    (tmp_path / "MNIST").rename(tmp_path / "FashionMNIST")
    data = load_data("fashion-mnist", root=tmp_path, normalize="none", validation_share=0.0)
    assert (data.sample_shape, data.num_classes, data.size("train"), data.size("test")) == ((1, 28, 28), 10, 20, 10)
    assert data.class_names[9] == "Ankle boot"
    pixels = np.random.default_rng(10).integers(0, 256, (10, 28, 28), dtype=np.uint8)
    x, _ = next(iter(data.batches("test", batch_size=10)))
    assert (x * 255).round().to(torch.uint8).equal(torch.from_numpy(pixels).unsqueeze(1))
    assert load_data("fashion-mnist", root=tmp_path).normalization == NORMALIZATIONS["fashion-mnist"]


def test_svhn_files_are_read_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_torchvision().datasets.SVHN, "split_list", write_svhn(tmp_path))
    data = load_data("svhn", root=tmp_path, normalize="none", validation_share=0.0)
    assert (data.sample_shape, data.num_classes, data.size("train"), data.size("test")) == ((3, 32, 32), 10, 12, 6)
    x, y = next(iter(data.batches("test", batch_size=6)))
    pixels = np.random.default_rng(6).integers(0, 256, (32, 32, 3, 6), dtype=np.uint8).transpose(3, 2, 0, 1)
    assert (x * 255).round().to(torch.uint8).equal(torch.from_numpy(pixels.copy()))
    assert y.tolist() == [0, 1, 2, 3, 4, 5]
    augmentation = load_data("svhn", root=tmp_path).augmentation  # type: ignore[attr-defined]
    assert augmentation == Augmentation(padding=2)


def test_svhn_without_scipy_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_torchvision().datasets.SVHN, "split_list", write_svhn(tmp_path))
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UsageError, match=r"SVHN needs scipy.*pip install scipy"):
        load_data("svhn", root=tmp_path)


def test_cifar100_files_are_read_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = write_cifar100(tmp_path)
    reader = import_torchvision().datasets.CIFAR100
    monkeypatch.setattr(reader, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(reader, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": sums["meta"]})
    data = load_data("cifar100", root=tmp_path, normalize="none", validation_share=0.0)
    assert (data.sample_shape, data.num_classes, data.size("train"), data.size("test")) == ((3, 32, 32), 100, 100, 4)
    assert data.class_names[99] == "fine 99"
    x, y = next(iter(data.batches("test", batch_size=4)))
    rows = np.random.default_rng(4).integers(0, 256, (4, 3072), dtype=np.uint8).reshape(4, 3, 32, 32)
    assert (x * 255).round().to(torch.uint8).equal(torch.from_numpy(rows))
    assert y.tolist() == [0, 1, 2, 3]
    assert load_data("cifar100", root=tmp_path).augmentation == Augmentation(padding=4, flip=True)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "title", "first"),
    [
        ("fashion-mnist", "Fashion-MNIST", "FashionMNIST/raw/train-images-idx3-ubyte"),
        ("cifar100", "CIFAR-100", "cifar-100-python/train"),
        ("svhn", "SVHN", "train_32x32.mat"),
    ],
)
def test_missing_and_other_files_are_one_sentence(tmp_path: Path, name: str, title: str, first: str) -> None:
    with pytest.raises(DataError, match=rf"{title} is not complete under .*missing {first}"):
        load_data(name, root=tmp_path)
    for file in PUBLISHED_FILES[name]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"something else")
    with pytest.raises(DataError, match=rf"{title} under .* cannot be read .*not the published ones"):
        load_data(name, root=tmp_path)


def test_images_in_memory_are_resized_where_that_is_asked_for(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = load_data("mnist", root=tmp_path, augmentation="imagenet:14", workers=0)
    assert isinstance(data, StreamingSource)
    assert data.sample_shape == (1, 14, 14)
    assert data.normalization == NORMALIZATIONS["mnist"]
    assert isinstance(load_data("mnist", root=tmp_path, augmentation="flip"), MemorySource)


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

    train, test, _ = read_both_parts("CIFAR-10", Tiny, CIFAR10_FILES, tmp_path, download=False)
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


def test_the_cache_of_an_old_torchvision_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    seen = {data_fingerprint("mnist", tmp_path)}
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    for name, count in (("training", 20), ("test", 10)):
        torch.save((torch.zeros(count, 28, 28, dtype=torch.uint8), torch.arange(count) % 10), processed / f"{name}.pt")
        seen.add(data_fingerprint("mnist", tmp_path))
    assert len(seen) == 2  # half a cache is not read
    assert load_data("mnist", root=tmp_path, validation_share=0.0).size("train") == 20
    torch.save((torch.ones(10, 28, 28, dtype=torch.uint8), torch.arange(10)), processed / "test.pt")
    seen.add(data_fingerprint("mnist", tmp_path))
    assert len(seen) == 3
    for file in (tmp_path / "MNIST" / "raw").iterdir():
        file.unlink()
    assert data_fingerprint("mnist", tmp_path) in seen


def test_memory_that_runs_out_is_not_taken_for_a_damaged_file(tmp_path: Path) -> None:
    class Large:
        def __init__(self, root: Path, *, train: bool, download: bool) -> None:
            assert not download
            np.ones((2**30, 2**20))

    with pytest.raises(MemoryError):
        read_both_parts("Large", Large, (), tmp_path, download=True)
