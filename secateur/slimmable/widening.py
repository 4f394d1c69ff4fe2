"""Make a network wider through its graph: the inverse of a cut. Old weights stay, new units begin as classes say."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from secateur.errors import SecateurError, SurgeryError, UsageError
from secateur.graph import ChannelGraph, Plan, trace
from secateur.graph.copying import copy_model, forget_kept
from secateur.graph.cuts import DimensionCut
from secateur.graph.inputs import ExampleInputs
from secateur.graph.slots import StoredTensor, alike, stored_tensors
from secateur.graph.surgery import LayerShapes, layer_sizes
from secateur.graph.units import UnitArray
from secateur.graph.written_sizes import write_size
from secateur.randomness import derive_seed, generator_for
from secateur.slimmable.widths import plan_of
from secateur.training.devices import own_random_numbers

_TOLERANCE = 1 / 8


def widened(
    model: nn.Module,
    example_inputs: ExampleInputs,
    factor: float = 1.5,
    *,
    multiple: int = 8,
    seed: int = 0,
    skip: Iterable[str] = (),
    allow_approximate: bool = False,
) -> nn.Module:
    """Return a copy of ``model`` with ``factor`` times as many units in every group that can be cut.

    Each dimension of a parameter or buffer grows by the new units of its groups, and integer attributes follow. Old
    entries stay as they are, as the units of the lowest numbers: cutting the new units again
    (:func:`secateur.slimmable.plan_of` of the old sizes) gives the old network bit for bit. Until it is trained the
    wide network computes something else than the old one, because its new units are not silent.

    New entries are what the network draws when it is built, where it says so in a method ``initialise`` as those of
    :mod:`secateur.models` do, and otherwise what ``reset_parameters`` of their layer's class gives to a layer of the
    new size. Entries of
    modules without it (a bare parameter, a layer scale) are drawn from the old entries of the same tensor, so that what
    was constant stays constant.

    What stays as wide as it is: groups of a single unit, and groups whose channels would hang together otherwise in the
    wider network (behind a channel shuffle, whose order depends on how many there are).

    Args:
        model: what can be traced; it stays as it is.
        example_inputs: to trace it with.
        factor: at least 1.
        multiple: new sizes are rounded to the nearest multiple, or to that of a half of it, and so on, where it is more
            than an eighth away; never below the old size.
        seed: of the new entries.
        skip: names of groups that stay as wide as they are.
        allow_approximate: also widen groups where cutting is not the same as zeroing, because a norm or a mean runs
            across their channels.

    Raises:
        UsageError: a number is out of range.
        PlanError: ``skip`` names an unknown group.
        SurgeryError: the network's own code does not follow the new sizes, nothing in it can be made wider, or it
            selects channels by lists of their numbers.
    """
    if factor < 1 or multiple < 1:
        raise UsageError(
            f"factor is {factor} and multiple is {multiple}, but both must be at least 1; to make a model narrower, "
            "use apply"
        )
    graph = trace(model, example_inputs)
    if graph.selections:
        raise SurgeryError(
            f"{graph.model_class} selects channels by lists of their numbers ({graph.selections[0].module}), and "
            "nobody can say where new channels belong; widen the network without such selections"
        )
    skipped = {graph.group(name).name for name in skip}
    sizes = {
        group.name: wider(group.size, factor, multiple)
        for group in graph.groups
        if group.cuttable(allow_approximate=allow_approximate) and group.name not in skipped and group.size > 1
    }
    stored = stored_tensors(model)
    while factor > 1:
        if not sizes:
            raise SurgeryError(
                f"{graph.model_class} cannot be made {factor:g} times as wide: it has no group of several units that "
                "can be cut and has the same units when it is wider"
            )
        wide = _with_shapes(model, graph, stored, sizes)
        try:
            found = trace(wide, example_inputs)
        except SecateurError as error:
            raise SurgeryError(f"{graph.model_class} cannot be made {factor:g} times as wide: {error}") from error
        others = [name for name, size in sizes.items() if not _has(found, name, size)]
        if not others:
            break
        for name in others:
            del sizes[name]
    else:
        return copy_model(model, {})
    back = plan_of(found, {name: graph.by_name[name].size for name in sizes}, allow_approximate=True)
    shapes = {spec.name: spec.shape for spec in graph.tensors}
    for name, shape in back.shapes_after.items():
        if shape != shapes[name]:
            raise SurgeryError(f"{name} would have shape {shape} without its new units, but has {shapes[name]}")
    _fill(wide, stored, back, seed)
    return wide


def wider(size: int, factor: float, multiple: int) -> int:
    """Return ``factor`` × ``size`` rounded to a multiple, see :func:`widened`."""
    wanted = factor * size
    while multiple > 1 and abs(_rounded(wanted, multiple) - wanted) > _TOLERANCE * wanted:
        multiple //= 2
    return max(size, _rounded(wanted, multiple))


def _rounded(number: float, multiple: int) -> int:
    return max(multiple, int(number / multiple + 0.5) * multiple)


def _has(graph: ChannelGraph, name: str, size: int) -> bool:
    group = graph.by_name.get(name)
    return group is not None and group.size == size and group.locked is None


def _with_shapes(
    model: nn.Module, graph: ChannelGraph, stored: Mapping[str, StoredTensor], sizes: Mapping[str, int]
) -> nn.Module:
    """Return a copy of ``model`` whose tensors and integer attributes have the new sizes; what grows holds zeros."""
    growth = np.asarray([sizes.get(group.name, group.size) / group.size for group in graph.groups])
    ends = np.cumsum(graph.sizes)

    def grown(units: UnitArray) -> int:
        # Each unit of a group takes equally many indices, so those of all new units are their share of the old.
        groups = np.searchsorted(ends, units[units >= 0], side="right")
        return int((units < 0).sum()) + round(float(growth[groups].sum()))

    before = {name: tuple(entry.tensor.shape) for name, entry in stored.items()}
    after: dict[str, list[int]] = {name: list(shape) for name, shape in before.items()}
    for dim in graph.dims:
        after[dim.parameter][dim.dim] = grown(dim.units)
    memo: dict[int, Any] = {}
    for name, entry in stored.items():
        old = entry.tensor.detach()
        changes = tuple(after[name]) != before[name]
        tensor = old.new_zeros(after[name]) if changes else old.clone(memory_format=torch.preserve_format)
        if old.dim() == 4 and not old.is_contiguous() and old.is_contiguous(memory_format=torch.channels_last):
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        memo[id(entry.tensor)] = alike(entry.tensor, tensor)
    try:
        wide = copy_model(model, memo)
    except Exception as error:
        raise SurgeryError(f"{graph.model_class} cannot be copied ({type(error).__name__}: {error})") from error
    for module, names in _layers(stored_tensors(wide)):

        def shapes(attribute: str, names: dict[str, str] = names) -> LayerShapes | None:
            name = names.get(attribute)
            return None if name is None else (before[name], tuple(after[name]), name)

        if any(tuple(after[name]) != before[name] for name in names.values()):
            for attribute, value in layer_sizes(module, shapes, graph.regrouped).items():
                write_size(module, attribute, value)
    for kept in graph.attributes:
        write_size(wide.get_submodule(kept.module), kept.attribute, grown(kept.units))
    forget_kept(wide)
    return wide


def _layers(stored: Mapping[str, StoredTensor]) -> list[tuple[nn.Module, dict[str, str]]]:
    """Return the modules that hold tensors, each with the names in the model by its own attributes."""
    found: dict[int, tuple[nn.Module, dict[str, str]]] = {}
    for name, entry in stored.items():
        for slot in entry.slots:
            found.setdefault(id(slot.module), (slot.module, {}))[1][slot.attribute] = name
    return list(found.values())


def _fill(wide: nn.Module, stored: Mapping[str, StoredTensor], back: Plan, seed: int) -> None:
    """Put old entries where ``back`` keeps them, and new ones elsewhere."""
    tensors = stored_tensors(wide)
    begun = _begun(wide, seed)
    first = next(iter(tensors.values())).tensor.device
    done: set[str] = set()
    with torch.no_grad(), own_random_numbers(first) as generators:
        for module, names in _layers(tensors):
            changed = {
                attribute: name for attribute, name in names.items() if name in back.cuts_of and name not in done
            }
            if not changed:
                continue
            path = next(iter(changed.values()))
            for generator in generators:
                generator.manual_seed(derive_seed(seed, "widened", path))
            fresh = _fresh(module)
            for attribute, name in changed.items():
                old, new = stored[name].tensor.detach(), tensors[name].tensor.detach()
                if name in begun:
                    new.copy_(begun[name])
                elif fresh is not None:
                    new.copy_(getattr(fresh, attribute))
                else:
                    drawn = torch.randint(old.numel(), (new.numel(),), generator=generator_for(seed, "widened", name))
                    new.copy_(old.flatten()[drawn.to(old.device)].view(new.shape))
                _put(new, old, back.cuts_of[name])
                done.add(name)


def _begun(wide: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return what a network that has a method ``initialise`` draws with it, as when it is built, by name."""
    if not any(callable(getattr(module, "initialise", None)) for module in wide.modules()):
        return {}
    begun = copy_model(wide, {})
    entries = stored_tensors(begun)
    with torch.no_grad(), own_random_numbers(next(iter(entries.values())).tensor.device) as generators:
        for entry in entries.values():
            if entry.tensor.is_floating_point():
                entry.tensor.fill_(torch.nan)  # which tells what is drawn
        for path, module in reversed(list(begun.named_modules())):  # what is inside before what is around it
            draw = getattr(module, "initialise", None)
            if callable(draw):
                for generator in generators:
                    generator.manual_seed(derive_seed(seed, "widened", path, "initialise"))
                draw()
        return {
            name: entry.tensor.detach()
            for name, entry in stored_tensors(begun).items()
            if entry.tensor.is_floating_point() and not bool(entry.tensor.isnan().any())
        }


def _fresh(module: nn.Module) -> nn.Module | None:
    """Return a layer of the same size as ``module`` as its class begins, or None where the class does not say."""
    if not callable(getattr(module, "reset_parameters", None)) or module._modules or is_parametrized(module):
        return None
    fresh = copy.deepcopy(module)
    fresh.reset_parameters()  # type: ignore[operator]
    return fresh


def _put(new: Tensor, old: Tensor, cuts: Iterable[DimensionCut]) -> None:
    """Write ``old`` into the places of ``new`` that the cuts keep."""
    kept = {cut.dim: cut.kept for cut in cuts}
    places = []
    for dim, size in enumerate(new.shape):
        indices = torch.from_numpy(kept[dim]) if dim in kept else torch.arange(size)
        places.append(indices.to(new.device).view([-1 if axis == dim else 1 for axis in range(new.dim())]))
    new[tuple(places)] = old
