"""Repairs of what rounding costs, without training on labels; see :func:`repair` for all of them in order."""

from secateur.quantization.repair.adaround import AdaRound as AdaRound
from secateur.quantization.repair.adaround import AdaRoundSettings as AdaRoundSettings
from secateur.quantization.repair.adaround import RoundedLayer as RoundedLayer
from secateur.quantization.repair.adaround import adaround as adaround
from secateur.quantization.repair.bias_correction import BiasCorrection as BiasCorrection
from secateur.quantization.repair.bias_correction import correct_biases as correct_biases
from secateur.quantization.repair.course import REPAIRS as REPAIRS
from secateur.quantization.repair.course import Repair as Repair
from secateur.quantization.repair.course import RepairStep as RepairStep
from secateur.quantization.repair.course import repair as repair
from secateur.quantization.repair.course import repairs_named as repairs_named
from secateur.quantization.repair.equalization import Equalization as Equalization
from secateur.quantization.repair.equalization import EqualizedPair as EqualizedPair
from secateur.quantization.repair.equalization import equalize as equalize
from secateur.quantization.repair.partial import LayerSensitivity as LayerSensitivity
from secateur.quantization.repair.partial import PartialQuantization as PartialQuantization
from secateur.quantization.repair.partial import leave_in_float as leave_in_float
from secateur.quantization.repair.quality import Judge as Judge
from secateur.quantization.repair.quality import Quality as Quality

__all__ = [
    "REPAIRS",
    "AdaRound",
    "AdaRoundSettings",
    "BiasCorrection",
    "Equalization",
    "EqualizedPair",
    "Judge",
    "LayerSensitivity",
    "PartialQuantization",
    "Quality",
    "Repair",
    "RepairStep",
    "RoundedLayer",
    "adaround",
    "correct_biases",
    "equalize",
    "leave_in_float",
    "repair",
    "repairs_named",
]
