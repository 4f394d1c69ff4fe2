"""The published methods, one folder each, behind one contract."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from secateur.methods.autoslim import AutoSlim as AutoSlim
from secateur.methods.blocks import Blocks as Blocks
from secateur.methods.contract import Compressed as Compressed
from secateur.methods.contract import Method as Method
from secateur.methods.contract import MethodRecord as MethodRecord
from secateur.methods.gate_decorator import GateDecorator as GateDecorator
from secateur.methods.global_pruning import GlobalPruning as GlobalPruning
from secateur.methods.l1 import L1 as L1
from secateur.methods.magnitude import Magnitude as Magnitude
from secateur.methods.network_slimming import NetworkSlimming as NetworkSlimming
from secateur.methods.thinet import ThiNet as ThiNet
from secateur.methods.weights_and_connections import WeightsAndConnections as WeightsAndConnections

AnyMethod = Annotated[
    L1
    | Magnitude
    | GlobalPruning
    | Blocks
    | GateDecorator
    | NetworkSlimming
    | ThiNet
    | WeightsAndConnections
    | AutoSlim,
    Field(discriminator="name"),
]
"""The settings of any method, told apart by ``name``: what a recipe holds."""

METHODS: Mapping[
    str,
    type[
        L1
        | Magnitude
        | GlobalPruning
        | Blocks
        | GateDecorator
        | NetworkSlimming
        | ThiNet
        | WeightsAndConnections
        | AutoSlim
    ],
] = {
    "l1": L1,
    "magnitude": Magnitude,
    "global": GlobalPruning,
    "blocks": Blocks,
    "gate_decorator": GateDecorator,
    "network_slimming": NetworkSlimming,
    "thinet": ThiNet,
    "weights_and_connections": WeightsAndConnections,
    "autoslim": AutoSlim,
}
"""Every method by name; contract tests run over all of them."""

__all__ = [
    "L1",
    "METHODS",
    "AnyMethod",
    "AutoSlim",
    "Blocks",
    "Compressed",
    "GateDecorator",
    "GlobalPruning",
    "Magnitude",
    "Method",
    "MethodRecord",
    "NetworkSlimming",
    "ThiNet",
    "WeightsAndConnections",
]
