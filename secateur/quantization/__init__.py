"""Networks in small integers: ranges, their calibration, and a simulation of what a target computes.

Numbers know no graphs: :mod:`.mapping` (which integers stand for which reals), :mod:`.histogram` (what was seen),
:mod:`.calibrators` (which range is kept). The simulation is a graph: :mod:`.capture`, :mod:`.folding`, then
:mod:`.placement` decides where a target (:mod:`.profiles`) rounds and :mod:`.insertion` builds it.

The form of the graph, ``Simulation.module``, which a writer of files can rely on:

* A ``torch.fx.GraphModule`` of ATen operators (``call_function``), stored tensors (``get_attr``, under the names of
  the model's parameters, ``layer1.0.conv1.weight``) and sites (``call_module``). Batch norm behind a convolution or
  linear layer is folded; SiLU and HardSwish are taken apart; nothing is in place; the batch size is free.
* A site is a :class:`Quantizer`, called ``quantizers.<site>``. Several nodes may call the same one: they share its
  range. An operator in integers reads its operands through sites, its weight as get_attr → Quantizer → operator, and
  its bias as get_attr → :class:`BiasQuantizer` → operator; its result goes to one site, behind the ReLU or clip that
  it takes in (``site.bounds`` is then (0, …), and the zero point 0).
* Operators that only choose or move values (max pooling, flatten, slices, padding with zeros, …), and concatenations
  whose operands share one site, have no site behind them, because their results are on the same integers: the
  simulation would round what is rounded. ``node.meta["site"]`` names the site of *every* node whose values lie on a
  site's integers, these included, so that a file can have a pair of Quantize/Dequantize there.
* ``node.meta`` has ``module_path``, ``source`` ("file.py:line"), ``shape`` (None: the batch) and ``dtype`` besides.
* A site whose ``mode`` is ``"off"`` does not round: partial quantization. Its operator then runs in float.
"""

from secateur.quantization.calibrators import CALIBRATORS as CALIBRATORS
from secateur.quantization.calibrators import Calibrated as Calibrated
from secateur.quantization.calibrators import Calibrator as Calibrator
from secateur.quantization.calibrators import calibrator_named as calibrator_named
from secateur.quantization.calibrators import percentile as percentile
from secateur.quantization.capture import capture as capture
from secateur.quantization.capture import module_paths as module_paths
from secateur.quantization.diagnosis import OperatorEffect as OperatorEffect
from secateur.quantization.diagnosis import SiteNoise as SiteNoise
from secateur.quantization.diagnosis import noise as noise
from secateur.quantization.diagnosis import one_at_a_time as one_at_a_time
from secateur.quantization.folding import fold_batch_norm as fold_batch_norm
from secateur.quantization.histogram import RangeHistogram as RangeHistogram
from secateur.quantization.histogram import reduce_all_ as reduce_all_
from secateur.quantization.insertion import IntegerOperator as IntegerOperator
from secateur.quantization.insertion import Placement as Placement
from secateur.quantization.insertion import place as place
from secateur.quantization.mapping import Affine as Affine
from secateur.quantization.mapping import Spec as Spec
from secateur.quantization.mapping import affine_of as affine_of
from secateur.quantization.mapping import fake_quantize as fake_quantize
from secateur.quantization.mapping import range_of as range_of
from secateur.quantization.placement import FloatOperator as FloatOperator
from secateur.quantization.profiles import PROFILES as PROFILES
from secateur.quantization.profiles import Profile as Profile
from secateur.quantization.profiles import profile_named as profile_named
from secateur.quantization.qat import qat_settings as qat_settings
from secateur.quantization.qat import train_quantized as train_quantized
from secateur.quantization.quantizer import BiasQuantizer as BiasQuantizer
from secateur.quantization.quantizer import Quantizer as Quantizer
from secateur.quantization.repairs import REPAIRS as REPAIRS
from secateur.quantization.repairs import AdaRound as AdaRound
from secateur.quantization.repairs import AdaRoundSettings as AdaRoundSettings
from secateur.quantization.repairs import BiasCorrection as BiasCorrection
from secateur.quantization.repairs import Equalization as Equalization
from secateur.quantization.repairs import PartialQuantization as PartialQuantization
from secateur.quantization.repairs import Repair as Repair
from secateur.quantization.repairs import adaround as adaround
from secateur.quantization.repairs import correct_biases as correct_biases
from secateur.quantization.repairs import equalize as equalize
from secateur.quantization.repairs import leave_in_float as leave_in_float
from secateur.quantization.repairs import repair as repair
from secateur.quantization.repairs import repairs_named as repairs_named
from secateur.quantization.simulation import Simulation as Simulation
from secateur.quantization.simulation import simulate as simulate
from secateur.quantization.state import Settings as Settings
from secateur.quantization.thresholds import Diagnosis as Diagnosis
from secateur.quantization.thresholds import SiteHistogram as SiteHistogram
from secateur.quantization.thresholds import site_histograms as site_histograms

__all__ = [
    "CALIBRATORS",
    "PROFILES",
    "REPAIRS",
    "AdaRound",
    "AdaRoundSettings",
    "Affine",
    "BiasCorrection",
    "BiasQuantizer",
    "Calibrated",
    "Calibrator",
    "Diagnosis",
    "Equalization",
    "FloatOperator",
    "IntegerOperator",
    "OperatorEffect",
    "PartialQuantization",
    "Placement",
    "Profile",
    "Quantizer",
    "RangeHistogram",
    "Repair",
    "Settings",
    "Simulation",
    "SiteHistogram",
    "SiteNoise",
    "Spec",
    "adaround",
    "affine_of",
    "calibrator_named",
    "capture",
    "correct_biases",
    "equalize",
    "fake_quantize",
    "fold_batch_norm",
    "leave_in_float",
    "module_paths",
    "noise",
    "one_at_a_time",
    "percentile",
    "place",
    "profile_named",
    "qat_settings",
    "range_of",
    "reduce_all_",
    "repair",
    "repairs_named",
    "simulate",
    "site_histograms",
    "train_quantized",
]
