"""Tensors as small integers: which integers, and which range of real numbers they stand for."""

from secateur.quantization.calibrators import CALIBRATORS as CALIBRATORS
from secateur.quantization.calibrators import Calibrated as Calibrated
from secateur.quantization.calibrators import Calibrator as Calibrator
from secateur.quantization.calibrators import calibrator_named as calibrator_named
from secateur.quantization.calibrators import percentile as percentile
from secateur.quantization.histogram import RangeHistogram as RangeHistogram
from secateur.quantization.histogram import reduce_all_ as reduce_all_
from secateur.quantization.mapping import Affine as Affine
from secateur.quantization.mapping import Spec as Spec
from secateur.quantization.mapping import affine_of as affine_of
from secateur.quantization.mapping import fake_quantize as fake_quantize
from secateur.quantization.mapping import range_of as range_of

__all__ = [
    "CALIBRATORS",
    "Affine",
    "Calibrated",
    "Calibrator",
    "RangeHistogram",
    "Spec",
    "affine_of",
    "calibrator_named",
    "fake_quantize",
    "percentile",
    "range_of",
    "reduce_all_",
]
