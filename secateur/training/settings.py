"""How to train: optimiser, schedule, regularisation, precision."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from pydantic import ConfigDict

from secateur.errors import UsageError
from secateur.names import unknown_name

OptimizerName = Literal["sgd", "adamw"]
ScheduleName = Literal["constant", "step", "cosine", "triangular", "linear"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learn from a teacher's soft targets too (source: Hinton et al. 2015, arXiv:1503.02531)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    temperature: float = 4.0
    weight: float = 0.9  # of the soft targets; the labels get the rest

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        _require("distillation.temperature", self.temperature, self.temperature > 0, "above 0")
        _require("distillation.weight", self.weight, 0 <= self.weight <= 1, "in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How one phase is trained; the defaults are usual for CIFAR (He et al. 2016, arXiv:1512.03385)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    batch_size: int = 128  # over all processes together
    optimizer: OptimizerName = "sgd"
    learning_rate: float = 0.1  # the highest of the phase
    momentum: float = 0.9  # sgd only
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)  # adamw only
    weight_decay: float = 1e-4
    decay_norms_and_biases: bool = True  # False: no weight decay on parameters with one dimension
    schedule: ScheduleName = "cosine"
    learning_rate_min: float = 0.0  # where cosine, triangular and linear end; triangular also begins there
    milestones: tuple[float, ...] = (0.5, 0.75)  # step only: shares of the phase below 1, epochs from 1 on
    gamma: float = 0.1  # step only: factor at each milestone
    warmup_epochs: float = 0.0  # linear from 0 before the schedule begins
    label_smoothing: float = 0.0
    auxiliary_weight: float = 0.3  # of the extra outputs that some models have in training (arXiv:1409.4842)
    pixel_auxiliary_weight: float = 0.5  # the same where each pixel has a class (torchvision's reference training)
    distillation: Distillation | None = None
    precision: PrecisionName = "auto"  # auto: bf16 or fp16 on CUDA, otherwise fp32
    gradient_clip: float | None = None  # highest norm of all gradients together
    augment: bool = True
    channels_last: bool = False
    evaluate_every: int = 1  # epochs between evaluations on the validation split; 0: never

    def __post_init__(self) -> None:
        """Refuse values out of range, so that nothing starts with them."""
        _require_choice("optimizer", self.optimizer, get_args(OptimizerName))
        _require_choice("schedule", self.schedule, get_args(ScheduleName))
        _require_choice("precision", self.precision, get_args(PrecisionName))
        _require("batch_size", self.batch_size, self.batch_size >= 1, "at least 1")
        _require("learning_rate", self.learning_rate, self.learning_rate >= 0, "at least 0")
        _require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _require("nesterov", self.nesterov, not self.nesterov or self.momentum > 0, "off where momentum is 0")
        _require("betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "in [0, 1)")
        _require("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        low = self.learning_rate_min
        _require(
            "learning_rate_min",
            low,
            0 <= low <= self.learning_rate,
            f"in [0, {self.learning_rate:g}], the learning_rate",
        )
        _require("milestones", self.milestones, all(value > 0 for value in self.milestones), "above 0")
        _require(
            "milestones",
            self.milestones,
            all(v < 1 or v == int(v) for v in self.milestones),
            "whole epochs from 1 on",
        )
        _require("gamma", self.gamma, self.gamma > 0, "above 0")
        _require("warmup_epochs", self.warmup_epochs, self.warmup_epochs >= 0, "at least 0")
        _require("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in [0, 1)")
        _require("auxiliary_weight", self.auxiliary_weight, self.auxiliary_weight >= 0, "at least 0")
        pixel_weight = self.pixel_auxiliary_weight
        _require("pixel_auxiliary_weight", pixel_weight, pixel_weight >= 0, "at least 0")
        clip = self.gradient_clip
        _require("gradient_clip", clip, clip is None or clip > 0, "above 0")
        _require("evaluate_every", self.evaluate_every, self.evaluate_every >= 0, "at least 0")


def _require(name: str, value: object, holds: bool, allowed: str) -> None:
    # Comparisons with NaN are false, so NaN never passes; infinities would, where there is no upper bound.
    if not holds or (isinstance(value, float) and math.isinf(value)):
        raise UsageError(f"{name} is {value}, but must be {allowed}")


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(unknown_name(name, value, choices))
