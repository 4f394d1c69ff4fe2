"""A data set of which only a share is trained on; validation and test stay whole."""

from collections.abc import Iterator

import torch
from torch import Tensor

from secateur.data.source import DataSource, Split
from secateur.errors import UsageError
from secateur.randomness import generator_for


class TrainShare:
    """A :class:`DataSource` whose train split is a fixed random share of another's.

    For trials that must be short, and for comparisons under a fixed amount of training.
    """

    def __init__(self, source: DataSource, share: float, *, seed: int = 0) -> None:
        """Choose round(share × N) samples, at least 2, by ``seed``.

        Raises:
            UsageError: ``share`` is not in (0, 1].
        """
        if not 0 < share <= 1:
            raise UsageError(f"the share of the training data is {share:g}; give a share above 0 and up to 1")
        self._source = source
        size = source.size("train")
        order = torch.randperm(size, generator=generator_for(seed, "train share"))
        self._rows = order[: max(min(2, size), round(share * size))].sort().values
        self.name = source.name if share == 1 else f"{source.name}, {share:g} of its training samples"
        self.num_classes = source.num_classes
        self.class_names = source.class_names
        self.sample_shape = source.sample_shape
        self.normalization = source.normalization

    def size(self, split: Split) -> int:
        """Return how many samples ``split`` has."""
        return len(self._rows) if split == "train" else self._source.size(split)

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
        """Yield (images, labels) as :meth:`DataSource.batches` describes."""
        if split == "train":
            indices = self._rows if indices is None else self._rows[indices]
        return self._source.batches(
            split,
            batch_size=batch_size,
            seed=seed,
            augment=augment,
            device=device,
            start=start,
            limit=limit,
            indices=indices,
            rank=rank,
            world_size=world_size,
        )
