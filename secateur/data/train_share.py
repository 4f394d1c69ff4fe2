"""A data set of which only a share is trained on; validation and test stay whole."""

from collections.abc import Iterator

import torch
from torch import Tensor

from secateur.data.source import DataSource, Split
from secateur.data.splits import stratified_split
from secateur.errors import UsageError
from secateur.randomness import generator_for


class TrainShare:
    """A :class:`DataSource` whose train split is a fixed random share of another's, each class in proportion.

    For trials that must be short, and for comparisons under a fixed amount of training. A source that does not say
    the ``labels`` of a split, as a user's own may not, gives a share of all samples whatever their classes.
    """

    def __init__(self, source: DataSource, share: float, *, seed: int = 0) -> None:
        """Choose round(share × N) samples by ``seed``: at least 2, and more where a class would have none.

        Raises:
            UsageError: ``share`` is not in (0, 1].
        """
        check_train_share(share)
        self._source = source
        self._rows = _chosen(source, share, seed)
        self.name = source.name if share == 1 else f"{source.name}, {share:g} of its training samples"
        self.num_classes = source.num_classes
        self.class_names = source.class_names
        self.sample_shape = source.sample_shape
        self.normalization = source.normalization
        # What some sources say beyond the protocol.
        self.augmentation = getattr(source, "augmentation", None)
        self.task = getattr(source, "task", "classification")
        self.peak = getattr(source, "peak", 255.0)

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


def check_train_share(share: float) -> None:
    """Refuse a share that cannot be trained on.

    Raises:
        UsageError: ``share`` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise UsageError(f"the share of the training data is {share:g}; give a share above 0 and up to 1")


def _chosen(source: DataSource, share: float, seed: int) -> Tensor:
    """Return positions in the train split, in rising order."""
    size = source.size("train")
    share = min(1.0, max(share, 2 / max(size, 1)))
    labels = getattr(source, "labels", None)
    if callable(labels):
        # The rest, not what is taken out, because the split leaves the last sample of a class in the rest.
        return stratified_split(labels("train"), 1 - share, seed, "train share")[0]
    order = torch.randperm(size, generator=generator_for(seed, "train share"))
    return order[: round(share * size)].sort().values
