"""How much a unit matters by its weights alone."""

import torch
from torch import Tensor

from secateur.errors import UsageError


def l1_norm(slices: Tensor) -> Tensor:
    """Return the sum of absolute weights of each slice (source: Li et al. 2017, arXiv:1608.08710, §3.1).

    Args:
        slices: one row per index of the cut dimension, shape (n, elements).

    Returns:
        Shape (n,), in weight units, never negative; the lowest are cut first.

    Raises:
        UsageError: ``slices`` is not two-dimensional.
    """
    check_rows(slices)
    norms: Tensor = torch.linalg.vector_norm(slices, ord=1, dim=1)  # without a temporary of absolute values
    return norms


def l2_norm(slices: Tensor) -> Tensor:
    """Return the Euclidean norm of each slice (compared with L1 in Li et al. 2017, arXiv:1608.08710, §4.5).

    Args:
        slices: one row per index of the cut dimension, shape (n, elements).

    Returns:
        Shape (n,), in weight units, never negative; the lowest are cut first.

    Raises:
        UsageError: ``slices`` is not two-dimensional.
    """
    check_rows(slices)
    norms: Tensor = torch.linalg.vector_norm(slices, ord=2, dim=1)
    return norms


def check_rows(slices: Tensor) -> None:
    """Refuse what is not one row per channel.

    Raises:
        UsageError: ``slices`` is not two-dimensional.
    """
    if slices.dim() != 2:
        raise UsageError(f"slices has shape {tuple(slices.shape)}; pass one row per channel, shape (n, elements)")


def doubled(values: Tensor) -> Tensor:
    """Return double precision, on the CPU where the device has none, as Apple's."""
    return values.cpu().double() if values.device.type == "mps" else values.double()
