"""Values of criteria that need the weights alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.criteria.criterion import Criterion
from secateur.criteria.sites import Model, Site
from secateur.errors import UsageError


def values_from_weights(criterion: Criterion, model: Model, sites: Sequence[Site]) -> list[Tensor]:
    """Return the values of each site, shape (units,), float64, on the CPU.

    A unit that owns several indices gets the sum of their values.

    Raises:
        UsageError: the criterion's function returns another shape than one value per row.
    """
    known: dict[tuple[str, int], Tensor] = {}  # a weight that several groups share is looked at once
    values = []
    for site in sites:
        name, dim = place = site.parameters[0]
        if place not in known:
            known[place] = _by_index(criterion, model.parameters[name], name, dim)
        by_index = known[place]
        values.append(by_index if site.places is None else by_index[site.places].sum(1))
    return values


def slices_of(weight: Tensor, dim: int) -> Tensor:
    """Return one row per index of a dimension, shape (n, elements), at least in single precision."""
    rows = weight.detach().movedim(dim, 0).flatten(1) if weight.dim() > 1 else weight.detach().unsqueeze(1)
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def _by_index(criterion: Criterion, weight: Tensor, name: str, dim: int) -> Tensor:
    assert criterion.slices is not None
    values = criterion.slices(slices_of(weight, dim))
    if values.shape != (weight.shape[dim],):
        raise UsageError(f"the criterion gives shape {tuple(values.shape)} for {weight.shape[dim]} channels of {name}")
    return values.detach().cpu().double()
