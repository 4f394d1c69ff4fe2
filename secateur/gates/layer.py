"""A gate behind a convolution or linear layer, for networks without batch norm."""

from typing import Any, cast

import torch
from torch import Tensor, nn

GATE = "gated"
"""Name of the gate as a child of its layer."""


class GatedConv(nn.Module):
    """A gate behind a layer without a norm: out = φ·mask·layer(x), its bias included.

    It is a child of the layer, which calls it with what it has computed: the layer stays what it is, under its name and
    with its weights. The activations are multiplied, not the weights: while convolutions are still, no gradient of
    their weights has to be computed then.

    Source: the Gated Convolution of You et al. 2019, arXiv:1909.08174, which its authors did not release.

    Attributes:
        gate: φ, shape (channels,).
        mask: 1 for channels that are there and 0 for those that are not, shape (channels,).
    """

    gate: nn.Parameter
    mask: Tensor

    def __init__(self, layer: nn.Module, *, init: float = 1.0) -> None:
        """Make a gate for the channels that ``layer`` produces; :meth:`attach` puts it there."""
        super().__init__()
        weight = cast(Tensor, layer.weight)
        self._spatial = weight.dim() - 2
        channels = weight.shape[output_dim(layer)]
        self.gate = nn.Parameter(torch.full((channels,), init, dtype=weight.dtype, device=weight.device))
        self.register_buffer("mask", torch.ones_like(self.gate.detach()))
        self.training = layer.training

    def forward(self, activations: Tensor) -> Tensor:
        """Scale channels: dimension 1 of images (N, C, …), the last one behind linear layers (…, C)."""
        gate = self.gate * self.mask
        for _ in range(self._spatial):
            gate = gate.unsqueeze(-1)
        return activations * gate

    def attach(self, layer: nn.Module) -> None:
        """Put the gate behind ``layer``."""
        layer.add_module(GATE, self)
        layer.register_forward_hook(_through_gate)

    def melt_into(self, layer: nn.Module) -> None:
        """Multiply the layer's weight and bias by the gate and take the gate away."""
        for key, hook in list(layer._forward_hooks.items()):
            if hook is _through_gate:
                del layer._forward_hooks[key]
        with torch.no_grad():
            gate = self.gate * self.mask
            weight, bias = cast(Tensor, layer.weight), cast(Tensor | None, layer.bias)
            shape = [1] * weight.dim()
            shape[output_dim(layer)] = -1
            weight.mul_(gate.view(shape))
            if bias is not None:
                bias.mul_(gate)
        delattr(layer, GATE)


def output_dim(layer: nn.Module) -> int:
    """Return the dimension of a layer's weight that counts the channels it produces."""
    return 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0


def _through_gate(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
    """Forward hook of a gated layer; it holds nothing, so that copies of the layer may share it."""
    del args
    gated: Tensor = getattr(layer, GATE)(output)
    return gated
