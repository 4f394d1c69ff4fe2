"""The sub-gradient of λ·Σ|γ|, added to the gradients after the backward pass."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class ScaleSparsity:
    """A hook of training: gradient of γ += λ·sign(γ), where sign(0) = 0; nothing is done to β.

    Source: Liu et al. 2017, arXiv:1708.06519, Eq. 1, with the sub-gradient as in its code, so that the loss shown is
    that of the data alone.
    """

    def __init__(self, names: Iterable[str], weight: float) -> None:
        """Prepare for the parameters ``names``; ``weight`` is λ, loss per unit of γ."""
        self.names = tuple(names)
        self.weight = weight
        self._model: nn.Module | None = None  # whose parameters were looked up; nothing is remembered of training
        self._scales: list[nn.Parameter] = []

    def after_backward(self, model: nn.Module) -> None:
        """Add the sub-gradient; parameters without a gradient are frozen and stay so."""
        if self._model is not model:
            self._model, self._scales = model, [model.get_parameter(name) for name in self.names]
        scales = [scale for scale in self._scales if scale.grad is not None]
        if scales and self.weight:
            gradients: list[Tensor] = [scale.grad for scale in scales if scale.grad is not None]
            # A handful of calls for all layers together: on a GPU each call costs as much as its launch.
            signs = torch._foreach_sign([scale.detach() for scale in scales])
            torch._foreach_add_(gradients, signs, alpha=self.weight)
