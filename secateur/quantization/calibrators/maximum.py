"""All values are kept. Source: Wu et al. 2020, arXiv:2004.09602, §5.1 ("max")."""

from secateur.quantization.calibrators.calibrated import Calibrated, whole
from secateur.quantization.histogram import RangeHistogram
from secateur.quantization.mapping import Spec


def maximum(histogram: RangeHistogram, spec: Spec) -> Calibrated:  # noqa: ARG001 (a calibrator is told the spec)
    """Return the range of all values: nothing that calibration saw is clipped."""
    return whole(histogram)
