"""Bias correction: the mean error that rounding leaves in each channel goes into the bias.

Source: Nagel et al. 2019, arXiv:1906.04721, §4.2, in its empirical form: from images, layer after layer, each
corrected on what the corrected layers before it give.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.quantization.calibrating import CalibrationBatch, fit_bias
from secateur.quantization.repairs.layers import (
    LayerParameters,
    channel_axis,
    collected,
    require_rounding,
    rounding,
    tensor_of,
    write,
)
from secateur.quantization.repairs.quality import Progress
from secateur.quantization.repairs.sweep import SweptLayer, swept_layers
from secateur.quantization.simulation import Simulation


@dataclass(frozen=True)
class BiasCorrection:
    """What was corrected.

    Attributes:
        shifts: layer → the largest |mean error| that went into a channel's bias, in the unit of the layer's output.
        skipped: layer → why it was left as it was.
        originals: name → values of the biases before.
    """

    shifts: Mapping[str, float]
    skipped: Mapping[str, str] = field(default_factory=dict)
    originals: Mapping[str, Tensor] = field(default_factory=dict)


def correct_biases(
    simulation: Simulation,
    batches: Iterable[CalibrationBatch],
    *,
    images: int | None = None,
    originals: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> BiasCorrection:
    """Add E[float output] − E[rounded output] of every channel to the bias, in place, from the first layer to the last.

    Args:
        simulation: with ranges set; layers in float stay as they are.
        batches: training images, prepared as for evaluation; the live tensors of all are in memory at once.
        images: take so many of them at most.
        originals: name → values of parameters that an earlier repair changed, see :class:`AdaRound`.
        progress: told how many layers are done.

    Raises:
        DataError: there are no images.
        QuantizationError: the simulation rounds nowhere, or has several inputs.
    """
    require_rounding(simulation)
    inputs = collected(simulation.module, batches, images)
    chosen, skipped = _correctable(rounding(simulation))
    before = {layer.bias: tensor_of(simulation, layer.bias).detach().clone() for layer in chosen.values()}
    shifts: dict[str, float] = {}
    for done, layer in enumerate(swept_layers(simulation, inputs, chosen, originals or {}), 1):
        operator, name = layer.parameters.operator, layer.parameters.bias
        site = simulation.bias_sites.get(operator.bias)
        with torch.no_grad():
            shift, bias = _mean_error(layer), tensor_of(simulation, name)
            # The error is that of the rounded bias: added to that one, half a step of it is all that is left.
            write(simulation, {name: (bias if site is None else site(bias)) + shift})
        if site is not None:
            fit_bias(site, tensor_of(simulation, name))
        shifts[operator.name] = float(shift.abs().max())
        if progress is not None:
            progress("bias correction", done, len(chosen))
    return BiasCorrection(shifts, skipped, before)


def _correctable(
    layers: Mapping[str, LayerParameters],
) -> tuple[dict[str, LayerParameters], dict[str, str]]:
    skipped = {}
    for name, layer in layers.items():
        if not layer.bias:
            skipped[name] = "it has no bias"
        elif layer.shared:
            skipped[name] = "its parameters serve several calls"
    return {name: layer for name, layer in layers.items() if name not in skipped}, skipped


def _mean_error(layer: SweptLayer) -> Tensor:
    """Return E[float − rounded] per output channel, over images and places."""
    axis = channel_axis(layer.parameters.node)
    total = torch.zeros((), dtype=torch.float64, device=layer.inputs[0].device)
    count = 0
    for exact, found in zip(layer.exact, layer.outputs(layer.inputs), strict=True):
        total = total + (exact - found).movedim(axis, 0).flatten(1).sum(1, dtype=torch.float64)
        count += exact.numel() // exact.shape[axis]
    return (total / count).float()
