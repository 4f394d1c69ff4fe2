"""A fixed handful of training images, for calibration and for scores that need data."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.data.source import DataSource
from secateur.errors import UsageError
from secateur.randomness import generator_for


@dataclass(frozen=True)
class CalibrationSubset:
    """Which training samples were picked; pass ``indices`` to :meth:`DataSource.batches`.

    Attributes:
        data: name of the data set.
        seed: what they were picked by.
        indices: positions in the train split, int64, rising, shape (n,).
    """

    data: str
    seed: int
    indices: Tensor

    def as_record(self) -> dict[str, object]:
        """Return what a run writes down: how to pick the same samples again, and what they hash to."""
        digest = hashlib.blake2b(self.indices.numpy().astype("<i8").tobytes(), digest_size=8).hexdigest()
        return {
            "data": self.data,
            "split": "train",
            "seed": self.seed,
            "samples": len(self.indices),
            "fingerprint": digest,
        }


def calibration_subset(source: DataSource, samples: int, *, seed: int) -> CalibrationSubset:
    """Pick ``samples`` different training samples of ``source`` by ``seed``; never validation or test ones.

    Raises:
        UsageError: fewer than 1 or more than the train split holds are asked for.
    """
    available = source.size("train")
    if not 1 <= samples <= available:
        raise UsageError(f"{samples} calibration samples asked for, but {source.name} has {available} to train on")
    order = torch.randperm(available, generator=generator_for(seed, "calibration"))
    return CalibrationSubset(data=source.name, seed=seed, indices=order[:samples].sort().values)
