"""Scores per multiply-add: what a unit is worth, over what its removal saves."""

from collections.abc import Mapping

from torch import Tensor

from secateur.criteria.scoring import Scores
from secateur.graph import ChannelGraph


def macs_saved(graph: ChannelGraph) -> dict[str, int]:
    """Return group → multiply-adds per sample that go with one of its units, at the present sizes of all groups.

    In a convolution both sides count: a unit's own filter, and the slices of all that read it.
    """
    whole = graph.costs.macs(graph.sizes)
    saved = {}
    for number, group in enumerate(graph.groups):
        sizes = graph.sizes.copy()
        sizes[number] -= 1
        saved[group.name] = whole - graph.costs.macs(sizes)
    return saved


def score_per_mac(graph: ChannelGraph, scores: Mapping[str, Tensor], *, normalize: bool) -> Scores:
    """Divide every score by the multiply-adds that the removal of its unit saves.

    Args:
        graph: of the model that was scored; what one unit saves depends on what is left.
        scores: group → scores of its units, shape (units,).
        normalize: divide by the mean of the group first. After the division it would undo it: all units of a group
            save the same.

    Returns:
        Group → scores per multiply-add. A unit that saves none counts as saving one, so that it goes last.
    """
    saved = macs_saved(graph)
    result = {}
    for name, values in scores.items():
        mean = float(values.mean()) if normalize else 1.0
        result[name] = values / (mean if mean > 0 else 1.0) / max(1, saved[name])
    return result
