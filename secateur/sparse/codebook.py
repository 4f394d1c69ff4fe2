"""Shared values: each weight of a layer is one of k centroids (Han et al. 2016, arXiv:1510.00149, §3).

Clusters are found by k-means from linearly spaced centroids. Training them further needs only what is here: the
gradient of a centroid is the sum of the gradients of its weights.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import ArtifactError, UsageError

WEIGHTS_PER_CENTROID = 8
"""A centroid for fewer weights would take half of the bytes that it saves, or more."""
WIDEST = 8  # bits of a code
ITERATIONS = 300


@dataclass(frozen=True, eq=False)
class Codebook:
    """Which centroid each element of a weight is.

    Attributes:
        centroids: the shared values, float32, shape (k,), k at most 255.
        codes: uint8, of the weight's shape: 0 for a pruned element, c for centroid c − 1.

    Raises:
        ArtifactError: a centroid is not finite, there are too many, or a code has no centroid.
    """

    centroids: Tensor
    codes: Tensor

    def __post_init__(self) -> None:
        count = self.centroids.numel()
        if self.centroids.dim() != 1 or self.centroids.dtype != torch.float32 or count >= 2**WIDEST:
            raise ArtifactError(
                f"a codebook holds up to {2**WIDEST - 1} float32 centroids in one dimension, not {count:,} of "
                f"{self.centroids.dtype} in the shape {tuple(self.centroids.shape)}"
            )
        if not bool(torch.isfinite(self.centroids).all()):
            raise ArtifactError("a centroid of the codebook is infinite or NaN; look for where training diverged")
        if self.codes.dtype != torch.uint8 or (self.codes.numel() and int(self.codes.max()) > count):
            raise ArtifactError(f"codes are uint8 numbers from 0 to {count}, the number of centroids")

    @property
    def bits(self) -> int:
        """Width of a code: the fewest bits that hold k."""
        return max(1, self.centroids.numel().bit_length())

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight that this stands for, in the shape of ``codes``."""
        zero = self.centroids.new_zeros(1)
        return torch.cat([zero, self.centroids]).to(dtype)[self.codes.int()]

    def gradients(self, weight_gradient: Tensor) -> Tensor:
        """Return ∂loss/∂centroid, shape (k,): the sum over the weights that share it.

        Args:
            weight_gradient: ∂loss/∂weight, of the shape of ``codes``.
        """
        sums = torch.zeros(self.centroids.numel() + 1, dtype=torch.float64, device=weight_gradient.device)
        sums.index_add_(0, self.codes.reshape(-1).int().to(sums.device), weight_gradient.reshape(-1).double())
        return sums[1:].to(self.centroids)

    def with_centroids(self, centroids: Tensor) -> "Codebook":
        """Return the same assignment with other shared values, such as after a step of training.

        Raises:
            ArtifactError: their number differs, or one is not finite.
        """
        if centroids.shape != self.centroids.shape:
            raise ArtifactError(
                f"the codebook has {self.centroids.numel()} centroids, but {tuple(centroids.shape)} were given"
            )
        return Codebook(centroids.detach().to(torch.float32), self.codes)


def cluster(weight: Tensor, *, bits: int) -> Codebook:
    """Return the codebook of a weight whose zeros are pruned: k-means on its other elements, the same on every run.

    The centroids start evenly spaced over the ranges of the negative and of the positive survivors (the paper: over the
    range of all weights, where those near zero would stay empty). Centroids without weights go. A weight with no more
    different values than centroids keeps them exactly.

    Args:
        weight: any shape, any floating type; ±0 is pruned.
        bits: width of a code, 1 to 8, so at most 2^bits − 1 centroids; layers of fewer than
            :data:`WEIGHTS_PER_CENTROID` survivors per centroid get fewer.

    Raises:
        ArtifactError: the weight is infinite or NaN somewhere.
        UsageError: ``bits`` is out of range.
    """
    if not 1 <= bits <= WIDEST:
        raise UsageError(f"the codebook has {bits} bits; give 1 to {WIDEST}")
    flat = weight.detach().to("cpu", torch.float32).contiguous().reshape(-1).numpy()
    places = np.flatnonzero(flat != 0)
    values = flat[places]
    if not np.isfinite(values).all():
        raise ArtifactError("a weight is infinite or NaN, or too large for float32, and has no centroid; keep fp32")
    most = min(2**bits - 1, max(1, values.size // WEIGHTS_PER_CENTROID))
    centroids = _centroids(np.sort(values), most) if values.size else np.empty(0, np.float32)
    codes = np.zeros(flat.size, np.uint8)
    codes[places] = np.searchsorted(_edges(centroids), values, side="left") + 1
    return Codebook(torch.from_numpy(centroids), torch.from_numpy(codes).reshape(weight.shape))


def _edges(centroids: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return where the nearest of sorted centroids changes."""
    wide = centroids.astype(np.float64)
    middle: NDArray[np.float64] = (wide[:-1] + wide[1:]) / 2
    return middle


def _centroids(values: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Return sorted centroids of sorted ``values``, each the nearest of at least one."""
    different: NDArray[np.float32] = values[np.concatenate([[True], values[1:] != values[:-1]])]
    if different.size <= most:
        return different
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    centroids = _linear(values, most)
    before = np.empty(0, np.int64)
    for _ in range(ITERATIONS):
        # In one dimension a cluster is a run of sorted values, so its mean is a difference of running sums.
        bounds = _bounds(values, centroids)
        if np.array_equal(bounds, before):
            break
        before, counts = bounds, np.diff(bounds)
        means = np.diff(sums[bounds]) / np.maximum(counts, 1)
        centroids = np.sort(np.where(counts > 0, means, centroids))
    rounded = np.unique(centroids.astype(np.float32))
    used: NDArray[np.float32] = rounded[np.diff(_bounds(values, rounded)) > 0]
    return used


def _bounds(values: NDArray[np.float32], centroids: NDArray[np.floating]) -> NDArray[np.int64]:
    wide = centroids.astype(np.float64)
    inner = np.searchsorted(values, (wide[:-1] + wide[1:]) / 2, side="right")
    return np.concatenate([[0], inner, [values.size]]).astype(np.int64)


def _linear(values: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Return evenly spaced points over the range of the negative and the range of the positive of sorted values."""
    first_positive = int(np.searchsorted(values, 0))
    ranges = [
        (float(part[0]), float(part[-1])) for part in (values[:first_positive], values[first_positive:]) if part.size
    ]
    lengths = [high - low for low, high in ranges]
    steps = np.linspace(0, sum(lengths), count) if count > 1 else np.array([sum(lengths) / 2])
    if len(ranges) == 1:
        return ranges[0][0] + steps
    return np.where(steps <= lengths[0], ranges[0][0] + steps, ranges[1][0] + (steps - lengths[0]))
