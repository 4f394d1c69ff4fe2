"""Widths: how many units each group keeps, always those of the lowest numbers, and which counts may be chosen."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secateur.errors import PlanError, UsageError
from secateur.graph import ChannelGraph, Plan
from secateur.graph.units import UnitArray
from secateur.names import unknown_name

Widths = Mapping[str, int]
"""Group → units that it keeps, numbers 0 to that many; a group that is not named keeps all."""

FEWEST_CHOICES = 3
"""A group that has fewer at the multiple asked for is stepped through in halves of it."""

_FORMAT = 1


@dataclass(frozen=True)
class WidthSpace:
    """The counts of units that each group may keep; :func:`width_space` makes one.

    Source: Yu & Huang 2019, "AutoSlim", arXiv:1903.11728, section 3: each layer's channels in steps, every layer by
    itself.

    Attributes:
        fingerprint: of the graph that it was made for.
        choices: group → ascending counts; the last is the group's size in the widest network.
    """

    fingerprint: str
    choices: Mapping[str, tuple[int, ...]]

    def largest(self) -> dict[str, int]:
        """Return the widths of the widest network."""
        return {name: counts[-1] for name, counts in self.choices.items()}

    def smallest(self) -> dict[str, int]:
        """Return the widths of the narrowest network."""
        return {name: counts[0] for name, counts in self.choices.items()}

    def uniform(self, ratio: float) -> dict[str, int]:
        """Return the widths nearest to one share of every group, of two equally near ones the smaller.

        Args:
            ratio: of the widest network's width, in (0, 1].

        Raises:
            UsageError: it lies outside.
        """
        if not 0 < ratio <= 1:
            raise UsageError(f"ratio is {ratio}, but must lie in (0, 1]: it is a share of the widest network's width")
        return {
            name: min(counts, key=lambda count, wanted=ratio * counts[-1]: abs(count - wanted))  # type: ignore[misc]
            for name, counts in self.choices.items()
        }

    def sample(self, generator: torch.Generator | None = None) -> dict[str, int]:
        """Draw a count for every group by itself, uniformly over its choices.

        A residual stream is one group, so the layers that it ties together share one draw.

        Args:
            generator: of a CPU; torch's default one if left out.
        """
        drawn = torch.rand(len(self.choices), generator=generator, dtype=torch.float64).tolist()
        return {
            name: counts[int(share * len(counts))]
            for (name, counts), share in zip(self.choices.items(), drawn, strict=True)
        }

    def below(self, widths: Widths, group: str) -> int | None:
        """Return the next smaller count of ``group`` than in ``widths``, or None if it has the smallest.

        Raises:
            PlanError: there is no such group to choose for.
        """
        smaller = [count for count in self._counts(group) if count < widths.get(group, self.choices[group][-1])]
        return smaller[-1] if smaller else None

    def complete(self, widths: Widths) -> dict[str, int]:
        """Return ``widths`` in the space's own order, with all units of the groups that it does not name.

        Raises:
            PlanError: a group or a count is none of the space's.
        """
        for name, count in widths.items():
            if count not in self._counts(name):
                raise PlanError(
                    f"group {name!r} would keep {count} units, but may keep {', '.join(map(str, self.choices[name]))}"
                )
        return {name: widths.get(name, counts[-1]) for name, counts in self.choices.items()}

    def check(self, graph: ChannelGraph) -> None:
        """Refuse another model's graph.

        Raises:
            PlanError: the space was made for another one.
        """
        if graph.fingerprint != self.fingerprint:
            raise PlanError(
                f"the widths were made for a model with fingerprint {self.fingerprint}, but this is "
                f"{graph.model_class} with {graph.fingerprint}; call width_space on this model's own graph"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dictionaries; :meth:`from_json` reads them back."""
        return {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "choices": {name: list(counts) for name, counts in self.choices.items()},
        }

    @classmethod
    def from_json(cls, data: Any) -> "WidthSpace":
        """Read what :meth:`to_json` wrote.

        Raises:
            PlanError: it is something else, or a group's counts do not ascend from 1 or more.
        """
        if not isinstance(data, dict) or data.keys() != {"format", "fingerprint", "choices"}:
            raise PlanError("this is no space of widths: it must have format, fingerprint and choices, and no more")
        if data["format"] != _FORMAT:
            raise PlanError(f"the space of widths has format {data['format']!r}, but this version reads {_FORMAT}")
        if not isinstance(data["fingerprint"], str) or not isinstance(data["choices"], dict):
            raise PlanError("this is no space of widths: fingerprint must be a text and choices lists by group")
        for name, counts in data["choices"].items():
            whole = isinstance(counts, list) and counts and all(type(count) is int for count in counts)
            if not whole or counts[0] < 1 or any(a >= b for a, b in itertools.pairwise(counts)):
                raise PlanError(f"the choices of group {name!r} are {counts!r}, but must be ascending counts from 1 on")
        return cls(data["fingerprint"], {name: tuple(counts) for name, counts in data["choices"].items()})

    def _counts(self, group: str) -> tuple[int, ...]:
        if group not in self.choices:
            raise PlanError(unknown_name("group with choices", group, self.choices))
        return self.choices[group]


def width_space(
    graph: ChannelGraph,
    *,
    lower: float = 0.1,
    steps: int = 10,
    multiple: int = 8,
    skip: Iterable[str] = (),
    allow_approximate: bool = False,
) -> WidthSpace:
    """Return the counts that each group of a network may keep: even steps of its size, rounded to a multiple.

    A group of U units may keep k·U/steps for k = 1…steps, rounded to the nearest multiple, never below that multiple
    or above U. U itself is always among them. Where fewer than three counts are left, the group is stepped through in
    halves of the multiple, and halves of that. Locked groups, and those of a single unit, have nothing to choose.

    Source: Yu & Huang 2019, arXiv:1903.11728: ten steps of a network of 1.5 times the width, from 0.15 times on, which
    is a tenth of the widest; the released networks have twelve.

    Args:
        graph: of the widest network.
        lower: smallest share of a group's units, in (0, 1].
        steps: how many even steps lead to all of its units.
        multiple: which counts are rounded to, as fast kernels like them.
        skip: names of groups that stay as wide as they are.
        allow_approximate: also vary groups where cutting is not the same as zeroing, because a norm or a mean runs
            across their channels.

    Raises:
        UsageError: a number is out of range, or no group is left to choose for.
        PlanError: ``skip`` names an unknown group.
    """
    if not 0 < lower <= 1:
        raise UsageError(f"lower is {lower}, but must lie in (0, 1]: it is a share of the widest network's width")
    if steps < 1 or multiple < 1:
        raise UsageError(f"steps is {steps} and multiple is {multiple}, but both must be at least 1")
    skipped = {graph.group(name).name for name in skip}
    choices = {
        group.name: _counts_of(group.size, lower=lower, steps=steps, multiple=multiple)
        for group in graph.groups
        if group.cuttable(allow_approximate=allow_approximate) and group.name not in skipped
    }
    choices = {name: counts for name, counts in choices.items() if len(counts) > 1}
    if not choices:
        raise UsageError(
            f"no group of this {graph.model_class} has widths to choose from: of {len(graph.groups)} groups "
            f"{len(skipped)} are skipped, and the others are locked, of one unit, or whole already at the lowest step; "
            "print(graph.why(name)) says why one is locked"
        )
    return WidthSpace(graph.fingerprint, choices)


def _counts_of(size: int, *, lower: float, steps: int, multiple: int) -> tuple[int, ...]:
    shares = [k / steps for k in range(1, steps + 1) if k / steps >= lower * (1 - 1e-9)]
    fewest = min(FEWEST_CHOICES, len(shares), size)
    while True:
        # Halves round up, as in the published networks: 4 of a multiple of 8 gives 8.
        rounded = {min(size, max(multiple, int(share * size / multiple + 0.5) * multiple)) for share in shares}
        counts = tuple(sorted({*rounded, size}))
        if len(counts) >= fewest or multiple == 1:
            return counts
        multiple //= 2


def kept_units(graph: ChannelGraph, widths: Widths) -> UnitArray:
    """Return how many units each group of a network keeps, shape (groups,), as costs are asked for.

    Args:
        graph: of the widest network.
        widths: group → units that it keeps; groups that are not named keep all.
    """
    return np.asarray([widths.get(group.name, group.size) for group in graph.groups], dtype=np.int64)


def plan_of(graph: ChannelGraph, widths: Widths, *, allow_approximate: bool = False) -> Plan:
    """Return the plan that keeps the units 0…k-1 of each group, and all of the groups that are not named.

    Args:
        graph: of the widest network.
        widths: group → k.
        allow_approximate: also cut groups where cutting is not the same as zeroing.

    Raises:
        PlanError: an unknown or locked group, or a count below 1 or above the group's size.
    """
    for name, count in widths.items():
        size = graph.group(name).size
        if not 1 <= count <= size:
            raise PlanError(f"group {name!r} has {size} units, but would keep {count}; keep 1 to {size}")
    return graph.plan({name: range(count) for name, count in widths.items()}, allow_approximate=allow_approximate)
