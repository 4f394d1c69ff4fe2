"""All calibrators by name. A new one is a pure function and a row here."""

from collections.abc import Mapping

from secateur.errors import UsageError
from secateur.names import unknown_name
from secateur.quantization.calibrators.calibrated import Calibrator
from secateur.quantization.calibrators.entropy import entropy, entropy_smoothed, entropy_tensorrt2017
from secateur.quantization.calibrators.maximum import maximum
from secateur.quantization.calibrators.percentile import percentile
from secateur.quantization.calibrators.squared_error import mse

_PERCENTILE = "percentile-"

CALIBRATORS: Mapping[str, Calibrator] = {
    "max": maximum,
    "percentile-99.9": percentile(99.9),
    "percentile-99.99": percentile(99.99),
    "percentile-99.999": percentile(99.999),
    "percentile-99.9999": percentile(99.9999),
    "entropy": entropy,
    "entropy-tensorrt2017": entropy_tensorrt2017,
    "entropy-smoothed": entropy_smoothed,
    "mse": mse,
}
"""Calibrators by name; those of Wu et al. 2020, arXiv:2004.09602, §5.1, and what else is published."""


def calibrator_named(name: str) -> Calibrator:
    """Return a calibrator by name; of percentiles any, such as ``percentile-99.95``.

    Raises:
        UsageError: there is none; the nearest name is suggested.
    """
    if name in CALIBRATORS:
        return CALIBRATORS[name]
    if name.startswith(_PERCENTILE):
        try:
            percent = float(name.removeprefix(_PERCENTILE))
        except ValueError:
            raise UsageError(f"calibrator {name!r}: write a percentage behind it, as in percentile-99.99") from None
        return percentile(percent)
    raise UsageError(unknown_name("calibrator", name, CALIBRATORS))
