"""Gates: one factor per channel, scored and pushed towards zero in training, and gone again from the result."""

from secateur.gates.decoration import decorate as decorate
from secateur.gates.decoration import melt as melt
from secateur.gates.gates import Gate as Gate
from secateur.gates.gates import Gates as Gates
from secateur.gates.layer import GatedConv as GatedConv
from secateur.gates.norm import ClampedShifts as ClampedShifts
from secateur.gates.norm import GatedNorm as GatedNorm
from secateur.gates.training import TickScores as TickScores
from secateur.gates.training import gate_penalty as gate_penalty

__all__ = [
    "ClampedShifts",
    "Gate",
    "GatedConv",
    "GatedNorm",
    "Gates",
    "TickScores",
    "decorate",
    "gate_penalty",
    "melt",
]
