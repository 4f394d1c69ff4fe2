"""From values of each member to one score per unit."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from secateur.criteria.criterion import Combine, Criterion
from secateur.criteria.sites import Site
from secateur.errors import UsageError


def combined(
    criterion: Criterion, sites: Sequence[Site], values: Sequence[Tensor], combine: Combine
) -> dict[str, Tensor]:
    """Return {owner: score of each unit} from the values of each site, in the order of the sites.

    Args:
        criterion: says whether values are divided by the norm of their layer first.
        sites: where the values were seen.
        values: of each site, shape (units,).
        combine: how sites of one owner combine.

    Raises:
        UsageError: a score is not a number.
    """
    found: dict[str, list[Tensor]] = {}
    for site, value in zip(sites, values, strict=True):
        found.setdefault(site.owner, []).append(unit_length(value) if criterion.per_layer_l2 else value)
    scores = {owner: members_as_one(members, combine) for owner, members in found.items()}
    refuse_not_finite(criterion, scores, "group")
    return scores


def members_as_one(members: Sequence[Tensor], combine: Combine) -> Tensor:
    """Return one value per unit from those of several members, all of shape (units,)."""
    if combine == "max":
        return torch.stack(list(members)).amax(0)
    total = torch.zeros_like(members[0])
    for values in members:
        total = total + (values.square() if combine == "l2" else values)
    if combine == "mean":
        return total / len(members)
    return total.sqrt() if combine == "l2" else total


def unit_length(values: Tensor) -> Tensor:
    """Return ``values`` divided by their Euclidean norm; zeros stay zeros."""
    length = torch.linalg.vector_norm(values)
    return values / length if length > 0 else values


def refuse_not_finite(criterion: Criterion, scores: Mapping[str, Tensor], kind: str) -> None:
    """Refuse scores that are NaN or infinite.

    Raises:
        UsageError: they are; names the first group or block.
    """
    for name, values in scores.items():
        if not torch.isfinite(values).all():
            why = (
                "the weights hold NaN or infinity: load sound weights"
                if not criterion.needs_data
                else "weights, images or gradients hold NaN or infinity: look for them in the loss of each batch"
            )
            raise UsageError(f"criterion {criterion.name!r} gives {kind} {name!r} a score that is not finite; {why}")
