"""How much a unit matters: pure functions on tensors, and how a group's members combine."""

from secateur.criteria.accumulator import Accumulator as Accumulator
from secateur.criteria.activations import apoz as apoz
from secateur.criteria.activations import mean_activation as mean_activation
from secateur.criteria.blocks import BlockScores as BlockScores
from secateur.criteria.blocks import score_blocks as score_blocks
from secateur.criteria.criterion import Combine as Combine
from secateur.criteria.criterion import Criterion as Criterion
from secateur.criteria.criterion import Needs as Needs
from secateur.criteria.criterion import Scores as Scores
from secateur.criteria.filters import geometric_median_distance as geometric_median_distance
from secateur.criteria.filters import lamp as lamp
from secateur.criteria.norms import l1_norm as l1_norm
from secateur.criteria.norms import l2_norm as l2_norm
from secateur.criteria.scales import scale_size as scale_size
from secateur.criteria.scoring import score as score
from secateur.criteria.table import CRITERIA as CRITERIA
from secateur.criteria.table import criterion_named as criterion_named
from secateur.criteria.taylor import activation_taylor as activation_taylor
from secateur.criteria.taylor import fisher as fisher
from secateur.criteria.taylor import gate_taylor as gate_taylor
from secateur.criteria.taylor import weight_taylor as weight_taylor

__all__ = [
    "CRITERIA",
    "Accumulator",
    "BlockScores",
    "Combine",
    "Criterion",
    "Needs",
    "Scores",
    "activation_taylor",
    "apoz",
    "criterion_named",
    "fisher",
    "gate_taylor",
    "geometric_median_distance",
    "l1_norm",
    "l2_norm",
    "lamp",
    "mean_activation",
    "scale_size",
    "score",
    "score_blocks",
    "weight_taylor",
]
