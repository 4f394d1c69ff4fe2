"""Two outputs side by side: how far apart they are, and what that says."""

import torch
from torch import Tensor

from secateur.graph.proof import EXACT, VISIBLE


def verdict(error: float, effect: float, scale: float, doubt: float) -> str:
    """Return what the numbers of an :class:`~secateur.graph.proof.OutputProof` say.

    Args:
        error: max|masked − cut|.
        effect: max|original − masked|.
        scale: max|original|.
        doubt: error / effect up to which an error may be rounding.
    """
    if not (error == error and effect == effect):  # NaN
        return "different"
    if effect > VISIBLE * scale and effect > 0:
        if error <= EXACT * effect:
            return "exact"
        return "cannot tell" if error <= doubt * effect else "different"
    # Nothing visible is cut here; then nothing visible may differ either.
    return "cannot tell" if error <= VISIBLE * max(scale, effect) else "different"


def distance(first: Tensor, second: Tensor) -> float:
    """Return the largest absolute difference of two tensors of one shape."""
    # Infinities that agree are no difference; any that do not make the result infinite or NaN.
    difference = torch.where(first == second, torch.zeros_like(first), first - second)
    return float(difference.abs().max())


def effect_of(before: Tensor, zeroed: Tensor) -> float:
    """Return what masking changes: all, where it changes how many boxes a detector looks at."""
    return distance(before, zeroed) if before.shape == zeroed.shape else size(zeroed)


def drift_of(zeroed: Tensor, cut: Tensor) -> float:
    """Return how far the cut output is from the zeroed one: all of it, where a detector looks at other boxes."""
    return distance(zeroed, cut) if zeroed.shape == cut.shape else max(size(zeroed), size(cut))


def size(tensor: Tensor) -> float:
    """Return the largest finite absolute value."""
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.abs().max()) if finite.numel() else 0.0
