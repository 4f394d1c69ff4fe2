"""Train on a part of the training split."""

import torch
from torch import Tensor

from secateur.errors import UsageError
from secateur.randomness import generator_for
from secateur.training.task import Subset


def subset_indices(subset: Subset | None, size: int, *, seed: int) -> Tensor | None:
    """Return the indices that ``subset`` stands for, or ``None`` for all samples.

    Args:
        subset: a number of samples, a share in (0, 1], or indices. A number or share is drawn without
            repetition.
        size: samples in the split.
        seed: of the draw.

    Returns:
        int64 indices, (samples,), in ascending order where they are drawn.

    Raises:
        UsageError: more samples than there are, a share outside (0, 1], or an index that does not exist.
    """
    if subset is None:
        return None
    if isinstance(subset, float):
        if not 0 < subset <= 1:
            raise UsageError(f"subset is {subset}, but a share must be in (0, 1]")
        return _draw(max(1, round(subset * size)), size, seed)
    if isinstance(subset, int):
        if not 1 <= subset <= size:
            raise UsageError(f"subset is {subset} samples, but the training split has {size}")
        return _draw(subset, size, seed)
    indices = subset.cpu() if isinstance(subset, Tensor) else torch.tensor(list(subset))
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool or len(indices) == 0:
        raise UsageError("subset must be a number of samples, a share in (0, 1], or a list of indices")
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= size:
        raise UsageError(f"subset has index {low if low < 0 else high}, but the training split has {size} samples")
    return indices.long()


def _draw(count: int, size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=generator_for(seed, "subset"))[:count].sort().values
