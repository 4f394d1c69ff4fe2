"""What AutoSlim is compared with: every layer the same share of its width, at the same cost."""

from secateur.cost import Budget
from secateur.cost.budget import amount_text
from secateur.graph import ChannelGraph
from secateur.slimmable import WidthSpace, kept_units

_PARTS = 10_000  # of a group's width, in which the multiplier is looked for


def uniform_multiplier(graph: ChannelGraph, space: WidthSpace, macs: int) -> tuple[float, dict[str, int]]:
    """Return the largest width multiplier whose network has at most ``macs``, and its widths.

    Every group of the space keeps that share of its units, rounded to the nearest and 1 at least; counts need not be
    among those of the space, so that the baseline loses nothing to rounding.

    Args:
        graph: of the large network.
        space: whose groups become narrower.
        macs: multiply-adds per sample.
    """

    def widths(part: int) -> dict[str, int]:
        return {name: max(1, round(part * counts[-1] / _PARTS)) for name, counts in space.choices.items()}

    low, high = 1, _PARTS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if graph.costs.macs(kept_units(graph, widths(middle))) <= macs else (low, middle - 1)
    return low / _PARTS, widths(low)


def uniform_within(graph: ChannelGraph, space: WidthSpace, budget: Budget) -> dict[str, int] | None:
    """Return the widest of the space's uniform widths that hold a budget; None where not even the narrowest do."""
    limits = budget.limits(graph)
    for part in range(100, 0, -1):
        found = space.uniform(part / 100)
        kept = kept_units(graph, found)
        if all(budget.meter(name, graph)(kept) <= limit for name, limit in limits.items()):
            return found
    return None


def least_costs(graph: ChannelGraph, space: WidthSpace, budget: Budget) -> str:
    """Say what the narrowest network costs, of what a budget limits: ``209,344 macs (5.7 % of the original)``."""
    least, parts = kept_units(graph, space.smallest()), []
    for name in budget.given():
        meter = budget.meter(name, graph)
        amount = amount_text(name, meter(least)) + ("" if name == "latency_ms" else f" {name}")
        parts.append(f"{amount} ({100 * meter(least) / meter(graph.sizes):.1f} % of the original)")
    return " and ".join(parts)
