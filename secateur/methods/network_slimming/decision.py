"""From |γ| to the plan of all cuts so far: by a percentile, by a share of every layer, or to a budget."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.cost import Budget, MinimumWarning
from secateur.errors import BudgetError
from secateur.graph import ChannelGraph, Plan
from secateur.methods.network_slimming.percentile import above, above_percentile, least_kept, share_of_each
from secateur.methods.network_slimming.scales import Layer, selections_of
from secateur.record import PruningStep
from secateur.wording import counted

Kept = Mapping[str, Sequence[int]]
"""Layer → the channels that it still has, in the original's numbering."""

NAMED = 5  # layers in a sentence


def sizes_of(graph: ChannelGraph, layers: Sequence[Layer]) -> dict[str, int]:
    """Return how many channels each of ``layers`` has in the original's ``graph``."""
    selections = {entry.module: entry.size for entry in selections_of(graph)}
    return {layer.name: selections[layer.name] if layer.selects else graph.group(layer.name).size for layer in layers}


def still_there(graph: ChannelGraph, layers: Sequence[Layer], earlier: Plan) -> dict[str, list[int]]:
    """Return which channels of the original's ``graph`` each layer still has after ``earlier``."""
    known: dict[str, Sequence[int]] = {**earlier.kept, **getattr(earlier, "selected", {})}
    return {name: list(known.get(name, range(size))) for name, size in sizes_of(graph, layers).items()}


def plan_of(
    graph: ChannelGraph, layers: Sequence[Layer], kept: Kept, earlier: Plan, *, allow_approximate: bool
) -> Plan:
    """Return the plan of ``earlier`` and of what ``kept`` leaves, on the original's ``graph``."""
    selects = {layer.name for layer in layers if layer.selects}
    groups = {**earlier.kept, **{name: units for name, units in kept.items() if name not in selects}}
    selected = {**getattr(earlier, "selected", {}), **{name: kept[name] for name in kept if name in selects}}
    more: dict[str, Any] = {"selected": selected} if selected else {}
    return graph.plan(groups, allow_approximate=allow_approximate, **more)


def one_pass(
    scores: Mapping[str, Tensor],
    there: Kept,
    ratio: float,
    *,
    each: bool,
    max_layer_ratio: float | None,
    floors: Mapping[str, int],
    round_to: int,
) -> dict[str, list[int]]:
    """Return which channels stay after one more pass, in the original's numbering.

    Args:
        scores: layer → |γ| of the channels that are still there.
        there: which these are.
        ratio: share of them that goes.
        each: whether of every layer, instead of all layers together.
        max_layer_ratio: largest share of a layer that goes in this pass; None for no limit.
        floors: layer → channels that it keeps at least, over all passes.
        round_to: kept sizes are multiples of this.

    Warns:
        MinimumWarning: a layer was cut down to the least that it may keep.
    """
    sizes = {name: len(values) for name, values in scores.items()}
    capped = least_kept(sizes, min_units=1, max_layer_ratio=max_layer_ratio)
    least = {name: max(capped[name], min(size, floors[name])) for name, size in sizes.items()}
    choose = share_of_each if each else above_percentile
    chosen = choose(scores, ratio, least=least, round_to=round_to)
    _warn_about_minima({name: len(units) for name, units in chosen.items()}, sizes, floors)
    return {name: [there[name][unit] for unit in units] for name, units in chosen.items()}


def to_budget(
    graph: ChannelGraph,
    layers: Sequence[Layer],
    scores: Mapping[str, Tensor],
    there: Kept,
    earlier: Plan,
    budget: Budget,
    *,
    floors: Mapping[str, int],
    round_to: int,
    allow_approximate: bool,
) -> Plan:
    """Return the plan whose threshold is the lowest that meets ``budget``, for models with channel selections.

    Args:
        graph: of the original.
        layers: that are compared.
        scores: layer → |γ| of the channels that are still there.
        there: which these are, in the original's numbering.
        earlier: the plan of all cuts before.
        budget: what the cut model may cost.
        floors: layer → channels that it keeps at least.
        round_to: kept sizes are multiples of this.
        allow_approximate: as in :func:`secateur.allocate`.

    Raises:
        BudgetError: the budget cannot be met, or is one of bytes or milliseconds.
    """
    if budget.size_bytes is not None:
        raise BudgetError(
            "a budget of size_bytes cannot be met by channel selections, whose part of the file is not counted; give "
            "a budget in params or macs, or selections: false"
        )
    if budget.latency_ms is not None:
        raise BudgetError(
            "a budget in milliseconds cannot be met by channel selections, which are no part of a latency table; give "
            "a budget in params or macs, or selections: false"
        )
    limits = sorted({value for values in scores.values() for value in values.tolist()})

    def plan_at(place: int) -> Plan:
        limit = -math.inf if place == 0 else limits[place - 1]
        chosen = above(scores, limit, {name: min(len(v), floors[name]) for name, v in scores.items()}, round_to)
        kept = {name: [there[name][unit] for unit in units] for name, units in chosen.items()}
        return plan_of(graph, layers, kept, earlier, allow_approximate=allow_approximate)

    def holds(place: int) -> bool:
        return budget.met_by(graph.after(plan_at(place)), graph)

    low, high = 0, len(limits)
    if not holds(high):
        left = graph.after(plan_at(high))
        raise BudgetError(
            f"cannot reach {budget.describe()}: with every layer at the least that it may keep, {left.macs():,} MACs "
            f"and {left.params():,} parameters are left; allow more, or lower min_units and min_share"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return plan_at(high)


def step_of(
    graph: ChannelGraph,
    number: int,
    phase: str,
    layers: Sequence[Layer],
    scores: Mapping[str, Tensor],
    earlier: Plan,
    plan: Plan,
) -> PruningStep:
    """Return the record of one pass; selections stand in it under their paths, beside groups.

    Args:
        graph: of the original.
        number: of the pass, from 1.
        phase: of training that came before.
        layers: that were compared.
        scores: layer → |γ| of the channels that were there before the cut.
        earlier: the plan of all passes before.
        plan: the plan of all passes and this one.
    """
    after = graph.after(plan)
    kept = {name: len(units) for name, units in still_there(graph, layers, plan).items()}
    before = still_there(graph, layers, earlier)
    return PruningStep(
        number=number,
        phase=phase,
        scores={name: tuple(float(f"{value:.6g}") for value in values.tolist()) for name, values in scores.items()},
        kept=kept,
        macs=after.macs(),
        params=after.params(),
        removed=sum(len(units) - kept[name] for name, units in before.items()),
    )


def floors_of(sizes: Mapping[str, int], *, min_units: int, min_share: float) -> dict[str, int]:
    """Return the channels that each layer of the original keeps at least."""
    return {name: min(size, max(min_units, math.ceil(min_share * size))) for name, size in sizes.items()}


def ties_note(scores: Mapping[str, Tensor], ratio: float, limit: float) -> str | None:
    """Say how many channels tie with the threshold and go with it, or None if it is one."""
    values = torch.cat([values.flatten() for values in scores.values()])
    ties = int((values == limit).sum())
    if ties < 2:
        return None
    gone = int((values <= limit).sum())
    return (
        f"{ties} channels have the very |γ| of the threshold, {limit:g}, and the paper's rule keeps what lies above: "
        f"{gone} of {len(values)} channels do not, {gone / len(values):.3g} of all instead of {ratio:g}"
    )


def _warn_about_minima(kept: Mapping[str, int], sizes: Mapping[str, int], floors: Mapping[str, int]) -> None:
    fallen = [name for name, count in kept.items() if count < sizes[name] and count <= floors[name]]
    if fallen:
        shown = ", ".join(fallen[:NAMED]) + (f" and {len(fallen) - NAMED} more" if len(fallen) > NAMED else "")
        warnings.warn(
            f"{counted(len(fallen), 'layer was cut to its', 'layers were cut to their')} minimum: {shown}; a lower "
            "ratio, or a higher min_units or min_share, leaves more",
            MinimumWarning,
            stacklevel=2,
        )
