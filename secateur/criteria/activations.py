"""How much a unit matters by what the next layers read of it."""

from torch import Tensor

from secateur.criteria.norms import doubled
from secateur.errors import UsageError


def apoz(activations: Tensor) -> Tensor:
    """Return the share of a feature map that is not zero: 1 − APoZ.

    Source: Hu et al. 2016, "Network Trimming", arXiv:1607.03250, Eq. 1: the average percentage of zeros over samples
    and positions behind the ReLU. A high percentage of zeros says that a unit is of little use; scores say what to
    keep, so the complement is returned. Without a ReLU nearly nothing is zero, and all units come out alike.

    Args:
        activations: what the next layer reads, shape (samples, n, positions).

    Returns:
        Shape (n,), in [0, 1]; the lowest are cut first.

    Raises:
        UsageError: ``activations`` is not three-dimensional.
    """
    check_activations(activations)
    return doubled(activations.count_nonzero(dim=(0, 2))) / (activations.shape[0] * activations.shape[2])


def mean_activation(activations: Tensor) -> Tensor:
    """Return the mean size of a feature map.

    Source: Molchanov et al. 2017, arXiv:1611.06440, §2.2: the mean activation behind a ReLU. Departure: the mean of
    absolute values, which is the same behind a ReLU and still a size where activations have signs.

    Args:
        activations: what the next layer reads, shape (samples, n, positions).

    Returns:
        Shape (n,), in units of the activations, never negative; the lowest are cut first.

    Raises:
        UsageError: ``activations`` is not three-dimensional.
    """
    check_activations(activations)
    return activations.abs().mean(dim=(0, 2))


def check_activations(activations: Tensor, gradients: Tensor | None = None) -> None:
    """Refuse activations that are not (samples, n, positions), and gradients of another shape.

    Raises:
        UsageError: they are.
    """
    if activations.dim() != 3:
        raise UsageError(f"activations have shape {tuple(activations.shape)}; pass (samples, channels, positions)")
    if gradients is not None and gradients.shape != activations.shape:
        raise UsageError(
            f"activations have shape {tuple(activations.shape)} but gradients {tuple(gradients.shape)}; pass the "
            "gradients of these very activations"
        )
