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

    Weights of two or more dimensions are normal with variance 2 / fan-in, so that signals neither die nor explode
    through many layers; scales and variances are uniform in [0.5, 1.5], biases and means normal with deviation 0.1.
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
    shape, dtype = tensor.shape, tensor.dtype
    leaf = name.rsplit(".", 1)[-1]

    def uniform() -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).add_(0.5).to(dtype)

    def normal(deviation: float) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul_(deviation).to(dtype)

    if is_variance or (tensor.dim() < 2 and entry.is_parameter and leaf != "bias"):
        return uniform()
    if leaf in ("bias", "running_mean"):
        return normal(0.1)
    if not entry.is_parameter:
        return tensor.detach().cpu() * uniform()
    fan_in = max(1, math.prod(shape[1:]))
    return normal(math.sqrt(2.0 / fan_in))
