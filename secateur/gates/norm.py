"""A gate inside a normalisation layer: φ scales what the layer emits for a channel, its constant included."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

SHIFT_LIMIT = 10.0
"""Of |β/γ| at the take-over, as in the authors' code."""

Init = Literal["take-over", "one"] | float
Clamped = Literal["drop", "keep"]


@dataclass(frozen=True)
class ClampedShifts:
    """Channels of one layer whose β/γ lies beyond the limit, so that the take-over changes or splits their constant.

    Attributes:
        channels: how many.
        largest: the largest constant, |β − γ·(clamped β/γ)|, that the gate does not hold.
        kept: whether these constants still stand beside the gate; otherwise they are gone.
    """

    channels: int
    largest: float
    kept: bool


class GatedNorm(nn.Module):
    """A norm layer whose channels pass a gate: out = φ·mask·(γ·ẑ + shift), with ẑ the normalised input.

    The layer itself does the work: it is given φ·mask·γ for its weight and φ·mask·shift for its bias, so that a gated
    layer costs no pass over the activations, and subclasses that add an activation keep it behind the gate.

    With ``take-over``, φ takes the place of γ, and shift = β/γ lies inside the gate, clamped to ±10; γ itself is 1 and
    not stored. A channel with tiny γ and large β (|β/γ| > 10) then emits φ·(ẑ ± 10) instead of a constant near β: with
    ``clamped="drop"``, as published, the rest of the constant is lost. With ``"keep"`` it stays beside the gate as a
    buffer, so that nothing changes until the channel is removed; no score sees it. γ = 0 gives φ = 0: such a channel is
    dead from the start, whatever its β.

    With ``one`` or a number, φ starts there beside a living γ and β.

    Source: You et al. 2019, arXiv:1909.08174, Eq. 7, and the authors' code.

    Attributes:
        norm: the layer, without its weight and bias.
        gate: φ, shape (channels,).
        shift: what is added inside the gate, shape (channels,); None where the layer has no bias.
        scale: γ, shape (channels,); None where φ took its place.
        mask: 1 for channels that are there and 0 for those that are not, shape (channels,).
        constant: what stands beside the gate, shape (channels,); None unless clamped constants are kept.
    """

    gate: nn.Parameter
    mask: Tensor
    shift: nn.Parameter | None
    scale: nn.Parameter | None
    constant: Tensor | None

    def __init__(self, norm: nn.Module, *, init: Init = "take-over", clamped: Clamped = "drop") -> None:
        """Take over the weight and bias of ``norm``, which must be vectors of one entry per channel."""
        super().__init__()
        weight, bias = norm.weight, norm.bias if "bias" in norm._parameters else None
        assert isinstance(weight, nn.Parameter)
        self.clamped = ClampedShifts(0, 0.0, kept=clamped == "keep")
        self._trained = (weight.requires_grad, isinstance(bias, nn.Parameter) and bias.requires_grad)
        scale = weight.detach().clone()
        shift = bias.detach().clone() if isinstance(bias, nn.Parameter) else None
        constant = None
        if init == "take-over":
            self.gate = nn.Parameter(scale)
            self.register_parameter("scale", None)
            if shift is not None:
                shift, constant = self._taken_over(scale, shift, keep=clamped == "keep")
        else:
            self.gate = nn.Parameter(torch.full_like(scale, 1.0 if init == "one" else init))
            self.scale = nn.Parameter(scale, requires_grad=weight.requires_grad)
        self.register_parameter("shift", None if shift is None else nn.Parameter(shift))
        self.register_buffer("mask", torch.ones_like(scale))
        self.register_buffer("constant", constant)
        norm._parameters["weight"] = None
        if shift is not None:
            norm._parameters["bias"] = None
        self.norm = norm
        self.training = norm.training

    def _taken_over(self, scale: Tensor, bias: Tensor, *, keep: bool) -> tuple[Tensor, Tensor | None]:
        """Return β/γ within the limit, and what of β that leaves out where it is to be kept."""
        ratio = bias / scale
        # 0/0 is NaN, which clamp would let through; β/0 is infinite and becomes the limit.
        shift = torch.where(torch.isnan(ratio), torch.zeros_like(ratio), ratio).clamp(-SHIFT_LIMIT, SHIFT_LIMIT)
        beyond = ratio.abs() > SHIFT_LIMIT
        rest = torch.where(beyond, bias - scale * shift, torch.zeros_like(bias))
        if beyond.any():
            self.clamped = ClampedShifts(int(beyond.sum()), float(rest.abs().max()), kept=keep)
        return shift, rest if keep and beyond.any() else None

    def affine(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight and the bias that the gate, its shift and the mask come to, shapes (channels,)."""
        gate = self.gate * self.mask
        weight = gate if self.scale is None else gate * self.scale
        bias = None if self.shift is None else gate * self.shift
        if bias is not None and self.constant is not None:
            bias = bias + self.constant * self.mask
        return weight, bias

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer with the weight and bias of :meth:`affine`."""
        weight, bias = self.affine()
        own = vars(self.norm)  # found before the registered parameters, which are None
        own["weight"] = weight
        if bias is not None:
            own["bias"] = bias
        try:
            return self.norm(*args, **kwargs)
        finally:
            own.pop("weight", None)
            own.pop("bias", None)

    def melted(self) -> nn.Module:
        """Give the layer its weight and bias back, the gate in them, and return it; this module is then spent."""
        weight, bias = self.affine()
        trained = self._trained
        self.norm.weight = nn.Parameter(weight.detach().clone(), requires_grad=trained[0])
        if bias is not None:
            self.norm.bias = nn.Parameter(bias.detach().clone(), requires_grad=trained[1])
        self.norm.train(self.training)
        return self.norm
