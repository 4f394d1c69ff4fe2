"""The sub-gradient of λ·Σ|w|, added to the gradients after the backward pass: L1 regularisation of the weights."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class WeightL1:
    """A hook of training: gradient of w += λ·sign(w), where sign(0) = 0; biases and norms are left alone.

    Source: Han et al. 2015, arXiv:1506.02626, §3.1. The loss that is shown is that of the data alone. L2 needs no hook:
    it is the weight decay of the training settings.
    """

    def __init__(self, names: Iterable[str], weight: float) -> None:
        """Prepare for the parameters ``names``; ``weight`` is λ, loss per unit of |w|."""
        self.names = tuple(names)
        self.weight = weight
        self._model: nn.Module | None = None  # whose parameters were looked up; nothing is remembered of training
        self._weights: list[nn.Parameter] = []

    def after_backward(self, model: nn.Module) -> None:
        """Add the sub-gradient; weights without a gradient are frozen and stay so."""
        if self._model is not model:
            self._model, self._weights = model, [model.get_parameter(name) for name in self.names]
        weights = [weight for weight in self._weights if weight.grad is not None]
        if weights and self.weight:
            gradients: list[Tensor] = [weight.grad for weight in weights if weight.grad is not None]
            signs = torch._foreach_sign([weight.detach() for weight in weights])
            torch._foreach_add_(gradients, signs, alpha=self.weight)
