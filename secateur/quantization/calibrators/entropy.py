"""The threshold whose integers keep most of the distribution (Kullback–Leibler divergence).

Source: NVIDIA's pytorch-quantization, ``histogram.py`` ("entropy"), the reference of Wu et al. 2020, arXiv:2004.09602,
§5.1. P is the histogram up to a threshold with everything beyond added to its last bin; Q is the histogram up to the
threshold, *without* what is beyond, with the average of each level in place of its counts.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.quantization.calibrators.calibrated import Calibrated, clipped, seen, whole
from secateur.quantization.calibrators.squared_error import squared_error
from secateur.quantization.histogram import RangeHistogram
from secateur.quantization.mapping import Spec

FIRST_BIN = 128
_NEAR = 1e-9  # divergences that are as near to the least are computed again bin by bin, so that ties fall as written
_MOST_CLIPPED = 0.02  # of the values; sound thresholds clip less than 0.003 of them
_MOST_ERROR = 30.0  # squared error, in that of keeping all values, for values within 0..1
_SMOOTHING = 1e-4

Counts: TypeAlias = NDArray[np.int64]
Divergences: TypeAlias = NDArray[np.float64]
Search: TypeAlias = Callable[[Counts, int], float | None]


def entropy(histogram: RangeHistogram, spec: Spec) -> Calibrated:
    """Return NVIDIA's range: the zero bin takes its neighbour's count, and the last of equal candidates is taken."""
    return _chosen(histogram, spec, _nvidia_edge)


def entropy_tensorrt2017(histogram: RangeHistogram, spec: Spec) -> Calibrated:
    """Return the range of the first published form (S. Migacz, GTC 2017, "8-bit inference with TensorRT").

    It keeps the zero bin as it is, always clips the last bin, takes the first of equal candidates, and puts the
    threshold into the middle of the bin after the last one that is kept.
    """
    return _chosen(histogram, spec, _tensorrt2017_edge)


def entropy_smoothed(histogram: RangeHistogram, spec: Spec) -> Calibrated:
    """Return the range of :func:`entropy` with the smoothing of MXNet: empty bins of P and Q hold 0.0001 of a count.

    What they get is taken evenly from the others, so that a threshold behind an empty bin is not ruled out.
    """
    return _chosen(histogram, spec, _smoothed_edge)


def divergences(counts: Counts, levels: int) -> Divergences:
    """Return the divergence of Q from P, in nats, for thresholds at edge 128, 129, … up to the last edge.

    From cumulative sums: a level's part of the divergence needs its count and how many of its bins are not empty.

    Args:
        counts: of |x|, shape (bins,); at least 128 bins. The zero bin is taken as it is.
        levels: that the kept bins are divided into.
    """
    edges = np.arange(FIRST_BIN, len(counts) + 1)
    full = np.concatenate([[0], np.cumsum(counts)])
    filled = np.concatenate([[0], np.cumsum(counts > 0)])
    products = np.concatenate([[0.0], np.cumsum(_times_log(counts.astype(np.float64)))])
    total = float(full[-1])
    # Level l holds the bins b with floor(b · levels / edge) = l.
    bounds = -(-np.arange(levels + 1)[None, :] * edges[:, None] // levels)
    kept, nonempty = np.diff(full[bounds], axis=1), np.diff(filled[bounds], axis=1)
    logs = np.log(np.maximum(kept, 1) / np.maximum(nonempty, 1))
    outliers = full[-1] - full[edges]
    last = counts[edges - 1]
    log_of_last = logs[np.arange(len(edges)), (edges - 1) * levels // edges]
    of_p = products[edges - 1] + _times_log((last + outliers).astype(np.float64))
    of_q = (kept * logs).sum(axis=1) + outliers * log_of_last
    with np.errstate(divide="ignore"):
        found: Divergences = (of_p - of_q) / total - math.log(total) + np.log(full[edges].astype(np.float64))
    found[((last == 0) & (outliers > 0)) | (full[edges] == 0)] = math.inf
    return found


def divergence(counts: Counts, edge: int, levels: int, *, smoothing: float = 0.0) -> float:
    """Return the divergence at one threshold, in nats, bin by bin as the definition says.

    Args:
        counts: of |x|, shape (bins,).
        edge: how many bins are kept.
        levels: that they are divided into.
        smoothing: counts that each empty bin of P and of Q gets from the others.
    """
    kept = counts[:edge].astype(np.float64)
    level = np.arange(edge) * levels // edge
    filled = kept > 0
    number = np.bincount(level, filled, minlength=levels)
    average = np.bincount(level, kept, minlength=levels) / np.maximum(number, 1)
    q = np.where(filled, average[level], 0.0)
    p = kept.copy()
    p[-1] += counts[edge:].sum()
    if smoothing:
        p, q = _smoothed(p, smoothing), _smoothed(q, smoothing)
    if p.sum() <= 0 or q.sum() <= 0 or p.min() < 0 or q.min() < 0:
        return math.inf
    p, q = p / p.sum(), q / q.sum()
    some = p > 0
    if not q[some].all():
        return math.inf
    return float((p[some] * np.log(p[some] / q[some])).sum())


def _chosen(histogram: RangeHistogram, spec: Spec, search: Search) -> Calibrated:
    if not seen(histogram):
        return whole(histogram)
    counts = histogram.magnitudes
    if _few_valued(counts, spec.levels):
        filled = int(np.count_nonzero(counts))
        return whole(histogram, f"few different values ({filled} of {len(counts)} bins), so all are kept")
    edge = search(counts, levels_of(histogram, spec))
    if edge is None:
        return whole(histogram, "no threshold has a finite divergence, so all values are kept")
    beyond = float(counts[math.ceil(edge) :].sum() / counts.sum())
    if beyond > _MOST_CLIPPED:
        return whole(histogram, f"the divergence would clip {beyond:.0%} of the values, so all are kept")
    if histogram.lowest >= 0 and histogram.highest <= 1:
        there, at_max = (squared_error(histogram, spec, at) for at in (edge, histogram.reach / histogram.width))
        if there > _MOST_ERROR * at_max:
            at = edge * histogram.width
            return whole(
                histogram, f"the divergence would clip shares of 1, as of a softmax, at {at:.2g}; all are kept"
            )
    return clipped(histogram, edge * histogram.width, edge * histogram.width)


def levels_of(histogram: RangeHistogram, spec: Spec) -> int:
    """Return how many levels |x| is divided into.

    With zero point 0 these are NVIDIA's: 128 at signed 8 bit, 256 at unsigned. Where the zero point follows the range,
    for which NVIDIA has no rule, it is the larger side's share of all integers.
    """
    if spec.symmetric:
        return spec.levels
    low, high = whole(histogram).range
    return round((1 << spec.bits) * histogram.reach / (high - low))


def _nvidia_edge(counts: Counts, levels: int) -> float | None:
    counts = _without_zeros(counts)
    near = _least(counts, divergences(counts, levels), levels)
    return None if near is None else float(near[-1])


def _tensorrt2017_edge(counts: Counts, levels: int) -> float | None:
    near = _least(counts, divergences(counts, levels)[:-1], levels)
    return None if near is None else near[0] + 0.5


def _smoothed_edge(counts: Counts, levels: int) -> float | None:
    counts = _without_zeros(counts)
    edges = range(FIRST_BIN, len(counts) + 1)
    found = np.array([divergence(counts, edge, levels, smoothing=_SMOOTHING) for edge in edges])
    least = found.min()
    return float(FIRST_BIN + np.flatnonzero(found == least)[-1]) if math.isfinite(least) else None


def _least(counts: Counts, found: Divergences, levels: int) -> list[int] | None:
    """Return the edges of least divergence, or None if none is finite."""
    least = found.min()
    if not math.isfinite(least):
        return None
    near = [FIRST_BIN + int(place) for place in np.flatnonzero(found <= least + _NEAR)]
    exact = [divergence(counts, edge, levels) for edge in near]
    return [edge for edge, value in zip(near, exact, strict=True) if value == min(exact)]


def _without_zeros(counts: Counts) -> Counts:
    """Replace the count of the zero bin, swollen by what a ReLU cut off, by its neighbour's."""
    return np.concatenate([counts[1:2], counts[1:]])


def _few_valued(counts: Counts, levels: int) -> bool:
    """Say whether fewer bins than levels are filled, and most stand alone: not so a narrow body beside an outlier."""
    filled = counts > 0
    beside = np.zeros_like(filled)
    beside[1:] |= filled[:-1]
    beside[:-1] |= filled[1:]
    number = int(np.count_nonzero(filled))
    return number < levels and 2 * int(np.count_nonzero(filled & beside)) < number


def _times_log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * np.log(np.maximum(values, 1))


def _smoothed(values: NDArray[np.float64], amount: float) -> NDArray[np.float64]:
    empty = values == 0
    if empty.all():
        return values
    taken = amount * np.count_nonzero(empty) / np.count_nonzero(~empty)
    return np.where(empty, amount, values - taken)
