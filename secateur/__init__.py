"""Secateur cuts trained convolutional networks to a budget, and proves that the cut is exact.

Public names are resolved when they are first used (PEP 562), so that ``secateur --help`` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.compensation import RestoreSettings as RestoreSettings
    from secateur.compensation import compensate as compensate
    from secateur.compensation import reestimate_batch_norm as reestimate_batch_norm
    from secateur.cost import Budget as Budget
    from secateur.cost import LatencyTable as LatencyTable
    from secateur.cost import Milliseconds as Milliseconds
    from secateur.cost import MinimumWarning as MinimumWarning
    from secateur.cost import Profile as Profile
    from secateur.cost import allocate as allocate
    from secateur.cost import profile as profile
    from secateur.cost import read_latency_table as read_latency_table
    from secateur.criteria import CRITERIA as CRITERIA
    from secateur.criteria import Accumulator as Accumulator
    from secateur.criteria import Criterion as Criterion
    from secateur.criteria import score as score
    from secateur.criteria import score_blocks as score_blocks
    from secateur.data import load_data as load_data
    from secateur.errors import SecateurError as SecateurError
    from secateur.export import export_onnx as export_onnx
    from secateur.export import inspect as inspect
    from secateur.export import load as load
    from secateur.export import save as save
    from secateur.graph import Block as Block
    from secateur.graph import ChannelGraph as ChannelGraph
    from secateur.graph import Group as Group
    from secateur.graph import Plan as Plan
    from secateur.graph import Proof as Proof
    from secateur.graph import apply as apply
    from secateur.graph import apply_ as apply_
    from secateur.graph import apply_to_optimizer as apply_to_optimizer
    from secateur.graph import fold_weight_standardisation as fold_weight_standardisation
    from secateur.graph import masked as masked
    from secateur.graph import narrowed as narrowed
    from secateur.graph import trace as trace
    from secateur.graph import verify as verify
    from secateur.measure import TableSettings as TableSettings
    from secateur.measure import measure_latency_table as measure_latency_table
    from secateur.methods import L1 as L1
    from secateur.methods import METHODS as METHODS
    from secateur.methods import AutoSlim as AutoSlim
    from secateur.methods import Blocks as Blocks
    from secateur.methods import GateDecorator as GateDecorator
    from secateur.methods import GlobalPruning as GlobalPruning
    from secateur.methods import Magnitude as Magnitude
    from secateur.methods import NetworkSlimming as NetworkSlimming
    from secateur.methods import ThiNet as ThiNet
    from secateur.methods import WeightsAndConnections as WeightsAndConnections
    from secateur.models import build_model as build_model
    from secateur.quantization import Simulation as Simulation
    from secateur.quantization import simulate as simulate
    from secateur.recipe import Quantize as Quantize
    from secateur.recipe import quantize as quantize
    from secateur.slimmable import Sandwich as Sandwich
    from secateur.slimmable import SwitchableNorms as SwitchableNorms
    from secateur.slimmable import WidthSpace as WidthSpace
    from secateur.slimmable import widened as widened
    from secateur.slimmable import width_space as width_space
    from secateur.training import Store as Store
    from secateur.training import SupervisedTask as SupervisedTask
    from secateur.training import Task as Task
    from secateur.training import TrainSettings as TrainSettings

__version__ = "0.1.0"

_HOME = {
    "secateur.compensation": ("RestoreSettings", "compensate", "reestimate_batch_norm"),
    "secateur.cost": (
        "Budget",
        "LatencyTable",
        "Milliseconds",
        "MinimumWarning",
        "Profile",
        "allocate",
        "profile",
        "read_latency_table",
    ),
    "secateur.criteria": ("CRITERIA", "Accumulator", "Criterion", "score", "score_blocks"),
    "secateur.data": ("load_data",),
    "secateur.errors": ("SecateurError",),
    "secateur.export": ("export_onnx", "inspect", "load", "save"),
    "secateur.graph": (
        "Block",
        "ChannelGraph",
        "Group",
        "Plan",
        "Proof",
        "apply",
        "apply_",
        "apply_to_optimizer",
        "fold_weight_standardisation",
        "masked",
        "narrowed",
        "trace",
        "verify",
    ),
    "secateur.measure": ("TableSettings", "measure_latency_table"),
    "secateur.methods": (
        "L1",
        "METHODS",
        "AutoSlim",
        "Blocks",
        "GateDecorator",
        "GlobalPruning",
        "Magnitude",
        "NetworkSlimming",
        "ThiNet",
        "WeightsAndConnections",
    ),
    "secateur.models": ("build_model",),
    "secateur.quantization": ("Simulation", "simulate"),
    "secateur.recipe": ("Quantize", "quantize"),
    "secateur.slimmable": ("Sandwich", "SwitchableNorms", "WidthSpace", "widened", "width_space"),
    "secateur.training": ("Store", "SupervisedTask", "Task", "TrainSettings"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(["__version__", *_MODULE_OF])


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
