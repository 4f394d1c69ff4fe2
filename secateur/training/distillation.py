"""Learning from a teacher's soft targets (source: Hinton et al. 2015, arXiv:1503.02531)."""

import copy

from torch import Tensor, nn
from torch.nn import functional as F


def distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Return T² · KL(softmax(teacher / T) ‖ softmax(student / T)), averaged over the batch.

    The factor T² keeps the size of the gradients independent of the temperature.

    Args:
        student: logits, (N, classes).
        teacher: logits, (N, classes); no gradient flows into them.
        temperature: T, above 0.

    Returns:
        A scalar in nats.
    """
    soft = F.log_softmax(teacher.detach() / temperature, dim=1)
    predicted = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(predicted, soft, reduction="batchmean", log_target=True) * temperature**2


def frozen_teacher(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` that never changes: in eval mode and without gradients.

    It is a copy because the model itself is usually the one that is about to be cut.
    """
    return copy.deepcopy(model).eval().requires_grad_(False)
