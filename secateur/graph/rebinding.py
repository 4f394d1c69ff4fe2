"""Groups whose size a model's own code has written down: explained by integers that the code reads, or locked."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.readings import Pattern, Reading, bound, counted, home_of, pattern_of, readings_at, rebound
from secateur.graph.recorded import ModuleCall
from secateur.graph.trial import Trials
from secateur.graph.trial_cut import is_within
from secateur.graph.units import Group
from secateur.graph.watch import Misfit
from secateur.graph.written_sizes import written_sizes

# Modules have few sizes of their own; a search that needs more trials than this is not about sizes.
_MOST_TRIALS = 48


def fitted(trials: Trials, graph: ChannelGraph) -> ChannelGraph:
    """Return ``graph`` with every group locked whose size is written in code and not explained by integers.

    Groups are cut on trial all at once. Where that fails, the call that fails is settled on its own: bisection finds
    the first group that breaks it, which is explained or locked, until the call fits; then the calls of modules of the
    same class that come later, with the same explanation tried first. All that is left is tried again.
    """
    return _Search(trials, graph).run() if trials.suspicious else graph


def locked(graph: ChannelGraph, reasons: dict[str, str]) -> ChannelGraph:
    """Return ``graph`` with the named groups locked."""
    groups = tuple(replace(group, locked=reasons.get(group.name, group.locked)) for group in graph.groups)
    return replace(graph, groups=groups)


@dataclass(frozen=True)
class _Hint:
    """What explained a group at one call, for calls of modules of the same class.

    Attributes:
        below: the path of the module that keeps the integer, seen from the module that is called.
        reading: the integer.
        pattern: of the group.
        group: its name.
        part: which of the parts of its length that the code has taken it counts, if it counts one.
    """

    below: str
    reading: Reading
    pattern: Pattern
    group: str
    part: int | None


class _Search:
    """Explains or locks groups until a trial of all that are left fits."""

    def __init__(self, trials: Trials, graph: ChannelGraph) -> None:
        self.trials = trials
        self.graph = graph
        self._hopeless: set[tuple[str, Pattern]] = set()
        self._tried: set[tuple[str, str, int]] = set()  # group, module, call
        self._hints: dict[type, list[_Hint]] = {}
        self._patterns: dict[str, Pattern] = {}

    def run(self) -> ChannelGraph:
        """Return the graph when all that is not locked fits."""
        while groups := self._open():
            misfit = self.trials.misfit(self.graph, groups)
            if misfit is None:
                break
            call, before = self.trials.nearest(self.graph, groups, misfit), self.graph
            if call is not None:
                self._settle(call)
            if self.graph is before:
                self._step(groups, misfit, None)
            if call is None:
                continue
            for other in self.trials.calls_like(call):
                self._settle_alike(other)
        return self.graph

    def _open(self) -> list[Group]:
        return [group for group in self.graph.groups if group.locked is None and group.size > 1]

    def _pattern(self, group: Group) -> Pattern:
        if group.name not in self._patterns:
            self._patterns[group.name] = pattern_of(self.trials.modules, group)
        return self._patterns[group.name]

    def _settle(self, call: ModuleCall) -> None:
        """Explain or lock groups until the call fits when it runs alone."""
        while groups := self._open():
            misfit = self.trials.misfit(self.graph, groups, within=call)
            if misfit is None:
                return
            self._step(groups, misfit, call)

    def _settle_alike(self, call: ModuleCall) -> None:
        """Settle a call of a module of a class of which another was settled."""
        groups = self._open()
        if not groups or self.trials.misfit(self.graph, groups, within=call) is None:
            return
        for group in groups:  # what was locked at another call, here for its own place
            misfit = self.trials.misfit(self.graph, [group], within=call) if self._is_doomed(group, call) else None
            if misfit is not None and (misfit.line, self._pattern(group)) in self._hopeless:
                self.graph = locked(self.graph, {group.name: misfit.reason()})
        hinted = self._hinted(call, self._open())
        if hinted is not self.graph and self._fits_alone(hinted, call):
            self.graph = hinted
        elif self.trials.misfit(self.graph, (), within=call) is None:  # else it cannot run alone
            self._settle(call)

    def _is_doomed(self, group: Group, call: ModuleCall) -> bool:
        """Whether a group of its pattern was locked, and it belongs to the module that is called."""
        home = home_of(group)
        belongs = is_within(home, call.path) or is_within(call.path, home)
        return belongs and any(self._pattern(group) == pattern for _, pattern in self._hopeless)

    def _fits_alone(self, graph: ChannelGraph, call: ModuleCall) -> bool:
        """Whether a call fits with all groups cut, and with each of those that its new integers count cut alone.

        Groups of one size that are all cut cannot be told apart, unless labels say what the code has taken.
        """
        new = [
            entry
            for entry in graph.attributes[len(self.graph.attributes) :]
            if not any(
                np.array_equal(units, entry.units) for units in self.trials.counted(entry.module, entry.units.size)
            )
        ]
        groups = {group.name: group for entry in new for group in graph.groups_of(entry.units) if group.locked is None}
        cuts = [self._open(), *([group] for group in groups.values())]
        return all(self.trials.misfit(graph, cut, within=call) is None for cut in cuts)

    def _step(self, groups: list[Group], misfit: Misfit, call: ModuleCall | None) -> None:
        """Explain or lock the first group that breaks the run at ``misfit``."""
        trials = self.trials
        number, misfit = self._first_bad(groups, misfit, call)
        bad = groups[number]
        alike = [group for group in groups[number + 1 :] if self._pattern(group) == self._pattern(bad)]
        kind = (misfit.line, self._pattern(bad))
        place = (bad.name, misfit.module, misfit.calls[-1] if misfit.calls else -1)
        readings: tuple[Reading, ...] = ()
        if kind not in self._hopeless and place not in self._tried and not misfit.computed:
            self._tried.add(place)
            alone = trials.misfit(self.graph, [bad], beyond=misfit, within=call) is not None
            readings = self._explained([bad] if alone else groups[: number + 1], bad, misfit)
        if readings:
            self.graph = rebound(trials, self.graph, bad, readings)
            if call is not None:
                self._remember(call, bad, readings)
            else:
                self._rebind_alike(bad, alike, readings)
            return
        self._hopeless.add(kind)
        reasons = {bad.name: misfit.reason()}
        if call is None:  # each trial is the whole run, so that one more witness has to speak for all
            same = alike if alike and trials.misfit(self.graph, [alike[-1]]) is not None else []
            reasons.update({group.name: self._moved(misfit, bad, group).reason() for group in same})
        self.graph = locked(self.graph, reasons)

    def _first_bad(self, groups: list[Group], misfit: Misfit, call: ModuleCall | None) -> tuple[int, Misfit]:
        """Return the number of the first group with which the run does not get past ``misfit``, and how it fails."""
        fits, fails, beyond = 0, len(groups), misfit  # so many of the first ones run, so many do not
        while fails - fits > 1:
            middle = (fits + fails) // 2
            found = self.trials.misfit(self.graph, groups[:middle], beyond=beyond, within=call)
            if found is None:
                fits = middle
            else:
                fails, misfit = middle, found
        return fails - 1, misfit

    def _explained(self, cut: list[Group], bad: Group, misfit: Misfit) -> tuple[Reading, ...]:
        """Return the integers whose change with ``bad`` lets the run get past ``misfit``, as few as will do."""
        readings = tuple(readings_at(self.trials, bad, misfit))
        if not readings:
            return ()
        within = self.trials.nearest(self.graph, cut, misfit, [reading.module(bad) for reading in readings])

        def fits(readings: Sequence[Reading]) -> bool:
            graph = rebound(self.trials, self.graph, bad, readings)
            return self.trials.misfit(graph, cut, beyond=misfit, within=within) is None

        chosen = next(filter(fits, itertools.islice(_subsets(readings), _MOST_TRIALS)), ())
        for reading in chosen:  # leave out what the run does as well without
            fewer = tuple(other for other in chosen if other is not reading)
            if fewer and fits(fewer):
                chosen = fewer
        return chosen

    def _rebind_alike(self, bad: Group, alike: list[Group], readings: tuple[Reading, ...]) -> None:
        """Explain groups of the same pattern alike, unless together they do not run."""
        together = self.graph
        for group in alike:
            together = rebound(self.trials, together, group, readings)
        if together is not self.graph and self.trials.misfit(together, [bad, *alike]) is None:
            self.graph = together

    def _remember(self, call: ModuleCall, bad: Group, readings: tuple[Reading, ...]) -> None:
        hints = self._hints.setdefault(type(self.trials.modules[call.path]), [])
        for reading in readings:
            path = reading.module(bad)
            if not is_within(path, call.path):
                continue
            keys = {(entry.module, entry.attribute): entry.units for entry in self.graph.attributes}
            units = keys[path, reading.attribute]
            parts = self.trials.counted(path, written_sizes(self.trials.modules[path])[reading.attribute])
            part = next((number for number, other in enumerate(parts) if np.array_equal(other, units)), None)
            below = path[len(call.path) :]
            hints.append(_Hint(below, reading, self._pattern(bad), bad.name, part))

    def _hinted(self, call: ModuleCall, groups: list[Group]) -> ChannelGraph:
        """Return the graph with the integers of the called module bound as those of another of its class were."""
        trials, graph = self.trials, self.graph
        for hint in self._hints.get(type(trials.modules[call.path]), ()):
            path, attribute = f"{call.path}{hint.below}", hint.reading.attribute
            value = written_sizes(trials.modules[path]).get(attribute) if path in trials.modules else None
            if value is None:
                continue
            if hint.part is not None:
                parts = list(trials.counted(path, value))
                graph = bound(graph, path, attribute, parts[hint.part] if hint.part < len(parts) else None)
                continue
            same = [group for group in groups if self._pattern(group) == hint.pattern]
            own = [group for group in same if hint.reading.module(group) == path]
            for group in own or [group for group in same if group.name == hint.group]:
                graph = bound(graph, path, attribute, counted(trials, path, value, group))
        return graph

    def _moved(self, misfit: Misfit, bad: Group, group: Group) -> Misfit:
        """Return where ``group`` fails if it fails as ``bad`` did: the same place below its own home."""
        home = home_of(bad)
        if not is_within(misfit.module, home):
            return misfit
        path = home_of(group) + misfit.module[len(home) :]
        return replace(misfit, module=path) if path in self.trials.modules else misfit


def _subsets(candidates: tuple[Reading, ...]) -> Iterator[tuple[Reading, ...]]:
    """Yield all candidates together, then each alone, then ever more of them."""
    if candidates:
        yield candidates
    for count in range(1, len(candidates)):
        yield from itertools.combinations(candidates, count)
