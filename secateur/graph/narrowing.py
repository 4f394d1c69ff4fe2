"""``narrowed``: run the full model's own parameters, sliced, at the width of a plan, with gradients."""

import contextlib
from collections.abc import Iterator, MutableMapping

import numpy as np
import torch
from torch import Tensor, nn

from secateur.graph.copying import forget_kept
from secateur.graph.dropping import dropped
from secateur.graph.plan import DimensionCut, Plan
from secateur.graph.slots import StoredTensor, refuse_wrappers, stored_tensors, swapped
from secateur.graph.surgery import check_fits, cut_stored, integer_attributes
from secateur.graph.written_sizes import read_size, write_size

Statistics = MutableMapping[str, Tensor]
"""Buffers of one plan's own (batch statistics), by name: filled on first use, updated in training mode."""


@contextlib.contextmanager
def narrowed(model: nn.Module, plan: Plan, *, statistics: Statistics | None = None) -> Iterator[nn.Module]:
    """Run ``model`` inside this block with only the channels that ``plan`` keeps: real speed, no rewritten layer.

    Parameters are replaced by slices of themselves (views where a prefix or range is kept, copies otherwise), so
    gradients reach the full parameters. Integer attributes change along, and dropped blocks are left out. Buffers are
    never written: a block works on copies, thrown away at its end, or on ``statistics``, which the caller keeps per
    plan. Everything is put back on any exit. Backward may run after the block. Under DistributedDataParallel give its
    ``.module`` and call the wrapper inside the block.

    Args:
        model: the model that the plan was made for, not compiled.
        plan: what to leave out.
        statistics: buffers of this plan's own, kept between blocks.

    Yields:
        The model.

    Raises:
        PlanError: the plan was made for another model.
        TraceError: the model is wrapped or compiled.
    """
    refuse_wrappers(model)
    stored = stored_tensors(model)
    check_fits(stored, type(model).__qualname__, plan)

    def sliced(entry: StoredTensor) -> Tensor | None:
        if entry.name in plan.dropped_tensors:
            return None
        cuts = plan.cuts_of.get(entry.name, ())
        if entry.is_parameter:
            return narrow_tensor(entry.tensor, cuts) if cuts else None
        if statistics is None:
            return cut_stored(entry.name, entry.tensor.detach(), plan)
        if entry.name not in statistics:
            statistics[entry.name] = cut_stored(entry.name, entry.tensor.detach(), plan)
        return statistics[entry.name]

    attributes = integer_attributes(model, plan, stored)
    before = {
        path: {name: read_size(model.get_submodule(path), name) for name in attributes[path]} for path in attributes
    }
    with swapped(stored, sliced), dropped(model, plan.drops):
        try:
            for path, values in attributes.items():
                for name, value in values.items():
                    write_size(model.get_submodule(path), name, value)
            forget_kept(model)
            yield model
        finally:
            forget_kept(model)
            if statistics is not None:  # a forward may have put a new tensor in a buffer's place
                for entry in stored.values():
                    if not entry.is_parameter and entry.name not in plan.dropped_tensors:
                        statistics[entry.name] = entry.slots[0].tensor
            for path, values in before.items():
                for name, value in values.items():
                    write_size(model.get_submodule(path), name, value)


def narrow_tensor(tensor: Tensor, cuts: tuple[DimensionCut, ...]) -> Tensor:
    """Return ``tensor`` without the removed indices, differentiably: a view where what stays is one range."""
    for cut in cuts:
        kept = cut.kept
        if kept[-1] - kept[0] + 1 == kept.size:
            tensor = tensor.narrow(cut.dim, int(kept[0]), int(kept.size))
        else:
            tensor = tensor.index_select(cut.dim, torch.from_numpy(np.ascontiguousarray(kept)).to(tensor.device))
    return tensor
