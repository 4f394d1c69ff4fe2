"""Parts of CIFAR-10 as a user's own data, for weights that have seen all of CIFAR-10's training images.

A validation split off the training images would tell nothing about such weights. So a part of the test images, drawn
once by seed 0 with the classes in proportion, is what decides, and the others are what is reported:

    secateur sensitivity --model resnet56-b --weights resnet56.safetensors --data benchmarks/cifar10.py:lossless_parts

`lossless_parts` has the original pixels (5,085 images to train on, 400 to decide by, 617 to report), `jpeg_parts` the
JPEG copy (50,000, 5,000 and 5,000). Both need `../shared/data` (see its README).
"""

from pathlib import Path

import torch
from torch import Tensor

from secateur.data import Augmentation, DataSource, Split, load_data
from secateur.data.splits import stratified_split

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
SEED = 0
CIFAR10 = "cifar10"
IMAGENET = "imagenet"


def lossless_parts() -> dict[str, object]:
    """Return the original pixels, normalised as for the published ResNet-56 with projection shortcuts."""
    return _parts("cifar10-lossless", deciding=400, normalization=CIFAR10)


def lossless_parts_of_resnet20() -> dict[str, object]:
    """Return the original pixels, normalised as for the published ResNet-20 with shortcuts without parameters."""
    return _parts("cifar10-lossless", deciding=400, normalization=IMAGENET)


def jpeg_parts() -> dict[str, object]:
    """Return the JPEG copy, normalised as for the ResNet-20 that was fine-tuned on it."""
    return _parts("cifar10-jpeg", deciding=5_000, normalization=IMAGENET)


def _parts(folder: str, *, deciding: int, normalization: str) -> dict[str, object]:
    """Return all training images, ``deciding`` test images as validation, and the other test images as test."""
    source = load_data(f"parquet:{SHARED / folder}", validation_share=0.0, normalize="none")
    pixels, labels = _stored(source, "test")
    reported, chosen = stratified_split(labels, deciding / len(labels), SEED, "halves of the test images")
    return {
        "train": _stored(source, "train"),
        "validation": (pixels[chosen], labels[chosen]),
        "test": (pixels[reported], labels[reported]),
        "class_names": source.class_names,
        "normalization": normalization,
        "augmentation": Augmentation(padding=4, flip=True),
    }


def _stored(source: DataSource, split: Split) -> tuple[Tensor, Tensor]:
    """Return all images of a split as they are stored, uint8 (N, 3, 32, 32), and their classes, int64 (N,)."""
    images, labels = next(source.batches(split, batch_size=source.size(split)))
    return (255 * images).round().to(torch.uint8), labels
