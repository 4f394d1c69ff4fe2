"""A share of the values is clipped (source: Wu et al. 2020, arXiv:2004.09602, §5.1; bins as in NVIDIA's code)."""

import numpy as np
from numpy.typing import NDArray

from secateur.errors import UsageError
from secateur.quantization.calibrators.calibrated import Calibrated, Calibrator, clipped, seen, whole
from secateur.quantization.histogram import RangeHistogram
from secateur.quantization.mapping import Spec


def percentile(percent: float) -> Calibrator:
    """Return the calibrator that keeps this percentage of the values: of |x|, not of x.

    Where the zero point follows the range, each side of zero keeps this percentage of its own values; where all values
    lie on one side this is the same.

    Args:
        percent: above 0, at most 100 (which keeps them all).

    Raises:
        UsageError: ``percent`` is outside.
    """
    if not 0 < percent <= 100:
        raise UsageError(f"percentile {percent:g}: choose one above 0 and at most 100, such as 99.99")

    def keep(histogram: RangeHistogram, spec: Spec) -> Calibrated:
        if not seen(histogram) or percent == 100:
            return whole(histogram)
        if spec.symmetric:
            below = above = _edge(histogram.magnitudes, percent) * histogram.width
        else:
            below, above = (_edge(side, percent) * histogram.width for side in (histogram.below, histogram.above))
        if below == above == 0:
            note = f"{percent:g} % of the values are 0 beside the largest ({histogram.reach:.3g}), so all are kept"
            return whole(histogram, note)
        return clipped(histogram, below, above)

    return keep


def _edge(counts: NDArray[np.int64], percent: float) -> int:
    """Return the lower edge of the bin in which the cumulative share reaches ``percent``, as NVIDIA's code does."""
    cumulative = np.cumsum(counts)
    if not len(counts) or not cumulative[-1]:
        return 0
    return int(np.searchsorted(cumulative, percent / 100 * float(cumulative[-1])))
