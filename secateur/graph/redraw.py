"""Redrawn weights: random values under which no channel is invisible.

A proof with the model's own weights may say nothing about a channel whose LayerScale is 1e-6 or whose γ is 0. The same
proof with every parameter and buffer redrawn does.
"""

import math

import torch
from torch import Tensor, nn

from secateur.graph.slots import StoredTensor, stored_tensors
from secateur.randomness import generator_for


def redraw(model: nn.Module, seed: int) -> None:
    """Fill all floating-point parameters and buffers of ``model`` in place with values of ordinary size.

    Weights of two or more dimensions have variance 2 / fan-in, so that signals neither die nor explode through many
    layers; scales and variances lie in [0.5, 1.5], biases and means have deviation 0.1. All are uniform, which is three
    times cheaper to draw than normal.
    Constant buffers (blur kernels, anchors) are multiplied by uniform values, so that zeros and signs stay.

    Args:
        model: changed in place.
        seed: the same seed draws the same values for the same names and shapes.
    """
    variances = {
        id(module.running_var) for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase)
    }
    with torch.no_grad():
        for name, entry in stored_tensors(model).items():
            if entry.tensor.is_floating_point():
                entry.tensor.copy_(_drawn(name, entry, id(entry.tensor) in variances, seed))


def _drawn(name: str, entry: StoredTensor, is_variance: bool, seed: int) -> Tensor:
    tensor = entry.tensor
    generator = generator_for(seed, "redraw", name)
    leaf = name.rsplit(".", 1)[-1]

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(tensor.shape, dtype=torch.float64).uniform_(low, high, generator=generator)

    def spread(deviation: float) -> Tensor:
        return uniform(-math.sqrt(3.0) * deviation, math.sqrt(3.0) * deviation)

    if is_variance or (tensor.dim() < 2 and entry.is_parameter and leaf != "bias"):
        return uniform(0.5, 1.5)
    if leaf in ("bias", "running_mean"):
        return spread(0.1)
    if not entry.is_parameter:
        return tensor.detach().cpu() * uniform(0.5, 1.5)
    fan_in = max(1, math.prod(tensor.shape[1:]))
    return spread(math.sqrt(2.0 / fan_in))
