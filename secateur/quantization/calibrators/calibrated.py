"""What a calibrator chooses: a range, and a note where it could not do what its name says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from secateur.errors import QuantizationError
from secateur.quantization.histogram import RangeHistogram
from secateur.quantization.mapping import TINY, Spec


@dataclass(frozen=True)
class Calibrated:
    """The range that a calibrator chose for one site.

    Attributes:
        range: lowest and highest real value that are not clipped; they hold 0, and nothing that was never seen.
        note: one line for the report where the range is that of ``max`` instead of what the calibrator looks for.
    """

    range: tuple[float, float]
    note: str | None = None


Calibrator: TypeAlias = Callable[[RangeHistogram, Spec], Calibrated]
"""Chooses a range for the integers of a spec from what was counted; raises QuantizationError where nothing was."""


def seen(histogram: RangeHistogram) -> bool:
    """Say whether there is something to choose from: False if every value is 0, or as good as 0.

    Raises:
        QuantizationError: no value was counted.
    """
    if not histogram.count:
        raise QuantizationError(
            f"{histogram.site} saw no values, so that it has no range; run calibration images first"
        )
    return histogram.reach > TINY


def whole(histogram: RangeHistogram, note: str | None = None) -> Calibrated:
    """Return the range of all values, widened to hold 0."""
    if not seen(histogram):
        note = "every value is 0"
    return Calibrated((min(histogram.lowest, 0.0), max(histogram.highest, 0.0)), note)


def clipped(histogram: RangeHistogram, below: float, above: float) -> Calibrated:
    """Return the range from −``below`` to ``above``, within that of all values."""
    low, high = whole(histogram).range
    return Calibrated((max(low, -below), min(high, above)))
