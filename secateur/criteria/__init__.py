"""How much a unit matters: pure functions on tensors, and how a group's members combine."""

from secateur.criteria.blocks import BlockScores as BlockScores
from secateur.criteria.blocks import score_blocks as score_blocks
from secateur.criteria.norms import l1_norm as l1_norm
from secateur.criteria.norms import l2_norm as l2_norm
from secateur.criteria.scoring import CRITERIA as CRITERIA
from secateur.criteria.scoring import Criterion as Criterion
from secateur.criteria.scoring import Scores as Scores
from secateur.criteria.scoring import criterion_named as criterion_named
from secateur.criteria.scoring import score as score

__all__ = [
    "CRITERIA",
    "BlockScores",
    "Criterion",
    "Scores",
    "criterion_named",
    "l1_norm",
    "l2_norm",
    "score",
    "score_blocks",
]
