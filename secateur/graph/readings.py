"""Integers that a model's code may read where it does not follow a cut: which there are, and what they may count."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.trial import Trials
from secateur.graph.trial_cut import is_within
from secateur.graph.units import Group, SizeAttribute, UnitArray
from secateur.graph.watch import Misfit
from secateur.graph.written_sizes import written_sizes

Pattern = tuple[tuple[str, str, int, str], ...]
"""What groups of equal blocks have in common: classes of modules, names and dimensions of parameters."""


@dataclass(frozen=True)
class Reading:
    """An integer that a module's code reads, and where it stands seen from the home of a group.

    Attributes:
        up: how many modules above the home.
        below: the path from there to the module.
        attribute: its name.
    """

    up: int
    below: str
    attribute: str

    def module(self, group: Group) -> str:
        """Return the path of the module, for a group of the same pattern."""
        return f"{above(home_of(group), self.up)}{self.below}".removeprefix(".")


def readings_at(trials: Trials, group: Group, misfit: Misfit) -> Iterator[Reading]:
    """Yield the integers where the run failed, and around it up to the home of ``group``, that may count its units."""
    home = home_of(group)
    up = 0
    while not is_within(misfit.module, above(home, up)):
        up += 1
    top = above(home, up)
    path = misfit.module
    while True:
        module = trials.modules[path]
        # Counts of torch's own layers follow from their tensors; what a whole model keeps, its parts do not read.
        if not type(module).__module__.startswith("torch.nn.") and (path or not misfit.module):
            for attribute, value in written_sizes(module).items():
                if counted(trials, path, value, group) is not None:
                    yield Reading(up, path[len(top) :], attribute)
        if path == top:
            return
        path = path.rpartition(".")[0]


def counted(trials: Trials, path: str, value: int, group: Group) -> UnitArray | None:
    """Return the units that an integer may count: a part that code has taken, or every unit as often as any."""
    for units in trials.counted(path, value):
        if ((units >= group.offset) & (units < group.offset + group.size)).any():
            return units
    most = max((np.bincount(member.units[member.units >= 0]).max() for member in group.members), default=1)
    if value % group.size or value // group.size > most:
        return None
    return np.repeat(np.arange(group.offset, group.offset + group.size, dtype=np.int64), value // group.size)


def rebound(trials: Trials, graph: ChannelGraph, group: Group, readings: Sequence[Reading]) -> ChannelGraph:
    """Return ``graph`` in which ``readings`` count the units of ``group``; those that its home lacks are left out."""
    for reading in readings:
        path = reading.module(group)
        value = written_sizes(trials.modules[path]).get(reading.attribute) if path in trials.modules else None
        graph = bound(graph, path, reading.attribute, None if value is None else counted(trials, path, value, group))
    return graph


def bound(graph: ChannelGraph, path: str, attribute: str, units: UnitArray | None) -> ChannelGraph:
    """Return ``graph`` in which an integer counts ``units``, unless there are none or it counts others already."""
    if units is None or any((entry.module, entry.attribute) == (path, attribute) for entry in graph.attributes):
        return graph
    return replace(graph, attributes=(*graph.attributes, SizeAttribute(path, attribute, units)))


def pattern_of(modules: Mapping[str, nn.Module], group: Group) -> Pattern:
    """Return the pattern of a group."""
    found = []
    for member in group.members:
        path, _, attribute = member.parameter.rpartition(".")
        kind = type(modules[path]).__qualname__
        parent = type(modules[path.rpartition(".")[0]]).__qualname__
        found.append((f"{parent}/{kind}", attribute, member.dim, member.role))
    return tuple(sorted(found))


def home_of(group: Group) -> str:
    """Return the path of the innermost module that holds all parameters of a group."""
    paths = [member.parameter.split(".")[:-1] for member in group.members]
    common: list[str] = []
    for names in zip(*paths, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    home = ".".join(common)
    if len({tuple(path) for path in paths}) == 1 and common:
        return ".".join(common[:-1])  # of one layer alone the block around it
    return home


def above(path: str, levels: int) -> str:
    """Return the path of the module so many levels around another."""
    for _ in range(levels):
        path = path.rpartition(".")[0]
    return path
