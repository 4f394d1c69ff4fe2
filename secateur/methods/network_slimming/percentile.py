"""Which channels stay: those whose |γ| lies above a percentile of all of them, at least one in every layer."""

from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor

from secateur.cost import kept_units
from secateur.errors import UsageError


def percentile(values: Tensor, ratio: float) -> float:
    """Return the value at position int(count × ratio) of ``values`` in rising order (Liu et al. 2017, §3; its code).

    Args:
        values: |γ| of all channels that are compared, shape (count,).
        ratio: share of them that goes, in [0, 1).

    Raises:
        UsageError: there are no values.
    """
    if not values.numel():
        raise UsageError("there is no γ to take a percentile of; give the |γ| of at least one channel")
    ordered: Tensor = values.flatten().sort().values
    return float(ordered[int(values.numel() * ratio)])


def above_percentile(
    scores: Mapping[str, Tensor], ratio: float, *, least: Mapping[str, int], round_to: int = 1
) -> dict[str, list[int]]:
    """Return the channels of each layer whose score is strictly above the percentile of all layers together.

    Source: Liu et al. 2017, arXiv:1708.06519, §3.2, and its code, whose comparison is strict: channels that tie with
    the threshold go, so that a little more than ``ratio`` goes.

    Args:
        scores: layer → |γ| of each channel, shape (channels,).
        ratio: share of all channels that goes.
        least: layer → channels that it keeps at least, whatever their scores; then those of the largest stay.
        round_to: kept sizes are rounded up to a multiple of this, or to all.
    """
    return above(
        scores, percentile(torch.cat([values.flatten() for values in scores.values()]), ratio), least, round_to
    )


def above(scores: Mapping[str, Tensor], limit: float, least: Mapping[str, int], round_to: int) -> dict[str, list[int]]:
    """Return the channels of each layer with a score strictly above ``limit``, but no fewer than ``least``."""
    return {
        name: largest(values, _count(len(values), max(int((values > limit).sum()), least[name]), round_to))
        for name, values in scores.items()
    }


def share_of_each(
    scores: Mapping[str, Tensor], ratio: float, *, least: Mapping[str, int], round_to: int = 1
) -> dict[str, list[int]]:
    """Return the channels that stay where every layer loses the same share of its own, as in the paper's Table 3."""
    return {
        name: largest(
            values, _count(len(values), max(kept_units(len(values), Fraction(str(ratio))), least[name]), round_to)
        )
        for name, values in scores.items()
    }


def largest(values: Tensor, count: int) -> list[int]:
    """Return the ``count`` channels of largest score in rising order; of equals, the later ones stay."""
    order = torch.argsort(values, stable=True)
    return sorted(order[len(order) - count :].tolist())


def least_kept(sizes: Mapping[str, int], *, min_units: int, max_layer_ratio: float | None) -> dict[str, int]:
    """Return how many channels each layer keeps at least.

    Args:
        sizes: layer → its channels.
        min_units: at least so many, or all.
        max_layer_ratio: the largest share of a layer that may go, None for no limit (§3.7, Table 4: 0.5 per pass).
    """
    cap = Fraction(str(max_layer_ratio)) if max_layer_ratio is not None else Fraction(1)
    return {name: min(size, max(min_units, size - int(size * cap))) for name, size in sizes.items()}


def _count(size: int, kept: int, round_to: int) -> int:
    return min(size, -(-kept // round_to) * round_to)
