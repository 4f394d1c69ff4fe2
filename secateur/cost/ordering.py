"""The order in which units go: one queue over all groups, lowest score first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secateur.graph import ChannelGraph, Group

Scope = Literal["global", "local", "isomorphic"]


@dataclass(frozen=True)
class Queue:
    """All units that may go, lowest first: their group's number, and each group's own ranking."""

    group: NDArray[np.int64]
    ranking: dict[str, NDArray[np.int64]]


def ordered_units(
    graph: ChannelGraph,
    groups: list[Group],
    scores: Mapping[str, Tensor],
    floors: Mapping[str, int],
    *,
    scope: Scope,
    normalize: bool,
) -> Queue:
    """Return all units that may go, in the order in which they do; ``floors`` are those that groups keep at least."""
    number = {group.name: position for position, group in enumerate(graph.groups)}
    ranking, keys, owners, classes = {}, [], [], []
    alike = {group.name: _structure(group) for group in groups} if scope == "isomorphic" else {}
    for group in groups:
        values = scores[group.name].detach().double().cpu().numpy()
        ranks = np.argsort(values, kind="stable")
        ranking[group.name] = ranks
        free = group.size - floors[group.name]
        if scope == "local":
            key = (np.arange(group.size) + 1.0) / group.size
        else:
            present = values[np.isfinite(values)]
            mean = present.mean() if normalize and present.size else 1.0
            key = values[ranks] / (mean if mean > 0 else 1.0)
        keys.append(key[:free] if scope != "isomorphic" else key)
        owners.append(np.full(keys[-1].size, number[group.name]))
        classes.append((alike.get(group.name), free))
    if not keys:
        return Queue(np.zeros(0, dtype=np.int64), ranking)
    if scope == "isomorphic":
        keys, owners = _shares_by_class(keys, owners, classes)
    order = np.argsort(np.concatenate(keys), kind="stable")
    return Queue(np.concatenate(owners)[order].astype(np.int64), ranking)


def _shares_by_class(
    keys: list[NDArray[np.float64]], owners: list[NDArray[np.int64]], classes: Sequence[tuple[object, int]]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.int64]]]:
    """Replace keys by their rank within the class of alike groups, as a share of the class."""
    shares = [key.copy() for key in keys]
    for kind in dict.fromkeys(kind for kind, _ in classes):
        mine = [position for position, (other, _) in enumerate(classes) if other == kind]
        joined = np.concatenate([keys[position] for position in mine])
        rank = np.empty(joined.size)
        rank[np.argsort(joined, kind="stable")] = (np.arange(joined.size) + 1.0) / joined.size
        start = 0
        for position in mine:
            shares[position] = rank[start : start + keys[position].size]
            start += keys[position].size
    free = [count for _, count in classes]
    return [s[:f] for s, f in zip(shares, free, strict=True)], [o[:f] for o, f in zip(owners, free, strict=True)]


def _structure(group: Group) -> tuple[tuple[str, int, int], ...]:
    """What makes groups alike: the roles of their members, and how many indices of each a unit owns."""
    return tuple(
        sorted((member.role, member.dim, int((member.units >= 0).sum()) // group.size) for member in group.members)
    )
