"""How each phase of Gate Decorator trains: the published settings, and what stays still in a Tick."""

from typing import Literal

from torch import nn

from secateur.errors import UsageError
from secateur.gates import Gates
from secateur.training import TrainSettings

TICK = TrainSettings(
    batch_size=128, learning_rate=1e-3, momentum=0.9, weight_decay=5e-4, schedule="constant", evaluate_every=0
)
"""A constant low rate; the accuracy is measured after the cut, not before it."""

TOCK = TrainSettings(
    batch_size=128,
    learning_rate=1e-2,
    learning_rate_min=1e-3,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="triangular",
)
"""One triangle over the whole phase."""

FINETUNE = TrainSettings(
    batch_size=64,
    learning_rate=1e-2,
    learning_rate_min=1e-3,
    momentum=0.0,
    weight_decay=5e-4,
    schedule="triangular",
)
"""Momentum 0 and a batch of 64 stand in the authors' code only."""

COOLDOWN = TrainSettings(batch_size=64, learning_rate=1e-3, momentum=0.0, weight_decay=5e-4, schedule="constant")
"""The last epochs of the authors' ResNet-56."""

Trained = Literal["all-but-convolutions", "gates-and-classifier", "gates"]
"""What a Tick trains: as the authors' code, as their paper says, or the gates alone."""


def still_in_a_tick(model: nn.Module, gates: Gates, trained: Trained) -> list[str]:
    """Return the names of the parameters of a decorated model that a Tick leaves still.

    Norms stay in training mode whatever is still, so that their statistics follow the cuts.

    Raises:
        UsageError: nothing would be left to train.
    """
    if trained == "all-but-convolutions":
        return [
            name
            for path, module in model.named_modules()
            if isinstance(module, nn.modules.conv._ConvNd)
            for name in _own(path, module)
        ]
    moving = {gate.parameter for gate in gates.gates}
    if trained == "gates-and-classifier":
        gated = {gate.module for gate in gates.gates}
        last = [
            (path, module)
            for path, module in model.named_modules()
            if isinstance(module, nn.Linear) and path not in gated
        ]
        if not last:
            raise UsageError(
                "tick_trains is gates-and-classifier, but the model has no linear layer without a gate; "
                "choose gates, or all-but-convolutions"
            )
        moving |= set(_own(*last[-1]))
    return [name for name, _ in model.named_parameters() if name not in moving]


def _own(path: str, module: nn.Module) -> list[str]:
    return [f"{path}.{name}" if path else name for name, value in module._parameters.items() if value is not None]
