"""Which channels hang together, and how to cut them: trace, plan, apply, masked, narrowed, verify."""

from secateur.graph.application import apply as apply
from secateur.graph.blocks import Block as Block
from secateur.graph.blocks import Drop as Drop
from secateur.graph.channel_graph import ChannelGraph as ChannelGraph
from secateur.graph.folding import fold_weight_standardisation as fold_weight_standardisation
from secateur.graph.masking import masked as masked
from secateur.graph.narrowing import narrowed as narrowed
from secateur.graph.optimizer import apply_to_optimizer as apply_to_optimizer
from secateur.graph.plan import Plan as Plan
from secateur.graph.proof import OutputProof as OutputProof
from secateur.graph.proof import Proof as Proof
from secateur.graph.selections import Selection as Selection
from secateur.graph.surgery import apply_ as apply_
from secateur.graph.ties import Tie as Tie
from secateur.graph.ties import Why as Why
from secateur.graph.trace import trace as trace
from secateur.graph.units import Group as Group
from secateur.graph.units import Member as Member
from secateur.graph.verify import verify as verify

__all__ = [
    "Block",
    "ChannelGraph",
    "Drop",
    "Group",
    "Member",
    "OutputProof",
    "Plan",
    "Proof",
    "Selection",
    "Tie",
    "Why",
    "apply",
    "apply_",
    "apply_to_optimizer",
    "fold_weight_standardisation",
    "masked",
    "narrowed",
    "trace",
    "verify",
]
