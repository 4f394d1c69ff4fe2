"""``apply``: a cut copy of a model, proved before it is returned."""

from collections.abc import Sequence

import torch
from torch import nn

from secateur.errors import VerificationError
from secateur.graph.inputs import ExampleInputs
from secateur.graph.plan import Plan
from secateur.graph.surgery import cut_copy
from secateur.graph.verify import verify


def apply(
    model: nn.Module, plan: Plan, *, verify_with: ExampleInputs | None, outputs: Sequence[str] | None = None
) -> nn.Module:
    """Return a smaller copy of ``model``, an ordinary module of the same classes; ``model`` stays as it was.

    Classes, dtype, device, memory format, ``requires_grad``, train and eval flags and hooks are kept; the integer
    attributes that count channels are changed with their tensors.

    Args:
        model: the model that the plan was made for.
        plan: what to remove.
        verify_with: example inputs for the proof that the cut model computes what the masked original computes, in
            approximate groups with statistics over the channels that stay; None skips the proof.
        outputs: as in :func:`secateur.verify`; None takes those of the plan.

    Raises:
        PlanError: the plan was made for another model.
        SurgeryError: the model cannot be copied, or a hook holds a shape that changes.
        VerificationError: the proof failed; nothing is returned.
    """
    with torch.inference_mode(mode=False):
        small = cut_copy(model, plan)
    if verify_with is not None and not plan.is_empty:
        proof = verify(model, small, plan, verify_with, outputs=outputs)
        if not proof.passed:
            raise VerificationError(proof.sentence())
    return small
