"""Small published data sets, read by torchvision's own readers from files that are already there, or fetched."""

import pickle
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.data.augment import Augmentation
from secateur.data.augmentation_sets import AUGMENTATIONS, tensor_source
from secateur.data.downloads import fetch
from secateur.data.memory import LabelledImages, MemorySource
from secateur.data.normalization import NORMALIZATIONS
from secateur.data.options import LoadOptions
from secateur.data.streaming import StreamingSource
from secateur.errors import DataError, UsageError
from secateur.torchvision_shim import import_torchvision

IDX_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
MNIST_FILES = tuple(f"MNIST/raw/{name}" for name in IDX_FILES)
FASHION_MNIST_FILES = tuple(f"FashionMNIST/raw/{name}" for name in IDX_FILES)
CIFAR10_FILES = tuple(
    f"cifar-10-batches-py/{name}" for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta")
)
CIFAR100_FILES = tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta"))
SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")
DIGITS = tuple(map(str, range(10)))

# What torchvision's readers raise on files that are missing, cut short or something else altogether.
_READ_FAILURES = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    EOFError,
    zlib.error,
    pickle.UnpicklingError,
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A data set that torchvision reads.

    Attributes:
        name: how a user names it; also its key in :data:`NORMALIZATIONS`.
        title: what messages call it.
        reader: the name of torchvision's class.
        files: what the reader expects under its root.
        class_names: in the order of the labels; None where the files say them.
        augmentation: what its training images are usually put through.
    """

    name: str
    title: str
    reader: str
    files: tuple[str, ...]
    class_names: tuple[str, ...] | None
    augmentation: Augmentation


MNIST = Published(
    name="mnist",
    title="MNIST",
    reader="MNIST",
    files=MNIST_FILES,
    class_names=DIGITS,
    augmentation=AUGMENTATIONS["crop"],  # digits are not mirrored
)
# Crop and flip as Zhong et al. 2020 (arXiv:1708.04896, §4) train on Fashion-MNIST.
FASHION_MNIST = Published(
    name="fashion-mnist",
    title="Fashion-MNIST",
    reader="FashionMNIST",
    files=FASHION_MNIST_FILES,
    class_names=None,
    augmentation=AUGMENTATIONS["cifar"],
)
# Crop and flip as He et al. 2016 (arXiv:1512.03385, §4.2) train on CIFAR.
CIFAR10 = Published(
    name="cifar10",
    title="CIFAR-10",
    reader="CIFAR10",
    files=CIFAR10_FILES,
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    augmentation=AUGMENTATIONS["cifar"],
)
CIFAR100 = Published(
    name="cifar100",
    title="CIFAR-100",
    reader="CIFAR100",
    files=CIFAR100_FILES,
    class_names=None,
    augmentation=AUGMENTATIONS["cifar"],
)
SVHN = Published(
    name="svhn",
    title="SVHN",
    reader="SVHN",
    files=SVHN_FILES,
    class_names=DIGITS,
    augmentation=AUGMENTATIONS["crop"],
)


def published_source(published: Published, options: LoadOptions) -> MemorySource | StreamingSource:
    """Return a data set that torchvision reads, fetched first where it is missing and ``options.download`` allows.

    * MNIST (LeCun, Cortes, Burges): 60,000 + 10,000 images of 1×28×28.
    * Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): the same numbers, of clothes.
    * CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 images of 3×32×32. The files are pickles; torchvision
      compares their MD5 sums before it opens them.
    * SVHN (Netzer et al. 2011), cropped digits: 73,257 + 26,032 images of 3×32×32; its extra images are not used.

    Raises:
        DataError: the files are not under ``options.root``, are not the published ones, or cannot be fetched.
        UsageError: torchvision, or scipy for SVHN, is not installed.
    """
    reader = getattr(import_torchvision().datasets, published.reader)
    train, test, found_names = read_both_parts(
        published.title, reader, published.files, options.root, download=options.download
    )
    return tensor_source(
        {"train": train, "test": test},
        augmentation=published.augmentation,
        options=options,
        name=published.name,
        class_names=published.class_names or found_names,
        normalization=options.normalization or NORMALIZATIONS[published.name],
    )


_ALL = (MNIST, FASHION_MNIST, CIFAR10, CIFAR100, SVHN)
PUBLISHED: dict[str, Callable[[LoadOptions], MemorySource | StreamingSource]] = {
    published.name: partial(published_source, published) for published in _ALL
}
PUBLISHED_FILES: dict[str, tuple[str, ...]] = {published.name: published.files for published in _ALL}
CACHES: dict[str, tuple[str, ...]] = {
    published.name: tuple(f"{folder}/processed/{name}.pt" for name in ("training", "test"))
    for published, folder in ((MNIST, "MNIST"), (FASHION_MNIST, "FashionMNIST"))
}
"""What old versions of torchvision made of the files, and the readers of new ones still prefer to them."""


def read_files(name: str, root: Path) -> list[Path]:
    """Return the files that the data set ``name`` is read from: a complete cache, or else those published."""
    cache = [root / file for file in CACHES.get(name, ())]
    return cache if cache and all(file.is_file() for file in cache) else [root / file for file in PUBLISHED_FILES[name]]


def read_both_parts(
    title: str, reader: Callable[..., Any], files: Sequence[str], root: Path, *, download: bool
) -> tuple[LabelledImages, LabelledImages, tuple[str, ...] | None]:
    """Return (train, test, class names where the reader knows them).

    What is there is read; only where that fails is anything fetched.

    Args:
        title: what messages call the data set.
        reader: a torchvision data set class with ``data``, and ``targets`` or ``labels``.
        files: what it expects under ``root``.
        root: folder given to the reader.
        download: fetch the data set where it is missing or damaged.

    Raises:
        DataError: files are missing, are not what the reader expects, or cannot be fetched.
        UsageError: a package that the reader needs is not installed.
    """
    try:
        return _read(reader, root)
    except _READ_FAILURES as error:
        missing = [name for name in files if not (Path(root) / name).is_file()]
        if missing and not download:
            raise DataError(
                f"{title} is not complete under {root}: missing {', '.join(missing)}; "
                f"give the folder that holds it as root, or have it fetched with download=True (--download)"
            ) from error
        if not download:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{title} under {root} cannot be read ({reason}); the files are truncated or not the published "
                "ones, so fetch them again"
            ) from error
    fetch(title, lambda folder: _read(reader, folder, download=True), files, Path(root))
    return _read(reader, root)


def _read(
    reader: Callable[..., Any], root: Path, *, download: bool = False
) -> tuple[LabelledImages, LabelledImages, tuple[str, ...] | None]:
    if hasattr(reader, "split_list"):  # SVHN names its splits
        choices: list[dict[str, Any]] = [{"split": "train"}, {"split": "test"}]
    else:
        choices = [{"train": True}, {"train": False}]
    try:
        parts = [reader(root, **choice, download=download) for choice in choices]
    except ImportError as error:
        raise UsageError(
            f"{getattr(reader, '__name__', 'this reader')} needs {error.name}, which is not installed; "
            f"install it with: pip install {error.name}"
        ) from error
    names = getattr(parts[0], "classes", None)
    return _as_tensors(parts[0]), _as_tensors(parts[1]), None if names is None else tuple(map(str, names))


def _as_tensors(dataset: Any) -> LabelledImages:
    """Turn grey images (N, H, W), or colour images as arrays, into (N, C, H, W)."""
    pixels: Tensor = torch.as_tensor(dataset.data)
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(1)
    elif pixels.shape[-1] == 3 and pixels.shape[1] != 3:
        pixels = pixels.permute(0, 3, 1, 2)
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    return LabelledImages(pixels.contiguous(), torch.as_tensor(labels, dtype=torch.int64))
