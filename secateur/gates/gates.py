"""Which gate holds which channels of which group, and what follows from it: members, scores, masks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.criteria.scoring import Combine, Scores
from secateur.errors import UsageError
from secateur.gates.norm import ClampedShifts
from secateur.graph import ChannelGraph, Plan
from secateur.names import unknown_name


@dataclass(frozen=True, eq=False)
class Gate:
    """One vector of gates.

    Attributes:
        parameter: name of φ in the decorated model.
        module: path of the norm, or of the convolution or linear layer, that it belongs to.
        units: unit of each channel, numbered over all groups of the graph; -1 for none.
    """

    parameter: str
    module: str
    units: NDArray[np.int64]

    @property
    def mask(self) -> str:
        """Name of the mask in the decorated model."""
        return f"{self.parameter.removesuffix('gate')}mask"


@dataclass(frozen=True, eq=False)
class Gates:
    """The gates of a decorated model.

    Attributes:
        graph: of the model without gates.
        gates: every gate, in the order of the model's modules.
        ungated: modules whose channels can be cut but got no gate, and why.
        clamped: norms where β/γ was beyond the limit, by path.
    """

    graph: ChannelGraph
    gates: tuple[Gate, ...]
    ungated: Mapping[str, str] = field(default_factory=dict)
    clamped: Mapping[str, ClampedShifts] = field(default_factory=dict)

    @cached_property
    def by_group(self) -> dict[str, tuple[str, ...]]:
        """Group → names of the gate parameters of its members, for every group that has any."""
        found: dict[str, list[str]] = {}
        for gate in self.gates:
            for group in self.graph.groups_of(gate.units):
                found.setdefault(group.name, []).append(gate.parameter)
        return {group.name: tuple(found[group.name]) for group in self.graph.groups if group.name in found}

    @cached_property
    def members(self) -> dict[str, int]:
        """Group → how many gated channels each of its units has, for the same groups."""
        counts = np.bincount(self._units[self._units >= 0], minlength=int(self.graph.sizes.sum()))
        return {name: int(counts[self.graph.group(name).offset]) for name in self.by_group}

    @property
    def channels(self) -> int:
        """Number of gated channels over all members, units of several members counting several times."""
        return int((self._units >= 0).sum())

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Return φ of every gate, in the order of ``gates``."""
        return [model.get_parameter(gate.parameter) for gate in self.gates]

    def scores(self, values: Tensor, *, combine: Combine = "sum") -> Scores:
        """Return one score per unit from one value per gated channel.

        Args:
            values: of all gates one after another, in the order of ``gates``, shape (sum of sizes,).
            combine: of a group's members: ``sum`` is Eq. 9 of Gate Decorator; or mean, max, l2.

        Returns:
            {group: scores, shape (units,), float64, on the CPU}.

        Raises:
            UsageError: an unknown combination.
        """
        if combine not in ("mean", "sum", "max", "l2"):
            raise UsageError(unknown_name("combination", combine, ("mean", "sum", "max", "l2")))
        mine = self._units >= 0
        units, numbers = self._units[mine], values.detach().double().cpu().numpy()[mine]
        count = int(self.graph.sizes.sum())
        if combine == "max":
            totals = np.full(count, -np.inf)
            np.maximum.at(totals, units, numbers)
        else:
            totals = np.bincount(units, weights=numbers**2 if combine == "l2" else numbers, minlength=count)
        if combine == "l2":
            totals = np.sqrt(totals)
        elif combine == "mean":
            totals = totals / np.maximum(np.bincount(units, minlength=count), 1)
        return {name: torch.from_numpy(totals[self.graph.group(name).units].copy()) for name in self.by_group}

    def set_masks(self, model: nn.Module, plan: Plan) -> None:
        """Mask in the decorated ``model`` what ``plan``, made from ``graph``, removes; all else is unmasked.

        Raises:
            PlanError: the plan was made for another model.
        """
        keeps = self._keeps(plan)
        with torch.no_grad():
            for gate in self.gates:
                marks = torch.from_numpy(keeps[gate.units])
                mask = model.get_buffer(gate.mask)
                mask.copy_(marks.to(mask))

    def after(self, plan: Plan) -> "Gates":
        """Return the gates of the decorated model cut by ``plan``, which was made from ``graph``.

        Raises:
            PlanError: the plan was made for another model.
        """
        keeps = self._keeps(plan)
        numbers = np.append(np.cumsum(keeps[:-1]) - 1, -1)
        left = tuple(replace(gate, units=numbers[gate.units[keeps[gate.units]]]) for gate in self.gates)
        return replace(self, graph=self.graph.after(plan), gates=left)

    @cached_property
    def _units(self) -> NDArray[np.int64]:
        return np.concatenate([gate.units for gate in self.gates] or [np.zeros(0, dtype=np.int64)])

    def _keeps(self, plan: Plan) -> NDArray[np.bool_]:
        """Return whether each unit stays; the last entry stands for unit -1, which does."""
        self.graph.check(plan)
        keeps = np.ones(int(self.graph.sizes.sum()) + 1, dtype=bool)
        for name, kept in plan.kept.items():
            group = self.graph.group(name)
            keeps[group.units] = False
            keeps[group.offset + np.asarray(kept)] = True
        return keeps
