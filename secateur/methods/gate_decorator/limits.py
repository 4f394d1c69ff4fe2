"""What may go, and how far: the budget in absolute numbers, the floor of every layer, and plans down to either."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secateur.cost import Budget
from secateur.cost.budget import meter
from secateur.errors import BudgetError
from secateur.graph import ChannelGraph, Plan
from secateur.methods.gate_decorator.threshold import floor_of

Place = tuple[str, int]
"""A group and one of its units, in the original's numbering."""


@dataclass(frozen=True)
class Limits:
    """A budget for one graph.

    Attributes:
        graph: of the dense model.
        limits: amount → how much of it is allowed.
        floors: group that may be cut → units that always stay.
        allow_approximate: whether groups may be cut where that is not the same as zeroing.
    """

    graph: ChannelGraph
    limits: Mapping[str, float]
    floors: Mapping[str, int]
    allow_approximate: bool

    @classmethod
    def of(
        cls, graph: ChannelGraph, names: Iterable[str], budget: Budget, *, min_share: float, allow_approximate: bool
    ) -> "Limits":
        """Return the limits of ``budget``.

        Raises:
            BudgetError: it cannot be met with ``min_share`` of every layer left.
        """
        floors = {name: floor_of(graph.group(name).size, min_share) for name in names}
        if budget.latency_ms is not None:
            raise BudgetError(
                "gate_decorator removes channels one by one, and runtimes are fast at multiples only, so it cannot "
                "meet a budget in milliseconds; give one in macs, or take the method global, l1 or autoslim"
            )
        made = cls(graph, budget.limits(graph), floors, allow_approximate)
        least = np.asarray([floors.get(group.name, group.size) for group in graph.groups], dtype=np.int64)
        for name, limit in made.limits.items():
            possible = meter(name, graph)(least)
            if possible > limit:
                raise BudgetError(
                    f"cannot reach {name} ≤ {limit:,.0f}: with {min_share:g} of every layer left (min_share) the least "
                    f"is {possible:,.0f}; allow at least that, or lower min_share"
                )
        return made

    def met(self, plan: Plan) -> bool:
        """Say whether the model that ``plan`` leaves holds every limit."""
        sizes = self.graph.kept_sizes(plan)
        return all(meter(name, self.graph)(sizes) <= limit for name, limit in self.limits.items())

    def progress(self, plan: Plan) -> str:
        """Say how much ``plan`` leaves of what is limited."""
        sizes = self.graph.kept_sizes(plan)
        parts = []
        for name, limit in self.limits.items():
            whole = meter(name, self.graph)(self.graph.sizes)
            left = meter(name, self.graph)(sizes)
            parts.append(f"{100 * left / whole:.1f} % of {name} left, {100 * limit / whole:.1f} % allowed")
        return ", ".join(parts)

    def least_first(
        self, scores: Mapping[str, Tensor], goes: Mapping[str, NDArray[np.bool_]], earlier: Plan | None = None
    ) -> list[Place]:
        """Return the units that may go, the lowest score first, but for the best of each group that always stay.

        Args:
            scores: group → scores of the units that ``earlier`` leaves, shape (units,).
            goes: group → whether each of these units may go.
            earlier: the plan of all cuts before; None where there were none.
        """
        found: list[tuple[float, int, int, Place]] = []
        for place, (name, marks) in enumerate(goes.items()):
            kept = self._kept(name, earlier)
            ranks = np.argsort(scores[name].numpy(), kind="stable")
            for unit in ranks[: max(0, len(kept) - self.floors[name])].tolist():
                if marks[unit]:
                    found.append((float(scores[name][unit]), place, unit, (name, kept[unit])))
        return [place for *_, place in sorted(found)]

    def without(self, removed: Sequence[Place], earlier: Plan) -> Plan:
        """Return the plan of ``earlier`` and of removing these units."""
        gone: dict[str, set[int]] = {}
        for name, unit in removed:
            gone.setdefault(name, set()).add(unit)
        kept = dict(earlier.kept)
        kept |= {name: tuple(u for u in self._kept(name, earlier) if u not in units) for name, units in gone.items()}
        return self.graph.plan(kept, allow_approximate=self.allow_approximate)

    def cut_until_met(self, order: Sequence[Place], earlier: Plan) -> Plan:
        """Return the plan that removes as few of the first units of ``order`` as hold every limit.

        Raises:
            BudgetError: all of them together do not.
        """
        if not self.met(self.without(order, earlier)):
            raise BudgetError(f"all that may go leaves {self.progress(self.without(order, earlier))}; lower min_share")
        low, high = 0, len(order)  # removing ``high`` holds the limits throughout
        while low < high:
            middle = (low + high) // 2
            if self.met(self.without(order[:middle], earlier)):
                high = middle
            else:
                low = middle + 1
        return self.without(order[:high], earlier)

    def _kept(self, name: str, earlier: Plan | None) -> Sequence[int]:
        whole: Sequence[int] = range(self.graph.group(name).size)
        return whole if earlier is None else earlier.kept.get(name, whole)
