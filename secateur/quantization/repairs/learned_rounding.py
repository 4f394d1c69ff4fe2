"""AdaRound: each weight is rounded up or down such that the layer's output, not the weight, stays near.

Source: Nagel et al. 2020, arXiv:2004.10568, §3.2 to 3.4 and Eq. 21 to 25. What each weight adds to its floor is
h(V) = clip(σ(V) · (ζ − γ) + γ, 0, 1), ζ = 1.1, γ = −0.1; a regulariser λ · Σ (1 − |2h − 1|^β) drives it to 0 or 1.
The reconstruction is asymmetric and includes the activation: the float layer on the float network's input against the
rounded layer on the rounded network's input.

Departures: activations are rounded meanwhile wherever the simulation rounds them; a weight of exactly 0 stays 0, so
that masks hold; 1,000 steps instead of 10,000 by default; a layer for which the result is no better than rounding to
nearest, on these images, keeps the latter.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.errors import UsageError
from secateur.quantization.calibrating import CalibrationBatch
from secateur.quantization.mapping import Spec
from secateur.quantization.repairs.layers import (
    channel_axis,
    collected,
    require_rounding,
    rounding,
    site_of,
    tensor_of,
    write,
)
from secateur.quantization.repairs.quality import Progress
from secateur.quantization.repairs.sweep import SweptLayer, swept_layers
from secateur.quantization.simulation import Simulation
from secateur.randomness import generator_for

ZETA, GAMMA = 1.1, -0.1


@dataclass(frozen=True, kw_only=True)
class AdaRoundSettings:
    """How rounding is learned.

    Raises:
        UsageError: a value is out of range.
    """

    steps: int = 1000  # per layer
    batch_size: int = 32  # images per step
    learning_rate: float = 1e-2  # of Adam
    regularization: float = 0.01  # λ
    beta: tuple[float, float] = (20.0, 2.0)  # at the beginning and at the end, along half a cosine
    warm_up: float = 0.2  # share of the steps without the regulariser
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} of AdaRound is {getattr(self, name)}; give at least 1")
        if self.learning_rate <= 0 or self.regularization < 0 or not 0 <= self.warm_up < 1:
            raise UsageError(
                f"AdaRound has learning_rate {self.learning_rate}, regularization {self.regularization} and warm_up "
                f"{self.warm_up}; give one above 0, one from 0 on, and one in [0, 1)"
            )


@dataclass(frozen=True)
class RoundedLayer:
    """What learning brought a layer.

    Attributes:
        nearest_error: mean squared error of its output, behind its activation, rounded to nearest.
        error: the same as it is rounded now.
        moved: share of its weights that are rounded away from the nearest.
    """

    nearest_error: float
    error: float
    moved: float


@dataclass(frozen=True)
class AdaRound:
    """What was rounded anew.

    Attributes:
        layers: layer → what it brought.
        skipped: layer → why it was left as it was.
        originals: name → values of the weights before; they lie on the integers now, and a layer that goes back to
            float takes these (:func:`leave_in_float` does it).
    """

    layers: Mapping[str, RoundedLayer]
    skipped: Mapping[str, str] = field(default_factory=dict)
    originals: Mapping[str, Tensor] = field(default_factory=dict)


def adaround(
    simulation: Simulation,
    batches: Iterable[CalibrationBatch],
    *,
    images: int | None = None,
    settings: AdaRoundSettings | None = None,
    originals: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> AdaRound:
    """Learn how each weight is rounded, in place, from the first layer to the last; the same seed, the same result.

    Weights are moved onto their integers. Their steps stay, so set ranges before and not after.

    Args:
        simulation: with ranges set; layers in float stay as they are.
        batches: training images, prepared as for evaluation; the live tensors of all are in memory at once.
        images: take so many of them at most.
        settings: how; the paper's by default, with fewer steps.
        originals: name → values of parameters that an earlier repair changed.
        progress: told how many layers are done.

    Raises:
        DataError: there are no images.
        QuantizationError: the simulation rounds nowhere, or has several inputs.
    """
    require_rounding(simulation)
    settings = settings or AdaRoundSettings()
    inputs = collected(simulation.module, batches, images)
    layers = rounding(simulation)
    chosen = {name: layer for name, layer in layers.items() if not layer.shared}
    skipped = {name: "its parameters serve several calls" for name in layers if name not in chosen}
    before = {layer.weight: tensor_of(simulation, layer.weight).detach().clone() for layer in chosen.values()}
    found: dict[str, RoundedLayer] = {}
    for done, layer in enumerate(swept_layers(simulation, inputs, chosen, originals or {}), 1):
        name, site = layer.parameters.operator.name, site_of(simulation, layer.parameters)
        problem = _Problem(layer, tensor_of(simulation, layer.parameters.weight).detach(), site.affine.step, site.spec)
        weight, found[name] = problem.solved(settings)
        write(simulation, {layer.parameters.weight: weight})
        if progress is not None:
            progress("AdaRound", done, len(chosen))
    return AdaRound(found, skipped, before)


def rectified_sigmoid(v: Tensor) -> Tensor:
    """Return h(V), in [0, 1] (Eq. 23)."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse_rectified_sigmoid(h: Tensor) -> Tensor:
    """Return the V of an h in [0, 1]; at 0 and 1 the one where clipping begins."""
    return -torch.log((ZETA - GAMMA) / (h - GAMMA) - 1)


def beta_at(step: int, settings: AdaRoundSettings) -> float:
    """Return β at a step: the first value until the warm-up ends, then along half a cosine to the last one."""
    begin = settings.warm_up * settings.steps
    share = min(1.0, max(0.0, (step - begin) / max(1.0, settings.steps - 1 - begin)))
    first, last = settings.beta
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


class _Problem:
    """One layer: its floors, what it shall give, and on what."""

    def __init__(self, layer: SweptLayer, weight: Tensor, step: Tensor, spec: Spec) -> None:
        self.layer, self.spec = layer, spec
        shape = [1] * weight.dim()
        if spec.axis is not None and step.dim():
            shape[spec.axis] = -1
        self.step = step.view(shape) if step.dim() else step
        scaled = weight / self.step
        self.nearest = scaled.round().clamp(spec.lowest, spec.highest)
        self.floor = scaled.floor()
        self.rest = (scaled - self.floor).clamp(0, 1)
        self.movable = weight != 0
        self.inputs = torch.cat(layer.inputs)
        self.wanted = layer.activation(torch.cat(layer.exact))

    def solved(self, settings: AdaRoundSettings) -> tuple[Tensor, RoundedLayer]:
        """Return the weight on its integers, and what it brought."""
        levels = self._learned(settings)
        nearest, error = self._error(self.nearest, settings), self._error(levels, settings)
        if error >= nearest:
            levels, error = self.nearest, nearest
        moved = float((levels != self.nearest).float().mean())
        return levels * self.step, RoundedLayer(nearest, error, moved)

    def _learned(self, settings: AdaRoundSettings) -> Tensor:
        v = inverse_rectified_sigmoid(self.rest).requires_grad_()
        optimizer = torch.optim.Adam([v], lr=settings.learning_rate)
        draws = generator_for(settings.seed, "adaround", self.layer.parameters.operator.name)
        size = min(settings.batch_size, len(self.inputs))
        with torch.enable_grad():
            for step in range(settings.steps):
                picked = torch.randperm(len(self.inputs), generator=draws)[:size].to(self.inputs.device)
                h = rectified_sigmoid(v) * self.movable
                (found,) = self.layer.outputs([self.inputs[picked]], self._levels(h) * self.step)
                loss = self._distance(found, self.wanted[picked])
                if step >= settings.warm_up * settings.steps:
                    sides = (2 * h - 1).abs().pow(beta_at(step, settings))
                    loss = loss + settings.regularization * (1 - sides)[self.movable].sum()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        with torch.no_grad():
            return self._levels((rectified_sigmoid(v) * self.movable >= 0.5).to(v.dtype))

    def _levels(self, h: Tensor) -> Tensor:
        return (self.floor + h).clamp(self.spec.lowest, self.spec.highest)

    def _distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Return the squared error, summed over channels and averaged over everything else."""
        channels = found.shape[channel_axis(self.layer.parameters.node)]
        return (self.layer.activation(found) - wanted).square().mean() * channels

    def _error(self, levels: Tensor, settings: AdaRoundSettings) -> float:
        """Return the mean squared error over all images."""
        total = 0.0
        size = settings.batch_size
        pieces = zip(torch.split(self.inputs, size), torch.split(self.wanted, size), strict=True)
        with torch.no_grad():
            for x, wanted in pieces:
                (found,) = self.layer.outputs([x], levels * self.step)
                total += float((self.layer.activation(found) - wanted).double().square().sum())
        return total / self.wanted.numel()
