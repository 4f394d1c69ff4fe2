"""How much the loss would change without a unit, by its derivatives."""

from torch import Tensor

from secateur.criteria.activations import check_activations
from secateur.criteria.norms import check_rows
from secateur.errors import UsageError


def gate_taylor(values: Tensor, gradients: Tensor) -> Tensor:
    """Estimate how much the loss of a mini-batch changes when each channel's gate is closed.

    Source: You et al. 2019, "Gate Decorator", arXiv:1909.08174, Eq. 6: |φ · ∂L/∂φ|. The absolute value is taken of the
    mean loss of each mini-batch; the mini-batches are then summed. A gate φ that multiplies all that some parameters
    make has φ · ∂L/∂φ = Σ p · ∂L/∂p over them, since both are the derivative along scaling them together. So no gate
    is needed: a row may hold φ alone, γ and β of the norm that the gate would stand behind, or the weights and the
    bias of a layer without norm.

    Args:
        values: what scales a channel, shape (n, elements).
        gradients: ∂L/∂values of one mini-batch, shape (n, elements).

    Returns:
        |Σ values · gradients| along each row, shape (n,), in loss units; the lowest are cut first.

    Raises:
        UsageError: the shapes differ, or are not two-dimensional.
    """
    return _along_rows(values, gradients).abs()


def weight_taylor(values: Tensor, gradients: Tensor) -> Tensor:
    """Estimate the squared change of a mini-batch's loss when each filter goes, to first order in its weights.

    Source: Molchanov et al. 2019, arXiv:1906.10771, §3.1: the joint importance (Σ g · w)² of a filter's parameters,
    averaged over mini-batches.

    Args:
        values: parameters of each filter, its bias included, shape (n, elements).
        gradients: ∂L/∂values of one mini-batch, shape (n, elements).

    Returns:
        (Σ values · gradients)², shape (n,), in squared loss units; the lowest are cut first.

    Raises:
        UsageError: the shapes differ, or are not two-dimensional.
    """
    return _along_rows(values, gradients).square()


def activation_taylor(activations: Tensor, gradients: Tensor) -> Tensor:
    """Estimate how much the loss of a sample changes when each feature map becomes zero.

    Source: Molchanov et al. 2017, "PCNN", arXiv:1611.06440, Eq. 8: |1/M Σ a · ∂L/∂a| over the M positions of a map,
    for each sample by itself, then averaged over samples.

    Args:
        activations: feature maps, shape (samples, n, positions).
        gradients: ∂(the sample's loss)/∂activations, of the same shape.

    Returns:
        Shape (n,), in loss units; the lowest are cut first. The paper divides by the Euclidean norm over each layer's
        maps (§2.3), which the criterion ``activation_taylor`` does after the last mini-batch.

    Raises:
        UsageError: the shapes differ, or are not three-dimensional.
    """
    check_activations(activations, gradients)
    return (activations * gradients).mean(dim=2).abs().mean(dim=0)


def fisher(activations: Tensor, gradients: Tensor) -> Tensor:
    """Estimate how much the mean loss rises when each feature map becomes zero, by the diagonal of the Fisher matrix.

    Source: Theis et al. 2018, arXiv:1801.05787, §2: 1/(2N) Σ over samples of (Σ over positions of a · ∂L/∂a)², the
    second-order term near a minimum, with the Fisher information of one gate per map in the Hessian's place.

    Args:
        activations: feature maps, shape (samples, n, positions).
        gradients: ∂(the sample's loss)/∂activations, of the same shape; the loss is a negative log-likelihood, such as
            cross entropy.

    Returns:
        Shape (n,), in loss units; the lowest are cut first.

    Raises:
        UsageError: the shapes differ, or are not three-dimensional.
    """
    check_activations(activations, gradients)
    return 0.5 * (activations * gradients).sum(dim=2).square().mean(dim=0)


def _along_rows(values: Tensor, gradients: Tensor) -> Tensor:
    check_rows(values)
    if values.shape != gradients.shape:
        raise UsageError(
            f"values have shape {tuple(values.shape)} but gradients {tuple(gradients.shape)}; pass the gradients of "
            "these very values"
        )
    return (values * gradients).sum(dim=1)
