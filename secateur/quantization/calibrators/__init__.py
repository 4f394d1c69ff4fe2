"""Calibrators: from what was counted at a site to the range that its integers stand for."""

from secateur.quantization.calibrators.calibrated import Calibrated as Calibrated
from secateur.quantization.calibrators.calibrated import Calibrator as Calibrator
from secateur.quantization.calibrators.percentile import percentile as percentile
from secateur.quantization.calibrators.table import CALIBRATORS as CALIBRATORS
from secateur.quantization.calibrators.table import calibrator_named as calibrator_named

__all__ = ["CALIBRATORS", "Calibrated", "Calibrator", "calibrator_named", "percentile"]
