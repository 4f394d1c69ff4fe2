"""Where the scaling factors γ of a network lie: which channel each index of which parameter scales."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from secateur.criteria.scoring import Combine
from secateur.errors import PlanError
from secateur.graph import ChannelGraph, Group
from secateur.graph.units import UnitArray, names_to_cut
from secateur.names import unknown_name

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Modules whose ``weight`` scales channels one by one."""


@dataclass(frozen=True, eq=False)
class Scale:
    """One vector of γ: the scale of a norm, or the gate of a layer without one.

    Attributes:
        module: path of the norm, or of the layer with the gate.
        parameter: name of γ.
        units: unit of each γ, numbered over all groups of the graph; -1 for none.
    """

    module: str
    parameter: str
    units: UnitArray


@dataclass(frozen=True, eq=False)
class Layer:
    """Channels to choose among: those of a group, or those that a channel selection lets through.

    Attributes:
        name: of the group, or path of the selection.
        size: channels.
        scales: (parameter, channel of each of its indices or -1) of every γ.
        selects: whether it is a selection.
    """

    name: str
    size: int
    scales: tuple[tuple[str, UnitArray], ...]
    selects: bool = False


def norm_scales(model: nn.Module) -> tuple[str, ...]:
    """Return the names of all γ of the norms in ``model``, shared ones once."""
    return tuple(
        f"{path}.weight" if path else "weight"
        for path, module in model.named_modules()
        if isinstance(module, NORMS) and getattr(module, "weight", None) is not None
    )


def scales_in(graph: ChannelGraph, model: nn.Module) -> list[Scale]:
    """Return the γ of the norms in ``model`` that scale channels of ``graph``."""
    names = set(norm_scales(model))
    return [
        Scale(dim.parameter.rpartition(".")[0], dim.parameter, dim.units)
        for dim in graph.dims
        if dim.parameter in names
    ]


def selections_of(graph: ChannelGraph) -> tuple[Any, ...]:
    """Return the channel selections of the model that ``graph`` was made from."""
    return tuple(getattr(graph, "selections", ()))


def open_groups(
    graph: ChannelGraph, *, streams: bool, lock: Sequence[str] = (), allow_approximate: bool = False
) -> list[Group]:
    """Return the groups that may be cut, in the graph's order."""
    return [
        group
        for group in graph.groups
        if group.cuttable(allow_approximate=allow_approximate)
        and (streams or not group.is_stream)
        and not _matches(group.name, lock)
    ]


def refuse_unknown(graph: ChannelGraph, lock: Sequence[str]) -> None:
    """Refuse patterns that match neither a group nor a channel selection.

    Raises:
        PlanError: there is one; the nearest name is suggested.
    """
    selections = [entry.module for entry in selections_of(graph)]
    names, can_be = [*graph.by_name, *selections], [*names_to_cut(graph.groups), *selections]
    for pattern in lock:
        if not any(_matches(name, (pattern,)) for name in names):
            raise PlanError(unknown_name("layer to leave alone", pattern, names, rather=can_be))


def layers_of(
    graph: ChannelGraph,
    scales: Sequence[Scale],
    *,
    streams: bool,
    selections: bool = True,
    lock: Sequence[str] = (),
    allow_approximate: bool = False,
) -> list[Layer]:
    """Return what may be cut by its γ, in the graph's order: groups that have any, then channel selections.

    Where the model carries channel selections and they are to be used, the channels in front of them are selected at
    the consuming end and not cut, as in the paper: their groups are left out.

    Args:
        graph: of the model without gates.
        scales: the γ of the model.
        streams: whether residual streams may be cut too.
        selections: whether to use the model's channel selections.
        lock: patterns of groups and selections to leave alone.
        allow_approximate: whether groups whose channels are normalised together may be cut too.

    Raises:
        PlanError: a pattern in ``lock`` matches nothing.
    """
    refuse_unknown(graph, lock)
    chosen = [entry for entry in selections_of(graph) if entry.norm and entry.locked is None] if selections else []
    in_front = {entry.norm for entry in chosen}
    found = []
    for group in open_groups(graph, streams=streams, lock=lock, allow_approximate=allow_approximate):
        mine = [(scale, (scale.units >= group.offset) & (scale.units < group.offset + group.size)) for scale in scales]
        mine = [(scale, places) for scale, places in mine if places.any()]
        if mine and not any(scale.module in in_front for scale, _ in mine):
            local = [(scale.parameter, np.where(places, scale.units - group.offset, -1)) for scale, places in mine]
            found.append(Layer(group.name, group.size, tuple(local)))
    by_module = {scale.module: scale for scale in scales}
    for entry in chosen:
        norm = by_module.get(entry.norm)
        if norm is not None and not _matches(entry.module, lock):
            entries = np.full(norm.units.size, -1, dtype=np.int64)
            entries[list(entry.indices)] = np.arange(entry.size)
            found.append(Layer(entry.module, entry.size, ((norm.parameter, entries),), selects=True))
    return found


def scores_of(model: nn.Module, layers: Sequence[Layer], combine: Combine = "mean") -> dict[str, Tensor]:
    """Return layer → |γ| of each channel, float64 on the CPU; where a channel has several γ, they are combined.

    Args:
        model: its γ are read.
        layers: of the graph of ``model``.
        combine: mean, sum, max or l2 (root of the sum of squares).
    """
    return {
        layer.name: _combined(
            [
                (torch.from_numpy(units), model.get_parameter(name).detach().double().abs().cpu())
                for name, units in layer.scales
            ],
            layer.size,
            combine,
        )
        for layer in layers
    }


def nothing_learned(scores: Mapping[str, Tensor]) -> bool:
    """Say whether all γ are equal, as in a network that was never trained, so that they tell nothing."""
    values = torch.cat(list(scores.values())) if scores else torch.zeros(0)
    return bool(values.numel()) and bool((values == values[0]).all())


def evenly_spread(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return scores under which every layer loses the same share: the last channels stay."""
    return {name: (torch.arange(len(values)) + 1.0).double() / len(values) for name, values in scores.items()}


def _combined(parts: Sequence[tuple[Tensor, Tensor]], size: int, combine: Combine) -> Tensor:
    units = torch.cat([units[units >= 0] for units, _ in parts])
    values = torch.cat([values[units >= 0] for units, values in parts])
    total = torch.zeros(size, dtype=torch.float64)
    if combine == "max":
        np.maximum.at(total.numpy(), units.numpy(), values.numpy())
        return total
    total.index_add_(0, units, values.square() if combine == "l2" else values)
    if combine == "mean":
        return total / torch.bincount(units, minlength=size).clamp(min=1)
    return total.sqrt() if combine == "l2" else total


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
