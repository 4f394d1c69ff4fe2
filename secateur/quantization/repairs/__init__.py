"""Repairs of what rounding costs, without training on labels; see :func:`repair` for all of them in order."""

from secateur.quantization.repairs.bias_correction import BiasCorrection as BiasCorrection
from secateur.quantization.repairs.bias_correction import correct_biases as correct_biases
from secateur.quantization.repairs.course import REPAIRS as REPAIRS
from secateur.quantization.repairs.course import Repair as Repair
from secateur.quantization.repairs.course import RepairStep as RepairStep
from secateur.quantization.repairs.course import repair as repair
from secateur.quantization.repairs.course import repairs_named as repairs_named
from secateur.quantization.repairs.equalization import Equalization as Equalization
from secateur.quantization.repairs.equalization import EqualizedPair as EqualizedPair
from secateur.quantization.repairs.equalization import equalize as equalize
from secateur.quantization.repairs.learned_rounding import AdaRound as AdaRound
from secateur.quantization.repairs.learned_rounding import AdaRoundSettings as AdaRoundSettings
from secateur.quantization.repairs.learned_rounding import RoundedLayer as RoundedLayer
from secateur.quantization.repairs.learned_rounding import adaround as adaround
from secateur.quantization.repairs.partial import LayerSensitivity as LayerSensitivity
from secateur.quantization.repairs.partial import PartialQuantization as PartialQuantization
from secateur.quantization.repairs.partial import leave_in_float as leave_in_float
from secateur.quantization.repairs.quality import Judge as Judge
from secateur.quantization.repairs.quality import Quality as Quality

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
