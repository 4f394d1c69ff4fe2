"""Hooks for training with gates: the sparsity of a Tock, and the scores of a Tick."""

from typing import Literal

import torch
from torch import Tensor, nn

from secateur.criteria.scoring import Combine, Scores
from secateur.errors import UsageError
from secateur.gates.gates import Gates
from secateur.names import unknown_name
from secateur.training.task import Batch


class GatePenalty:
    """Adds λ·sign(φ), the sub-gradient of λ·Σ|φ|, to the gradients of the gates after the backward pass.

    Equal to the term in the loss, whose value it leaves out of the loss that is reported, and cheaper: nothing is added
    to the graph of the backward pass.
    """

    def __init__(self, gates: Gates, weight: float) -> None:
        self._gates = gates
        self._weight = weight

    def after_backward(self, model: nn.Module) -> None:
        """Change the gradients."""
        pairs = [(gate.detach(), gate.grad) for gate in self._gates.parameters(model)]
        gates = [gate for gate, gradient in pairs if gradient is not None]
        gradients = [gradient for _, gradient in pairs if gradient is not None]
        if gates:
            torch._foreach_add_(gradients, torch._foreach_sign(gates), alpha=self._weight)


class GatePenaltyTerm:
    """Adds λ·Σ|φ| to the loss, as Eq. 8 is written."""

    def __init__(self, gates: Gates, weight: float) -> None:
        self._gates = gates
        self._weight = weight

    def loss(self, model: nn.Module, batch: Batch, loss: Tensor) -> Tensor:
        """Return the loss with the term."""
        del batch
        return loss + self._weight * torch.cat([*self._gates.parameters(model)]).abs().sum()


def gate_penalty(
    gates: Gates, weight: float, *, form: Literal["sub-gradient", "loss"] = "sub-gradient"
) -> GatePenalty | GatePenaltyTerm:
    """Return the training hook for the sparsity of gates: loss + λ·Σ|φ| over all gates.

    Source: Eq. 8 of You et al. 2019, arXiv:1909.08174.

    Args:
        gates: of the model that is trained.
        weight: λ.
        form: ``sub-gradient`` changes gradients after the backward pass, ``loss`` adds the term; the steps are equal.

    Raises:
        UsageError: λ is negative or not finite, or there is no such form.
    """
    if not 0 <= weight < float("inf"):
        raise UsageError(f"the weight of the gates' penalty is {weight}, but must be at least 0 and finite")
    if form not in ("sub-gradient", "loss"):
        raise UsageError(unknown_name("form of the penalty", form, ("sub-gradient", "loss")))
    return GatePenalty(gates, weight) if form == "sub-gradient" else GatePenaltyTerm(gates, weight)


class TickScores:
    """Accumulates |φ·∂L/∂φ| of every mini-batch, the score of Gate Decorator, during ordinary training steps.

    The absolute value is taken per mini-batch of its mean loss and per gate, and then summed (Eq. 6); it must see the
    gradients before any penalty is added to them. A masked gate has no gradient and scores 0.

    Source: Eq. 6 and 9 of You et al. 2019, arXiv:1909.08174.
    """

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self._sums: Tensor | None = None

    def after_backward(self, model: nn.Module) -> None:
        """Add this mini-batch."""
        gates = self._gates.parameters(model)
        with torch.no_grad():
            values = torch.cat([gate.detach() for gate in gates])
            gradients = torch.cat([torch.zeros_like(gate) if gate.grad is None else gate.grad for gate in gates])
            batch = (values * gradients).abs_().to(torch.float32 if values.is_mps else torch.float64)
            # A step whose gradients overflow half precision is left out by the optimiser, and so it is here.
            batch = torch.where(torch.isfinite(batch).all(), batch, torch.zeros_like(batch))
            self._sums = batch if self._sums is None else self._sums.add_(batch)

    def scores(self, *, combine: Combine = "sum") -> Scores:
        """Return the score of every unit so far; see :meth:`Gates.scores`.

        Raises:
            UsageError: no mini-batch was seen.
        """
        if self._sums is None:
            raise UsageError("there are no scores yet: the hook has seen no mini-batch")
        return self._gates.scores(self._sums, combine=combine)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums, for a checkpoint."""
        return {} if self._sums is None else {"sums": self._sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the sums of a checkpoint back."""
        self._sums = state.get("sums")
