"""The threshold of least squared error. Source: NVIDIA's pytorch-quantization, ``histogram.py`` ("mse")."""

import numpy as np
from numpy.typing import NDArray

from secateur.quantization.calibrators.calibrated import Calibrated, clipped, seen, whole
from secateur.quantization.histogram import RangeHistogram
from secateur.quantization.mapping import Spec

FIRST_BIN = 128
_NEAR = 1e-6  # sums of squares by differences are good to nine digits; what is as near is computed bin by bin


def mse(histogram: RangeHistogram, spec: Spec) -> Calibrated:
    """Return the range whose rounding and clipping together have the least squared error.

    Candidates are the centres of the bins of |x| from bin 128 on, the first of equal ones is taken (as NVIDIA). Where
    the zero point follows the range, a candidate clips on both sides of zero.
    """
    if not seen(histogram):
        return whole(histogram)
    thresholds = np.arange(FIRST_BIN, len(histogram.above), dtype=np.float64) + 0.5
    errors = squared_errors(histogram, spec, thresholds)
    near = np.flatnonzero(errors <= errors.min() * (1 + _NEAR))
    exact = [squared_error(histogram, spec, float(thresholds[place])) for place in near]
    threshold = float(thresholds[near[int(np.argmin(exact))]]) * histogram.width
    return clipped(histogram, threshold, threshold)


def squared_error(histogram: RangeHistogram, spec: Spec, threshold: float) -> float:
    """Return the sum of squared errors at the centres of bins, computed bin by bin.

    Args:
        histogram: what was counted.
        spec: the integers.
        threshold: the largest |x| that is not clipped, in widths of a bin; so is the error, squared.
    """
    step, fewest, most = _grid(histogram, spec, np.array([threshold]))
    total = 0.0
    for counts, levels in ((histogram.below, fewest), (histogram.above, most)):
        centres = np.arange(len(counts)) + 0.5
        rounded = np.minimum(np.round(centres / step), levels) * step
        total += float((counts * (centres - rounded) ** 2).sum())
    return total


def squared_errors(histogram: RangeHistogram, spec: Spec, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return :func:`squared_error` of many thresholds at once, from sums over the bins that share an integer."""
    step, fewest, most = _grid(histogram, spec, thresholds)
    errors = np.zeros(len(thresholds))
    for counts, levels in ((histogram.below, fewest), (histogram.above, most)):
        centres = np.arange(len(counts)) + 0.5
        zeroth, first, second = (
            np.concatenate([[0.0], np.cumsum(counts * centres**power)]) for power in range(3)
        )  # of the bins before each
        number = np.arange(int(levels.max()) + 1)
        # The first bin whose centre is above the middle between two integers; the last integer takes all that is left.
        edges = np.ceil((number[None, :] + 0.5) * step[:, None] - 0.5)
        edges = np.where(number[None, :] >= levels[:, None], len(counts), edges)
        ends = np.minimum(edges, len(counts)).astype(np.int64)
        starts = np.concatenate([np.zeros((len(ends), 1), dtype=np.int64), ends[:, :-1]], axis=1)
        level = number[None, :] * step[:, None]
        parts = second[ends] - second[starts]
        parts -= 2 * level * (first[ends] - first[starts])
        parts += level**2 * (zeroth[ends] - zeroth[starts])
        errors += parts.sum(axis=1)
    return errors


def _grid(
    histogram: RangeHistogram, spec: Spec, thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the steps in widths of a bin, and how many integers stand below and above zero."""
    width = histogram.width
    low, high = whole(histogram).range
    lowest, highest = np.maximum(low / width, -thresholds), np.minimum(high / width, thresholds)
    if spec.symmetric:
        steps = np.maximum(-lowest, highest) / spec.highest
        return steps, np.full(len(steps), float(-spec.lowest)), np.full(len(steps), float(spec.highest))
    steps = (highest - lowest) / (spec.highest - spec.lowest)
    zeros = spec.lowest + np.round(-lowest / (highest - lowest) * (spec.highest - spec.lowest))
    return steps, zeros - spec.lowest, spec.highest - zeros
