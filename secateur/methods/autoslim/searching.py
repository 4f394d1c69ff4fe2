"""One greedy search: what it holds, its steps, and how candidates are measured."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from secateur.cost import Budget, LatencyModel, size_bytes
from secateur.cost.budget import meter
from secateur.criteria.accumulator import present_processes
from secateur.errors import BudgetError, DataError, PlanError, UsageError
from secateur.graph import ChannelGraph, Plan, trace
from secateur.graph.narrowing import Narrowable
from secateur.graph.slots import mode_of
from secateur.methods.autoslim.front import Candidate, Configuration, Front, best_of
from secateur.methods.autoslim.prefixes import PREFIX_BYTES, OtherCallsError, Prefixes
from secateur.methods.autoslim.race import Race
from secateur.methods.autoslim.shortlisting import first_order
from secateur.slimmable import Widths, WidthSpace, batch_statistics, plan_of
from secateur.slimmable.sandwich import logits_of
from secateur.training import IGNORED, Batch, sum_over_processes

Batches = Sequence[Batch] | Callable[[], Iterable[Batch]]
"""Validation batches: a list, or a function that gives the same ones on every call."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What makes the search fast. Only ``shortlist`` may change what it finds.

    Attributes:
        share_prefixes: compute what candidates have in common once.
        prefix_bytes: bound on the outputs that are kept for that, in bytes.
        bounds: drop a candidate as soon as it cannot be the best any more, whatever the remaining samples say.
        shortlist: measure only so many candidates in each step, those that first-order scores choose; None: all.
    """

    share_prefixes: bool = True
    prefix_bytes: int = PREFIX_BYTES
    bounds: bool = True
    shortlist: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if self.prefix_bytes < 0:
            raise UsageError(f"prefix_bytes is {self.prefix_bytes}, but must be at least 0")
        if self.shortlist is not None and self.shortlist < 1:
            raise UsageError(f"shortlist is {self.shortlist}, but at least 1 candidate has to be measured in a step")


@dataclass
class Search:
    """One search: the network, looked through once, and the samples."""

    narrowable: Narrowable
    graph: ChannelGraph
    space: WidthSpace
    batches: Callable[[], Iterable[Batch]]
    example: Tensor
    table: LatencyModel | None
    speed: Speed
    approximate: bool
    prefixes: Prefixes | None = None
    samples: int = 0
    _plans: dict[tuple[tuple[str, int], ...], Plan] = field(default_factory=dict)  # of the step at hand

    @classmethod
    def of(
        cls,
        model: nn.Module,
        space: WidthSpace,
        batches: Batches,
        graph: ChannelGraph | None,
        table: LatencyModel | None,
        speed: Speed,
        *,
        approximate: bool,
    ) -> "Search":
        """Prepare a search.

        Raises:
            PlanError: the space is another network's.
            DataError: there are no batches.
        """
        again = batches if callable(batches) else lambda: batches
        first = next(iter(again()), None)
        if first is None:
            raise DataError("there are no validation batches to compare networks by; give at least one")
        example = first[0][:2]
        graph = graph or trace(model, example)
        space.check(graph)
        return cls(Narrowable(model), graph, space, again, example, table, speed, approximate)

    def limits_of(self, budgets: Sequence[Budget], original: ChannelGraph) -> list[dict[str, float]]:
        """Return each budget in absolute numbers.

        Raises:
            BudgetError: there is none, or the narrowest network is above one.
        """
        if not budgets:
            raise BudgetError("there is no budget to slim to; give at least one, such as Budget(macs=0.5)")
        limits = [budget.limits(original, self.table) for budget in budgets]
        least = self.graph.kept_sizes(self._plan(self.space.smallest()))
        for budget, asked in zip(budgets, limits, strict=True):
            for name, limit in asked.items():
                cost = meter(name, self.graph, self.table)(least)
                if cost > limit:
                    raise BudgetError(
                        f"{budget.describe()} cannot be met: with every group at its smallest width the network still "
                        f"costs {cost:,.6g} {name}, above {limit:,.6g}; allow more, or widths below these"
                    )
        return limits

    @property
    def model(self) -> nn.Module:
        """The large network."""
        return self.narrowable.model

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Put the network in evaluation mode inside this block, without gradients and normalised by the batch."""
        with torch.no_grad(), mode_of(self.model, training=False), batch_statistics(self.model):
            if self.speed.share_prefixes:
                self.prefixes = Prefixes(self.model, self.graph, self.example)
            yield

    def begin(self, begun: Front | None) -> Front:
        """Return the front to go on from: one that was begun, or the largest network.

        Raises:
            PlanError: what was begun is another network's front.
            DataError: no sample has a label.
        """
        if begun is not None:
            if begun.fingerprint != self.graph.fingerprint:
                raise PlanError(
                    f"the front was searched on a network with fingerprint {begun.fingerprint}, but this is "
                    f"{self.graph.fingerprint}; begin a new one"
                )
            self.space.complete(begun.configurations[-1].widths)
            self.samples = begun.configurations[0].samples
            return begun
        largest = self.space.largest()
        first = self.estimated(largest)
        return Front(fingerprint=self.graph.fingerprint, configurations=(first,))

    def estimated(self, widths: Widths) -> Configuration:
        """Return what the large network gives at any widths, those of the space or others.

        Raises:
            DataError: no sample has a label.
        """
        right = self.samples = 0
        with self.narrowable.at(self._plan(widths)):
            for batch in self.batches():
                found, counted = self._summed([rights(self.model, batch)])[0]
                right, self.samples = right + found, self.samples + counted
        if not self.samples:
            raise DataError("no validation sample has a label, so networks cannot be compared")
        return self._configuration(widths, None, right, ())

    def step(self, front: Front) -> Front:
        """Take one step down.

        Raises:
            BudgetError: every group has its smallest width.
        """
        widths = front.configurations[-1].widths
        self._plans.clear()
        smaller = {name: self.space.below(widths, name) for name in self.space.choices}
        counts = {name: count for name, count in smaller.items() if count is not None}
        if not counts:  # costs that do not fall with every width, such as measured latency
            raise BudgetError("every group has its smallest width, and a budget is still not held; allow more")
        tried = self._measured(widths, counts)
        best = best_of(tried, self.samples)
        after = {**widths, best.group: best.units}
        found = self._configuration(after, best.group, best.right, tuple(tried))
        return replace(front, configurations=(*front.configurations, found))

    def _measured(self, widths: Widths, counts: Mapping[str, int]) -> list[Candidate]:
        """Return every candidate with its right answers, as far as they were counted."""
        race = Race(self.samples, counts, bounds=self.speed.bounds)
        if self.speed.shortlist is not None and self.speed.shortlist < len(counts):
            race.keep(self._shortlist(widths, counts, self.speed.shortlist))
        for batch in self.batches():
            results = self._results(widths, {name: counts[name] for name in race.alive}, batch)
            found = {name: (right, samples) for name, right, samples in results}
            for name, counted in zip(race.alive, self._summed([found[name] for name in race.alive]), strict=True):
                race.count(name, *counted)
            race.settle()
        return race.candidates()

    def _results(self, widths: Widths, counts: Mapping[str, int], batch: Batch) -> Iterator[tuple[str, int, int]]:
        """Yield each candidate's right answers in one batch, and the samples with a label in it."""
        stretches: list[list[str]] = []
        if self.prefixes is not None:
            stretches = self.prefixes.stretches(counts, widths, len(batch[0]), self.speed.prefix_bytes)
        done: set[str] = set()
        for stretch in stretches:
            assert self.prefixes is not None
            try:
                yield from self._shared(self.prefixes, stretch, widths, counts, batch)
            except OtherCallsError:  # code that takes another way from time to time is run in full
                self.prefixes = None
                break
            done.update(stretch)
        for name, count in counts.items():
            if name not in done:
                with self.narrowable.at(self._plan({**widths, name: count})):
                    yield (name, *rights(self.model, batch))

    def _shared(
        self, prefixes: Prefixes, stretch: list[str], widths: Widths, counts: Mapping[str, int], batch: Batch
    ) -> Iterator[tuple[str, int, int]]:
        with self.narrowable.at(self._plan(widths)):
            recorded = prefixes.record(stretch, widths, lambda: self.model(batch[0]))
        found = []
        for name in stretch:
            plan = self._plan({**widths, name: counts[name]})
            with self.narrowable.at(plan), prefixes.given_back(name, counts[name], recorded):
                found.append((name, *rights(self.model, batch)))
        yield from found

    def _summed(self, counted: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return counts of this process added to those of all others that search together, each on its samples."""
        numbers = torch.tensor(counted, device=self.example.device)
        return [(right, samples) for right, samples in sum_over_processes(numbers, present_processes()).tolist()]

    def _shortlist(self, widths: Widths, counts: Mapping[str, int], number: int) -> list[str]:
        """Return the candidates of the lowest first-order scores, in the order of the groups."""
        batch = next(iter(self.batches()))
        with torch.enable_grad():
            found = first_order(self.narrowable, self.graph, self._plan(widths), counts, widths, batch)
        values = torch.tensor([found[name] for name in counts], device=self.example.device)
        scores = dict(zip(counts, sum_over_processes(values, present_processes()).tolist(), strict=True))
        chosen = set(sorted(counts, key=scores.__getitem__)[:number])
        return [name for name in counts if name in chosen]

    def _configuration(
        self, widths: Widths, removed: str | None, right: int, candidates: tuple[Candidate, ...]
    ) -> Configuration:
        kept = self.graph.kept_sizes(self._plan(widths))
        return Configuration(
            widths=dict(widths),
            removed=removed,
            right=right,
            samples=self.samples,
            macs=int(self.graph.costs.macs(kept)),
            params=int(meter("params", self.graph)(kept)),
            size_bytes=size_bytes(self.graph, kept),
            activation_bytes=int(self.graph.costs.activation_bytes(kept)),
            latency_ms=None if self.table is None else self.table.latency_ms(self.graph, kept),
            candidates=candidates,
        )

    def _plan(self, widths: Widths) -> Plan:
        key = tuple(sorted(widths.items()))
        if key not in self._plans:
            self._plans[key] = plan_of(self.graph, widths, allow_approximate=self.approximate)
        return self._plans[key]


def rights(model: nn.Module, batch: Batch) -> tuple[int, int]:
    """Return how many samples of a batch a network classifies rightly, and how many have a label.

    Of segmentation both count pixels.

    Raises:
        DataError: the network returns something else than logits.
    """
    inputs, labels = batch
    found = logits_of(model(inputs)).argmax(1)
    counted = labels != IGNORED
    return int(((found == labels) & counted).sum()), int(counted.sum())
