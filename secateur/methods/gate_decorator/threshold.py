"""Which filters one Tick takes: pure functions of scores, as in the authors' code."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """How scores become a threshold.

    Attributes:
        share: p, of the filters that are left.
        replicate: whether a group's scores count once for each member, or once.
        free_dead: whether filters whose score is exactly 0 go beside those that the share asks for.
    """

    share: float
    replicate: bool = True
    free_dead: bool = True


def floor_of(size: int, min_share: float) -> int:
    """Return how many of a layer's ``size`` units always stay: max(1, int(min_share · size))."""
    return max(1, min(size, int(min_share * size)))


def survivors(
    scores: Mapping[str, Floats], members: Mapping[str, int], floors: Mapping[str, int], rule: Rule
) -> dict[str, NDArray[np.bool_]]:
    """Return which of the units that are left survive a Tick.

    All layers are compared on one list, in which a group of m layers has each of its scores m times. The best units of
    each layer, as many as its floor, are not on it, and neither are scores of exactly 0. With n = int(filters left ·
    p), a unit survives if its score is above the n-th entry, counted from 0, of the sorted list, or if it is at least
    as good as the worst of the best: so n + 1 filters go, and the dead ones as well.

    Source: §3.2 of You et al. 2019, arXiv:1909.08174, and the authors' code, which differs from it in the last point.

    Args:
        scores: group → scores of its units that are left, shape (units,).
        members: group → number of layers in it.
        floors: group → units that always stay.
        rule: how the threshold is found.

    Returns:
        {group: whether each unit survives, shape (units,)}.
    """
    counts = {name: members[name] if rule.replicate else 1 for name in scores}
    lists = [np.repeat(_listed(scores[name], floors[name], rule), counts[name]) for name in scores]
    listed = np.sort(np.concatenate([*lists, np.zeros(0)]))
    left = sum(values.size * counts[name] for name, values in scores.items())
    if listed.size:
        threshold = listed[min(int(left * rule.share), listed.size - 1)]
    else:  # nothing but the best and the dead is left, and the dead go
        threshold = 0.0 if rule.free_dead else -np.inf
    return {
        name: (values > threshold) | (values >= _worst_of_best(values, floors[name])) for name, values in scores.items()
    }


def _listed(values: Floats, floor: int, rule: Rule) -> Floats:
    candidates = np.sort(values)[: max(0, values.size - floor)]
    return candidates[candidates != 0] if rule.free_dead else candidates


def _worst_of_best(values: Floats, floor: int) -> float:
    return float(np.sort(values)[max(0, values.size - floor)])
