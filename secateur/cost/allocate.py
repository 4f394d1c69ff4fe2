"""``allocate``: scores and a budget in, a plan out."""

import fnmatch
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from secateur.cost.budget import Budget, amount_text, meter
from secateur.cost.dropping import cheapest_without, ordered_blocks
from secateur.cost.latency_table import LatencyModel
from secateur.cost.ordering import Scope as Scope
from secateur.cost.ordering import ordered_units
from secateur.cost.removing import fewest_that_hold, first_that_holds
from secateur.cost.size import dropped_header_bytes
from secateur.errors import BudgetError, PlanError, UsageError
from secateur.graph import ChannelGraph, Group, Plan
from secateur.graph.units import UnitArray
from secateur.names import unknown_name
from secateur.wording import counted


class MinimumWarning(UserWarning):
    """A group was cut down to the least that it may keep."""


def allocate(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    budget: Budget,
    *,
    scope: Scope = "global",
    normalize: bool = True,
    min_units: int = 1,
    min_share: float = 0.0,
    round_to: int = 1,
    lock: Iterable[str] = (),
    table: LatencyModel | None = None,
    blocks: Mapping[str, float] | None = None,
    allow_approximate: bool = False,
) -> Plan:
    """Choose which units stay so that every limit of ``budget`` holds, cutting no unit more than needed.

    Units are brought into one order and removed from its low end until the budget holds; the last one removed is the
    one that makes it hold, so the result lies within one unit (one step of ``round_to``) of the binding limit.

    With ``blocks``, whole residual blocks go first, lowest score first. Without scores of channels as few go as make
    the budget hold; with them, as many as still leave the model above it, and channels of the rest do what is missing.

    Args:
        graph: of the model to cut.
        scores: per group, one score per unit; higher means keep. Groups without scores are left alone. A score of
            -inf says that the unit is gone already: it is removed first and does not count in its group's mean.
        budget: what the cut model may cost.
        scope: ``global`` compares all units; ``local`` takes the same share from every group; ``isomorphic`` compares
            units of alike groups and takes the same share from every set of alike groups (Fang et al. 2024,
            arXiv:2407.04616).
        normalize: in global scope, divide scores by their group's mean; False for criteria that compare as they are.
        min_units: units that every group keeps at least.
        min_share: share of units that every group keeps at least.
        round_to: kept sizes are multiples of this, or the full size; under a limit on latency also of what the latency
            table was measured for.
        lock: patterns (``layer1.*``) of groups and blocks to leave alone; a block with such a group in it stays too.
        table: predicts latency, for a latency budget that does not bring its own.
        blocks: score of each block that may be dropped (:func:`secateur.score_blocks`); higher means keep.
        allow_approximate: also cut groups where a norm or a mean runs across the channels, so that cutting is not the
            same as zeroing; a proof then reports the drift.

    Returns:
        The plan; empty if the model already holds the budget.

    Raises:
        BudgetError: the budget cannot be met; names the constraint and the least that is possible.
        PlanError: scores that do not fit the graph, or a pattern that matches no group.
        UsageError: a setting out of range.

    Warns:
        MinimumWarning: a group was cut down to its minimum.
    """
    table = table or budget.latency_model
    choices = _Choices(scope, normalize, min_units, min_share, round_to, allow_approximate)
    choices = replace(choices, round_to=budget.rounding(round_to, table))
    patterns = tuple(lock)
    limits = budget.limits(graph, table)
    if blocks is None:
        return _cut_channels(graph, scores, limits, patterns, table, choices)
    groups = _open_groups(
        graph, scores, tuple(pattern for pattern in patterns if not _matches_block(graph, pattern)), choices
    )
    open_blocks = {name: value for name, value in blocks.items() if not _is_left_alone(graph, name, patterns)}
    dropped = cheapest_without(graph, ordered_blocks(graph, open_blocks), limits, table, channels_follow=bool(groups))
    if not groups:
        return graph.drop_blocks(dropped)
    left = graph.without(dropped)
    if "size_bytes" in limits:
        limits["size_bytes"] -= dropped_header_bytes(graph, dropped)
    rest = {name: values for name, values in scores.items() if name in left.by_name}
    present = tuple(pattern for pattern in patterns if any(_matches(name, (pattern,)) for name in left.by_name))
    cut = _cut_channels(left, rest, limits, present, table, choices)
    return graph.plan(cut.kept, blocks=dropped, allow_approximate=allow_approximate)


@dataclass(frozen=True)
class _Choices:
    """The settings of :func:`allocate` that say how channels are chosen."""

    scope: Scope
    normalize: bool
    min_units: int
    min_share: float
    round_to: int
    allow_approximate: bool

    def __post_init__(self) -> None:
        if self.scope not in ("global", "local", "isomorphic"):
            raise UsageError(unknown_name("scope", self.scope, ("global", "local", "isomorphic")))
        if self.min_units < 1:
            raise UsageError(f"min_units is {self.min_units}, but a group cannot lose all units; give at least 1")
        if not 0 <= self.min_share <= 1:
            raise UsageError(f"min_share is {self.min_share}, but must be a share in [0, 1]")
        if self.round_to < 1:
            raise UsageError(f"round_to is {self.round_to}; give 1 for no rounding, or a multiple such as 8")

    def may_cut(self, group: Group) -> bool:
        """Return whether a group may lose units."""
        return group.cuttable(allow_approximate=self.allow_approximate)

    def floor(self, group: Group) -> int:
        """Return the units that a group keeps at least, before rounding."""
        return min(group.size, max(self.min_units, int(np.ceil(self.min_share * group.size))))


def _is_left_alone(graph: ChannelGraph, block: str, patterns: tuple[str, ...]) -> bool:
    """Say whether a block, or a group that would go with it, is among what is to be left alone."""
    if not patterns or graph.block(block).locked is not None:
        return False
    return any(_matches(name, patterns) for name in (block, *graph.drop_blocks([block]).gone))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _matches_block(graph: ChannelGraph, pattern: str) -> bool:
    return any(_matches(block.name, (pattern,)) for block in graph.blocks)


def _cut_channels(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    limits: Mapping[str, float],
    lock: tuple[str, ...],
    table: LatencyModel | None,
    choices: _Choices,
) -> Plan:
    """Cut units until the limits hold."""
    round_to = choices.round_to
    groups = _open_groups(graph, scores, lock, choices)
    floors = {group.name: choices.floor(group) for group in groups}
    queue = ordered_units(graph, groups, scores, floors, scope=choices.scope, normalize=choices.normalize)
    meters = {name: meter(name, graph, table) for name in limits}
    least = _minimum(graph, groups, floors, round_to)

    def kept_after(count: int) -> UnitArray:
        removed = np.bincount(queue.group[:count], minlength=len(graph.groups))
        kept = graph.sizes - removed
        if round_to > 1:
            up = np.minimum(graph.sizes, -(-kept // round_to) * round_to)
            kept = np.where(removed > 0, np.maximum(up, least), kept)
        return kept

    def holds(count: int) -> bool:
        kept = kept_after(count)
        return all(meters[name](kept) <= limit for name, limit in limits.items())

    total = queue.group.size
    falls = "latency_ms" not in limits
    count = fewest_that_hold(total, holds) if falls else first_that_holds(total, kept_after, holds)
    if count is None:
        _refuse(graph, kept_after(total), limits, meters, groups, floors, choices)
        count = total
    kept = kept_after(count)
    chosen = {
        group.name: np.sort(queue.ranking[group.name][group.size - int(kept[number]) :])
        for number, group in enumerate(graph.groups)
        if kept[number] < group.size
    }
    _warn_about_minima(graph, kept, floors)
    return graph.plan(chosen, allow_approximate=choices.allow_approximate)


def _open_groups(
    graph: ChannelGraph, scores: Mapping[str, Tensor], lock: tuple[str, ...], choices: _Choices
) -> list[Group]:
    for name, values in scores.items():
        group = graph.group(name)
        if tuple(values.shape) != (group.size,):
            raise PlanError(f"group {name!r} has {group.size} units, but its scores have shape {tuple(values.shape)}")
        if not bool((values == values).all()):
            raise PlanError(f"the scores of group {name!r} hold NaN; score with sound weights")
    for pattern in lock:
        if not any(fnmatch.fnmatchcase(group.name, pattern) for group in graph.groups):
            can_be = [group.name for group in graph.groups if choices.may_cut(group)]
            raise PlanError(unknown_name("group to lock", pattern, graph.by_name, rather=can_be))
    return [
        group
        for group in graph.groups
        if choices.may_cut(group) and group.name in scores and not _matches(group.name, lock)
    ]


def _minimum(graph: ChannelGraph, groups: list[Group], floors: Mapping[str, int], round_to: int) -> UnitArray:
    open_names = {group.name for group in groups}
    return np.asarray(
        [
            min(group.size, -(-floors[group.name] // round_to) * round_to) if group.name in open_names else group.size
            for group in graph.groups
        ],
        dtype=np.int64,
    )


def _refuse(
    graph: ChannelGraph,
    least: UnitArray,
    limits: Mapping[str, float],
    meters: Mapping[str, Callable[[UnitArray], float]],
    groups: list[Group],
    floors: Mapping[str, int],
    choices: _Choices,
) -> None:
    for name, limit in limits.items():
        possible = meters[name](least)
        if possible <= limit:
            continue
        held = _heaviest(graph, least)
        locked = sum(not choices.may_cut(group) for group in graph.groups)
        open_groups = (
            f"{len(groups)} of {len(graph.groups)} groups may be cut ({locked} are locked) and keep at least "
            f"{counted(min(floors.values()), 'unit')}"
            if groups
            else f"none of {len(graph.groups)} groups may be cut"
            + (", because --lock or --residual leaves alone all that could be" if locked < len(graph.groups) else "")
        )
        raise BudgetError(
            f"cannot reach {name} ≤ {amount_text(name, limit)}: the smallest plan allowed needs "
            f"{amount_text(name, possible)}{held}; {open_groups}. Allow at least {amount_text(name, possible)}"
            f"{_hint(graph, choices)}"
        )


def _hint(graph: ChannelGraph, choices: _Choices) -> str:
    count = sum(not choices.may_cut(group) and group.locked is None for group in graph.groups)
    if not count:
        return ""
    opened = counted(count, "group that is", "groups that are")
    return f", or allow_approximate (--allow-approximate), which opens {opened} normalised together"


def _heaviest(graph: ChannelGraph, kept: UnitArray) -> str:
    by_operator = graph.costs.macs_by_operator(kept)
    if not by_operator.size:
        return ""
    path, function = graph.costs.compute_names[int(by_operator.argmax())]
    return f", most of the compute in {path or function!r}"


def _warn_about_minima(graph: ChannelGraph, kept: UnitArray, floors: Mapping[str, int]) -> None:
    fallen = [
        group.name
        for number, group in enumerate(graph.groups)
        if group.name in floors and kept[number] < group.size and kept[number] <= floors[group.name]
    ]
    if fallen:
        shown = ", ".join(fallen[:5]) + (f" and {len(fallen) - 5} more" if len(fallen) > 5 else "")
        warnings.warn(
            f"{counted(len(fallen), 'group was cut to its', 'groups were cut to their')} minimum: {shown}; raise "
            "min_units or min_share if accuracy suffers",
            MinimumWarning,
            stacklevel=4,
        )
