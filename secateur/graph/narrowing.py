"""``narrowed``: run the full model's own parameters, sliced, at the width of a plan, with gradients."""

import contextlib
from collections.abc import Iterator, MutableMapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.graph.copying import forget_kept
from secateur.graph.cuts import fingerprint_of
from secateur.graph.dropping import dropped
from secateur.graph.plan import DimensionCut, Plan
from secateur.graph.slots import StoredTensor, refuse_wrappers, stored_tensors, swapped
from secateur.graph.surgery import LayerShapes, check_fits, cut_stored, layer_sizes
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
    with Narrowable(model).at(plan, statistics=statistics):
        yield model


class Narrowable:
    """A model that was looked through once, to be narrowed to several plans in turn.

    It holds while the model keeps its modules, parameters and buffers, so a training step makes one for all the widths
    that it runs. Looking a network of 150 layers through costs as much as narrowing it.
    """

    def __init__(self, model: nn.Module) -> None:
        """Look ``model`` through.

        Raises:
            TraceError: the model is wrapped or compiled.
        """
        refuse_wrappers(model)
        self.model = model
        self._class = type(model).__qualname__
        self._stored = stored_tensors(model)
        shapes = {name: tuple(entry.tensor.shape) for name, entry in self._stored.items()}
        self._fingerprint = fingerprint_of(self._class, shapes)
        layers: dict[int, tuple[nn.Module, dict[str, str]]] = {}
        for entry in self._stored.values():
            for slot in entry.slots:
                layers.setdefault(id(slot.module), (slot.module, {}))[1][slot.attribute] = entry.name
        self._layers = tuple(layers.values())
        self._keeping = any(type(module).train is not nn.Module.train for module in model.modules())

    @contextlib.contextmanager
    def at(self, plan: Plan, *, statistics: Statistics | None = None) -> Iterator[nn.Module]:
        """Do as :func:`narrowed` does, which see, and yield the model.

        Raises:
            PlanError: the plan was made for another model.
        """
        if plan.fingerprint != self._fingerprint:
            check_fits(self._stored, self._class, plan)

        def sliced(entry: StoredTensor) -> Tensor | None:
            if entry.name in plan.dropped_tensors:
                return None
            cuts = plan.cuts_of.get(entry.name, ())
            if entry.is_parameter:
                return narrow_tensor(entry.tensor, cuts) if cuts else None
            if statistics is None:
                return None if _idle(entry) else cut_stored(entry.name, entry.tensor.detach(), plan)
            if entry.name not in statistics:
                statistics[entry.name] = cut_stored(entry.name, entry.tensor.detach(), plan)
            return statistics[entry.name]

        with swapped(self._stored, sliced), dropped(self.model, plan.drops), self._sizes_of(plan):
            self._forget_kept()
            try:
                yield self.model
            finally:
                self._forget_kept()
                if statistics is not None:  # a forward may have put a new tensor in a buffer's place
                    for entry in self._stored.values():
                        if not entry.is_parameter and entry.name not in plan.dropped_tensors:
                            statistics[entry.name] = entry.slots[0].tensor

    @contextlib.contextmanager
    def _sizes_of(self, plan: Plan) -> Iterator[None]:
        """Let integer attributes be those of ``plan`` inside the block."""
        plain: list[tuple[dict[str, Any], dict[str, Any]]] = []  # torch's own layers keep theirs as they are
        for module, names in self._layers:
            if not any(name in plan.cuts_of for name in names.values()):
                continue

            def shapes(attribute: str, names: dict[str, str] = names) -> LayerShapes | None:
                name = names.get(attribute)
                return None if name is None else (plan.shapes[name], plan.shapes_after[name], name)

            sizes = layer_sizes(module, shapes, plan.regrouped)
            if sizes:
                values = vars(module)
                sizes = {name: size for name, size in sizes.items() if name in values}
                plain.append((values, {name: values[name] for name in sizes}))
                values.update(sizes)
        written = [(self.model.get_submodule(path), name, value) for path, name, value in plan.attributes]
        before = [(module, name, read_size(module, name)) for module, name, _ in written]
        try:
            for module, name, value in written:
                write_size(module, name, value)
            yield
        finally:
            for module, name, value in before:
                write_size(module, name, value)
            for values, sizes in plain:
                values.update(sizes)

    def _forget_kept(self) -> None:
        if self._keeping:
            forget_kept(self.model)


def _idle(entry: StoredTensor) -> bool:
    """Whether a buffer is a running statistic that its norm neither reads nor writes as it is now."""
    return all(
        isinstance(slot.module, _BatchNorm) and slot.module.training and not slot.module.track_running_stats
        for slot in entry.slots
    )


def narrow_tensor(tensor: Tensor, cuts: tuple[DimensionCut, ...]) -> Tensor:
    """Return ``tensor`` without the removed indices, differentiably: a view where what stays is one range."""
    for cut in cuts:
        kept = cut.kept
        if kept[-1] - kept[0] + 1 == kept.size:
            tensor = tensor.narrow(cut.dim, int(kept[0]), int(kept.size))
        else:
            chosen = torch.from_numpy(np.ascontiguousarray(kept)).to(tensor.device)
            tensor = cast(Tensor, _Selected.apply(tensor, cut.dim, chosen))  # type: ignore[no-untyped-call]
    return tensor


class _Selected(torch.autograd.Function):
    """``index_select`` of indices that differ; its own backward pass adds slice by slice, which is ten times slower."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dim: int, chosen: Tensor) -> Tensor:
        ctx.save_for_backward(chosen)
        ctx.dim, ctx.size = dim, tensor.shape[dim]
        return tensor.index_select(dim, chosen)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (chosen,) = gradients, ctx.saved_tensors
        # Each index reads its place in the gradient, and those that were left out a slice of zeros behind it.
        places = chosen.new_full((ctx.size,), chosen.numel())
        places[chosen] = torch.arange(chosen.numel(), device=chosen.device)
        shape = list(gradient.shape)
        shape[ctx.dim] = 1
        padded = torch.cat([gradient, gradient.new_zeros(shape)], ctx.dim)
        return padded.index_select(ctx.dim, places), None, None
