"""Labels: checked once when a data set is loaded, so that nothing later meets a class that does not exist."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.data.source import Split
from secateur.data.splits import stratified_split
from secateur.errors import DataError
from secateur.wording import counted


@dataclass(frozen=True)
class Part:
    """Where a split's samples are: in which stored set, and at which of its rows (int64, rising)."""

    stored: Split
    rows: Tensor


def checked_labels(labels: Tensor, samples: int, split: Split, name: str) -> Tensor:
    """Return ``labels`` as int64 of shape (N,).

    Raises:
        DataError: there are none, they are not whole numbers, their count is not ``samples``, or one is
            negative.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dim() != 1:
        raise DataError(
            f"the {split} labels of {name} are {labels.dtype} of shape {tuple(labels.shape)}; "
            f"give one whole number per image"
        )
    if len(labels) != samples:
        raise DataError(
            f"the {split} split of {name} has {samples} images but {len(labels)} labels; give one per image"
        )
    if samples == 0:
        raise DataError(f"the {split} split of {name} is empty; it needs at least one sample")
    labels = labels.to(torch.int64)
    if int(labels.min()) < 0:
        row = int((labels < 0).nonzero()[0])
        raise DataError(
            f"{split} label {row} of {name} is {int(labels[row])}; labels are 0 or more, so drop unlabelled samples"
        )
    return labels


def class_names_for(labels: Mapping[Split, Tensor], given: Sequence[str] | None, name: str) -> tuple[str, ...]:
    """Return the class names: those given, or the numbers 0 … largest training label.

    Raises:
        DataError: a label has no class, or the training data knows a single class only.
    """
    names = tuple(given) if given is not None else tuple(map(str, range(int(labels["train"].max()) + 1)))
    if len(names) < 2:
        raise DataError(f"{name} has {counted(len(names), 'class', 'classes')}; classification needs at least 2")
    for split, values in labels.items():
        if int(values.max()) >= len(names):
            row = int((values >= len(names)).nonzero()[0])
            origin = "named" if given is not None else "found in the training labels"
            raise DataError(
                f"{split} label {row} of {name} is {int(values[row])} but {len(names)} classes are {origin}; "
                f"labels must be 0 … {len(names) - 1}"
            )
    return names


def partition(labels: Mapping[Split, Tensor], validation_share: float, split_seed: int) -> dict[Split, Part]:
    """Return where each split's samples are; validation is taken off train unless it came with the data.

    Raises:
        UsageError: ``validation_share`` is outside [0, 1).
    """
    parts: dict[Split, Part] = {split: Part(split, torch.arange(len(values))) for split, values in labels.items()}
    if "validation" not in parts:
        rest, taken = stratified_split(labels["train"], validation_share, split_seed, "validation")
        parts["train"], parts["validation"] = Part("train", rest), Part("train", taken)
    return parts
