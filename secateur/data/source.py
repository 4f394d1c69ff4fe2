"""What the rest of Secateur sees of a data set: three splits that yield batches, the same whenever asked."""

from collections.abc import Iterator
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from secateur.data.normalization import Normalization
from secateur.errors import DataError, UsageError
from secateur.names import unknown_name

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@runtime_checkable
class DataSource(Protocol):
    """A labelled image data set with train, validation and test kept apart.

    Labels are one class per image, or one per pixel; a source of the second kind says so by an attribute ``task =
    "segmentation"``, which the protocol does not ask for.

    Attributes:
        name: how the user named it, such as ``"cifar10"``.
        num_classes: labels are 0 … num_classes − 1, and 255 for pixels that count nowhere.
        class_names: one per class.
        sample_shape: (channels, height, width) of one image.
        normalization: what was applied to the images, one value per channel.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    sample_shape: tuple[int, int, int]
    normalization: Normalization

    def size(self, split: Split) -> int:
        """Return how many samples ``split`` has."""
        ...

    def batches(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int | None = None,
        augment: bool = False,
        device: torch.device | str = "cpu",
        start: int = 0,
        limit: int | None = None,
        indices: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, labels) on ``device``: float32 (N, C, H, W) normalised, contiguous; int64 (N,) or (N, H, W).

        The same arguments give the same batches. Batch k does not depend on the batches before it, so
        ``start=k`` continues exactly as an unbroken pass would have.

        Args:
            split: which part of the data.
            batch_size: samples per batch over all ranks together; the last batch may be smaller.
            seed: None for the stored order, otherwise the seed of the shuffle and of the augmentation. Give
                each epoch its own.
            augment: random crop and flip per sample, as the data set calls for; needs ``seed``.
            device: where the batches are wanted.
            start: how many batches to skip.
            limit: at most this many batches.
            indices: restrict the split to these sample positions (int64, repeats allowed).
            rank: number of this process.
            world_size: number of processes. Each takes its share of each batch. A last batch with fewer
                samples than processes is left out when shuffled, and otherwise goes to the first of them.

        Raises:
            DataError: the split is empty, or a sample cannot be read.
            UsageError: an argument is out of range, or ``augment`` comes without ``seed``.
        """
        ...


def require_split(split: str) -> Split:
    """Return ``split`` if it names one.

    Raises:
        UsageError: it does not.
    """
    for known in SPLITS:
        if split == known:
            return known
    raise UsageError(unknown_name("split", split, SPLITS))


def require_samples(size: int, split: str, name: str) -> None:
    """Refuse to iterate over nothing.

    Raises:
        DataError: ``size`` is 0.
    """
    if size == 0:
        fix = "; load the data with a validation_share above 0" if split == "validation" else ""
        raise DataError(f"the {split} split of {name} is empty{fix}")
