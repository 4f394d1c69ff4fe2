"""MNIST and CIFAR-10, read by torchvision's own readers from files that are already there."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.data.augment import Augmentation
from secateur.data.memory import LabelledImages, MemorySource
from secateur.data.normalization import NORMALIZATIONS
from secateur.data.options import LoadOptions
from secateur.errors import DataError
from secateur.torchvision_shim import import_torchvision

MNIST_FILES = tuple(
    f"MNIST/raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
CIFAR10_FILES = tuple(
    f"cifar-10-batches-py/{name}" for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta")
)
# What torchvision's readers raise on files that are missing, cut short or something else altogether.
_READ_FAILURES = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AssertionError,
    EOFError,
    pickle.UnpicklingError,
)


def mnist_source(options: LoadOptions) -> MemorySource:
    """Return MNIST (LeCun, Cortes, Burges): 60,000 + 10,000 images of 1×28×28.

    Augmentation is a crop after 2 pixels of padding; digits are not mirrored.

    Raises:
        DataError: the files are not under ``options.root`` or cannot be read.
        UsageError: torchvision is not installed.
    """
    datasets = import_torchvision().datasets
    train, test = read_both_parts("MNIST", datasets.MNIST, MNIST_FILES, options.root, download=options.download)
    return MemorySource(
        name="mnist",
        train=train,
        test=test,
        class_names=[str(digit) for digit in range(10)],
        normalization=options.normalization or NORMALIZATIONS["mnist"],
        augmentation=Augmentation(padding=2),
        validation_share=options.validation_share,
        split_seed=options.split_seed,
    )


def cifar10_source(options: LoadOptions) -> MemorySource:
    """Return CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 images of 3×32×32.

    The files are pickles; torchvision's reader compares their MD5 sums before it opens them. Augmentation is
    a crop after 4 pixels of padding and a flip (He et al. 2016, §4.2).

    Raises:
        DataError: the files are not under ``options.root``, or are not the published ones.
        UsageError: torchvision is not installed.
    """
    datasets = import_torchvision().datasets
    train, test = read_both_parts("CIFAR-10", datasets.CIFAR10, CIFAR10_FILES, options.root, download=options.download)
    return MemorySource(
        name="cifar10",
        train=train,
        test=test,
        class_names=[
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ],
        normalization=options.normalization or NORMALIZATIONS["cifar10"],
        augmentation=Augmentation(padding=4, flip=True),
        validation_share=options.validation_share,
        split_seed=options.split_seed,
    )


def read_both_parts(
    title: str, reader: Callable[..., Any], files: Sequence[str], root: Path, *, download: bool
) -> tuple[LabelledImages, LabelledImages]:
    """Return (train, test) as tensors.

    Args:
        title: what messages call the data set.
        reader: a torchvision data set class with ``data`` and ``targets``.
        files: what it expects under ``root``, for the message.
        root: folder given to the reader.
        download: let the reader fetch what is missing.

    Raises:
        DataError: files are missing, or are not what the reader expects.
    """
    try:
        parts = [reader(root, train=train, download=download) for train in (True, False)]
        return _as_tensors(parts[0]), _as_tensors(parts[1])
    except _READ_FAILURES as error:
        missing = [name for name in files if not (Path(root) / name).is_file()]
        if missing and not download:
            raise DataError(
                f"{title} is not complete under {root}: missing {', '.join(missing)}; "
                f"give the folder that holds it as root, or pass download=True"
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{title} under {root} cannot be read ({reason}); the files are truncated or not the published "
            "ones, "
            f"so fetch them again"
        ) from error


def _as_tensors(dataset: Any) -> LabelledImages:
    """Turn grey images (N, H, W), or colour images (N, H, W, 3) as arrays, into (N, C, H, W)."""
    pixels: Tensor = torch.as_tensor(dataset.data)
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return LabelledImages(pixels, torch.as_tensor(dataset.targets, dtype=torch.int64))
