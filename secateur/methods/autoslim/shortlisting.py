"""First-order scores of candidates: how much the loss would change if a group lost its next units."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from secateur.graph import ChannelGraph, Group, Plan
from secateur.graph.narrowing import Narrowable
from secateur.slimmable import Widths
from secateur.slimmable.sandwich import cross_entropy
from secateur.training import Batch

SAMPLES = 256
"""Scores are of so many samples at most: the backward pass keeps all that the forward pass computes."""


def first_order(
    narrowable: Narrowable, graph: ChannelGraph, plan: Plan, counts: Mapping[str, int], widths: Widths, batch: Batch
) -> dict[str, float]:
    """Return |Σ w · ∂loss/∂w| over the weights that read the units each group would lose, in loss units.

    Without these weights the units count for nothing, so to first order this is how far the loss would move.

    Source: Molchanov et al. 2017, arXiv:1611.06440, section 2.2, for several channels at once.

    Args:
        narrowable: the large network.
        graph: of it.
        plan: of the widths that it has now.
        counts: group → units that it would keep.
        widths: that it has now.
        batch: whose first samples are looked at.
    """
    model = narrowable.model
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.is_floating_point()}
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        with narrowable.at(plan):
            loss = cross_entropy(model, (batch[0][:SAMPLES], batch[1][:SAMPLES]))
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
    products = {
        name: parameter.detach() * gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        if gradient is not None
    }
    return {
        name: abs(_change(products, graph.group(name), range(count, widths.get(name, graph.group(name).size))))
        for name, count in counts.items()
    }


def _change(products: Mapping[str, Tensor], group: Group, lost: range) -> float:
    """Return the sum of products over all weights that read units, or where none does, over those that make them."""
    readers = [member for member in group.members if member.role == "consumes"]
    total = 0.0
    for member in readers or [member for member in group.members if member.role == "produces"]:
        if member.parameter not in products:
            continue
        entries = np.flatnonzero((member.units >= lost.start) & (member.units < lost.stop))
        chosen = torch.from_numpy(entries).to(products[member.parameter].device)
        total += float(products[member.parameter].index_select(member.dim, chosen).sum(dtype=torch.float64))
    return total
