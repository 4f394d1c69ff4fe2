"""Groups whose size a model's own code has written down: explained by integers that the code reads, or locked."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.trial import Misfit, Trials
from secateur.graph.units import Group, SizeAttribute, UnitArray
from secateur.graph.written_sizes import written_sizes

# Modules have few sizes of their own; a search that needs more trials than this is not about sizes.
_MOST_TRIALS = 48


@dataclass(frozen=True)
class _Reading:
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
        return f"{_above(_home(group), self.up)}{self.below}".removeprefix(".")


def fitted(trials: Trials, graph: ChannelGraph) -> ChannelGraph:
    """Return ``graph`` with every group locked whose size is written in code and not explained by integers.

    Groups are cut on trial all at once. If that fails, bisection finds the first group that breaks the forward there;
    it is explained or locked, groups of the same pattern (the same slices of parameters of modules of the same
    classes) with it, and all that is left is tried again.
    """
    if not trials.suspicious:
        return graph
    tried: set[tuple[str, ...]] = set()
    while groups := [group for group in graph.groups if group.locked is None and group.size > 1]:
        found = trials.misfit(graph, groups)
        if found is None:
            break
        number, misfit = _first_bad(trials, graph, groups, found)
        bad, model = groups[number], trials.model
        alike = [group for group in groups[number + 1 :] if _pattern(model, group) == _pattern(model, bad)]
        kind = (misfit.line, *map(str, _pattern(model, bad)))
        alone = trials.misfit(graph, [bad], beyond=misfit) is not None
        readings = () if kind in tried else _explained(trials, graph, [] if alone else groups[:number], bad, misfit)
        tried.add(kind)
        if readings:
            graph = _rebound(trials, graph, bad, readings)
            together = graph
            for group in alike:
                together = _rebound(trials, together, group, readings)
            # Explained alike, unless together they do not run: then each gets an explanation of its own.
            if trials.misfit(together, [bad, *alike]) is None:
                graph = together
            else:
                tried.discard(kind)
        else:
            graph = locked(graph, _reasons(trials, graph, bad, alike, misfit))
    return graph


def _reasons(trials: Trials, graph: ChannelGraph, bad: Group, alike: list[Group], misfit: Misfit) -> dict[str, str]:
    """Return why a group is locked, and those of its pattern that fail as it does: one more witness speaks for all."""
    same = alike if alike and trials.misfit(graph, [alike[-1]]) is not None else []
    same = same or [group for group in alike if trials.misfit(graph, [group]) is not None]
    moved = {group.name: _moved(trials.model, misfit, bad, group).reason() for group in same}
    return {bad.name: misfit.reason(), **moved}


def locked(graph: ChannelGraph, reasons: dict[str, str]) -> ChannelGraph:
    """Return ``graph`` with the named groups locked."""
    groups = tuple(replace(group, locked=reasons.get(group.name, group.locked), dims=()) for group in graph.groups)
    return replace(graph, groups=groups)


def _first_bad(trials: Trials, graph: ChannelGraph, groups: list[Group], misfit: Misfit) -> tuple[int, Misfit]:
    """Return the number of the first group with which the run does not get past ``misfit``, and how it fails then."""
    fits, fails, beyond = 0, len(groups), misfit  # so many of the first ones run, so many do not
    while fails - fits > 1:
        middle = (fits + fails) // 2
        found = trials.misfit(graph, groups[:middle], beyond=beyond)
        if found is None:
            fits = middle
        else:
            fails, misfit = middle, found
    return fails - 1, misfit


def _explained(
    trials: Trials, graph: ChannelGraph, others: list[Group], group: Group, misfit: Misfit
) -> tuple[_Reading, ...]:
    """Return the integers whose change with ``group`` makes the run fit, as few as will do; empty if there are none.

    Where several modules have written the size down, each is explained when the run comes to it.
    """
    known: tuple[_Reading, ...] = ()
    places: set[str] = set()
    found: Misfit | None = misfit

    def run(readings: Sequence[_Reading], beyond: Misfit | None) -> Misfit | None:
        return trials.misfit(_rebound(trials, graph, group, readings), [*others, group], beyond=beyond)

    while found is not None:
        if found.computed or found.module in places:
            return ()
        places.add(found.module)
        choices = itertools.islice(_subsets(tuple(_readings(trials, group, found))), _MOST_TRIALS)
        chosen = next((choice for choice in choices if run((*known, *choice), found) is None), None)
        if chosen is None:
            return ()
        for reading in chosen:  # leave out what the run does as well without
            fewer = tuple(other for other in chosen if other is not reading)
            if fewer and run((*known, *fewer), found) is None:
                chosen = fewer
        known = (*known, *chosen)
        found = run(known, None)
    return known


def _subsets(candidates: tuple[_Reading, ...]) -> Iterator[tuple[_Reading, ...]]:
    """Yield all candidates together, then each alone, then ever more of them."""
    if candidates:
        yield candidates
    for count in range(1, len(candidates)):
        yield from itertools.combinations(candidates, count)


def _readings(trials: Trials, group: Group, misfit: Misfit) -> Iterator[_Reading]:
    """Yield the integers where the run failed, and around it up to the home of ``group``, that may count its units."""
    home = _home(group)
    up = 0
    while not _is_within(misfit.module, _above(home, up)):
        up += 1
    top = _above(home, up)
    path = misfit.module
    while True:
        module = trials.model.get_submodule(path)
        # Counts of torch's own layers follow from their tensors; what a whole model keeps, its parts do not read.
        if not type(module).__module__.startswith("torch.nn.") and (path or not misfit.module):
            for attribute, value in written_sizes(module).items():
                if _counted(trials, path, value, group) is not None:
                    yield _Reading(up, path[len(top) :], attribute)
        if path == top:
            return
        path = path.rpartition(".")[0]


def _counted(trials: Trials, path: str, value: int, group: Group) -> UnitArray | None:
    """Return the units that an integer may count: a part that code has taken, or every unit as often as any."""
    for units in trials.counted(path, value):
        if ((units >= group.offset) & (units < group.offset + group.size)).any():
            return units
    most = max((np.bincount(member.units[member.units >= 0]).max() for member in group.members), default=1)
    if value % group.size or value // group.size > most:
        return None
    return np.repeat(np.arange(group.offset, group.offset + group.size, dtype=np.int64), value // group.size)


def _rebound(trials: Trials, graph: ChannelGraph, group: Group, readings: Sequence[_Reading]) -> ChannelGraph:
    """Return ``graph`` in which ``readings`` count the units of ``group``; those that its home lacks are left out."""
    modules = dict(trials.model.named_modules())
    known = {(entry.module, entry.attribute) for entry in graph.attributes}
    more = []
    for reading in readings:
        path = reading.module(group)
        value = None if path not in modules else written_sizes(modules[path]).get(reading.attribute)
        units = None if value is None else _counted(trials, path, value, group)
        if units is not None and (path, reading.attribute) not in known:
            more.append(SizeAttribute(path, reading.attribute, units))
    return replace(graph, attributes=(*graph.attributes, *more))


def _pattern(model: nn.Module, group: Group) -> tuple[tuple[str, str, int, str], ...]:
    """Return what groups of equal blocks have in common: classes of modules, names and dimensions of parameters."""
    found = []
    for member in group.members:
        path, _, attribute = member.parameter.rpartition(".")
        kind = type(model.get_submodule(path)).__qualname__
        parent = type(model.get_submodule(path.rpartition(".")[0])).__qualname__
        found.append((f"{parent}/{kind}", attribute, member.dim, member.role))
    return tuple(sorted(found))


def _home(group: Group) -> str:
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


def _above(path: str, levels: int) -> str:
    """Return the path of the module so many levels around another."""
    for _ in range(levels):
        path = path.rpartition(".")[0]
    return path


def _is_within(path: str, home: str) -> bool:
    return path == home or not home or path.startswith(f"{home}.")


def _moved(model: nn.Module, misfit: Misfit, bad: Group, group: Group) -> Misfit:
    """Return where ``group`` fails if it fails as ``bad`` did: the same place below its own home."""
    home = _home(bad)
    if not _is_within(misfit.module, home):
        return misfit
    path = _home(group) + misfit.module[len(home) :]
    return replace(misfit, module=path) if any(name == path for name, _ in model.named_modules()) else misfit
