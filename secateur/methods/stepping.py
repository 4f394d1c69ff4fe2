"""To a budget in one or several cuts: the budgets on the way, and from scores to the plan of all cuts so far."""

from collections.abc import Mapping
from typing import Literal, Protocol

from torch import Tensor

from secateur.cost import Budget, Milliseconds, Scope, allocate
from secateur.cost.budget import Amount
from secateur.criteria.blocks import BlockScores
from secateur.errors import UsageError
from secateur.graph import ChannelGraph, Plan
from secateur.methods.levels import Level, check_level, cost_after
from secateur.methods.streams import cuts_streams, sparing_streams
from secateur.names import unknown_name

Residual = Literal["spare", "inner", "group"]
"""Residual streams are cut only if need be, never, or like everything else."""


class CutSettings(Protocol):
    """The settings of a method that say how scores become a plan; see :func:`secateur.allocate`."""

    @property
    def scope(self) -> Scope:
        """Which units are compared."""

    @property
    def min_units(self) -> int:
        """Units that every group keeps."""

    @property
    def min_share(self) -> float:
        """Share of its units that every group keeps."""

    @property
    def round_to(self) -> int:
        """Kept sizes are multiples of this."""

    @property
    def residual(self) -> Residual:
        """Whether residual streams are cut."""

    @property
    def lock(self) -> tuple[str, ...]:
        """Patterns of groups and blocks to leave alone."""

    @property
    def level(self) -> Level:
        """What goes: channels, blocks or both."""

    @property
    def allow_approximate(self) -> bool:
        """Also cut channels that are normalised together."""


def check_cuts(settings: CutSettings, steps: int) -> None:
    """Refuse settings that cannot work.

    Raises:
        UsageError: one is out of range, or whole blocks are to go in several steps.
    """
    if settings.residual not in ("spare", "inner", "group"):
        raise UsageError(unknown_name("setting of residual", settings.residual, ("spare", "inner", "group")))
    check_level(settings.level)
    if steps < 1:
        raise UsageError(f"steps is {steps}, but must be at least 1")
    if steps > 1 and settings.level != "channel":
        raise UsageError(
            f"steps is {steps} and level is {settings.level}, but whole blocks go in one step; give steps 1 "
            "(--steps 1) or level channel (--level channel)"
        )


def planned(
    settings: CutSettings,
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    blocks: BlockScores | None,
    budget: Budget,
    *,
    normalize: bool,
    earlier: Plan | None = None,
) -> Plan:
    """Return the plan that meets ``budget``, with residual streams treated as the settings say.

    Args:
        settings: how to cut.
        graph: of the original.
        scores: in the original's numbering; -inf for units that are gone already.
        blocks: scores of the blocks that may go, or None.
        budget: what this cut has to meet.
        normalize: divide scores by their group's mean in global scope.
        earlier: the plan of all cuts before; what it removed stays removed.

    Raises:
        BudgetError: the budget cannot be met.
        PlanError: scores that do not fit the graph, or a pattern that matches nothing.
    """
    if earlier is not None and not earlier.is_empty and _holds(graph, earlier, budget):
        # A step smaller than one unit: allocating anew could give back a unit that is gone.
        return earlier

    def attempt(*, streams: bool) -> Plan:
        chosen = {name: values for name, values in scores.items() if streams or not graph.group(name).is_stream}
        return allocate(
            graph,
            {} if settings.level == "block" else chosen,
            budget,
            scope=settings.scope,
            normalize=normalize,
            min_units=settings.min_units,
            min_share=settings.min_share,
            round_to=settings.round_to,
            lock=settings.lock,
            blocks=blocks,
            allow_approximate=settings.allow_approximate,
        )

    if settings.level == "block" or settings.residual == "group":
        return attempt(streams=True)
    if settings.residual == "inner":
        return attempt(streams=False)
    if earlier is not None and cuts_streams(graph, earlier):
        return attempt(streams=True)  # once cut, a stream cannot be spared
    return sparing_streams(attempt)


def even_budgets(graph: ChannelGraph, budget: Budget, steps: int) -> list[Budget]:
    """Return the budgets on the way: every limit is approached from the original's cost in even steps."""
    if steps == 1:
        return [budget]
    limits, costs = _limits_and_costs(graph, budget)
    return [
        budget.with_limits(
            {
                name: _amount(name, cost - (cost - min(cost, limits[name])) * step / steps)
                for name, cost in costs.items()
            }
        )
        for step in range(1, steps + 1)
    ]


def shrinking_budgets(graph: ChannelGraph, budget: Budget, share: float) -> list[Budget]:
    """Return the budgets on the way where every step takes ``share`` of what is left, and the last one what is needed.

    Args:
        graph: of the original.
        budget: where to end.
        share: of each limited quantity, in (0, 1).
    """
    limits, costs = _limits_and_costs(graph, budget)
    left, budgets = dict(costs), []
    while any(left[name] > limits[name] for name in limits):
        # At least one less, so that small numbers come to an end too.
        left = {
            name: max(
                limits[name], value * (1 - share) if name == "latency_ms" else min(value * (1 - share), value - 1)
            )
            for name, value in left.items()
        }
        budgets.append(budget.with_limits({name: _amount(name, value) for name, value in left.items()}))
    return budgets or [budget]


def _amount(name: str, value: float) -> Amount:
    return Milliseconds(value) if name == "latency_ms" else int(value)


def _limits_and_costs(graph: ChannelGraph, budget: Budget) -> tuple[dict[str, float], dict[str, float]]:
    limits = budget.limits(graph)
    return limits, {name: budget.meter(name, graph)(graph.sizes) for name in limits}


def _holds(graph: ChannelGraph, plan: Plan, budget: Budget) -> bool:
    return all(
        cost_after(graph, plan, name, budget.latency_model) <= limit for name, limit in budget.limits(graph).items()
    )
