"""What all sources do alike whose splits are parts of stored samples."""

from collections.abc import Mapping

from torch import Tensor

from secateur.data.labels import Part
from secateur.data.source import Split, require_samples, require_split
from secateur.errors import UsageError


class Partitioned:
    """A source that knows where each split's samples are."""

    name: str
    _parts: Mapping[Split, Part]

    def size(self, split: Split) -> int:
        """Return how many samples ``split`` has."""
        return len(self._parts[require_split(split)].rows)

    def _asked_for(self, split: Split, *, seed: int | None, augment: bool) -> Part:
        """Return where the samples of a split are that is about to be read.

        Raises:
            DataError: it is empty.
            UsageError: there is no such split, or nothing to draw augmentations from.
        """
        part = self._parts[require_split(split)]
        require_samples(len(part.rows), split, self.name)
        if augment and seed is None:
            raise UsageError("augment=True needs a seed to draw from; pass seed=derive_seed(...) of this epoch")
        return part


class Labelled(Partitioned):
    """One whose samples have one class each."""

    _labels: Mapping[Split, Tensor]  # of what is stored

    def labels(self, split: Split) -> Tensor:
        """Return the class of each sample of ``split``, int64, shape (N,), in stored order."""
        part = self._parts[require_split(split)]
        return self._labels[part.stored][part.rows]
