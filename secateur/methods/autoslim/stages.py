"""The search of a run: what it decided is kept after each step, so that a killed run goes on from there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue
from torch import nn

from secateur.cost import Budget
from secateur.errors import BudgetError
from secateur.graph import ChannelGraph
from secateur.methods.autoslim.baseline import uniform_multiplier
from secateur.methods.autoslim.front import Configuration, Front
from secateur.methods.autoslim.greedy import estimate, greedy_slimming
from secateur.methods.autoslim.samples import SearchBatches
from secateur.methods.autoslim.searching import Speed
from secateur.methods.cut_words import nothing_to_cut
from secateur.methods.running import MethodRun
from secateur.record import FrontPoint, JointNetwork, UniformNetwork, WidthSearch
from secateur.wording import counted

if TYPE_CHECKING:
    from secateur.methods.autoslim.method import AutoSlim

FRONT, UNIFORM = "front", "uniform-estimate"
"""Names in the store: all configurations so far, and what the super-net says of uniform networks."""

BESIDE = 8
"""Places on the front, evenly spread over its multiply-adds, beside which a uniform network is looked at."""


@dataclass(frozen=True)
class Uniform:
    """A network of one width multiplier with as many multiply-adds as a network of the front at most."""

    beside: int  # which one
    multiplier: float
    network: Configuration


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        front: every configuration on the way.
        chosen: the one of the budget.
        others: those of further budgets, in their order.
        uniforms: networks of one width multiplier, with what the super-net gives at their widths; the first stands
            beside the chosen one.
    """

    front: Front
    chosen: Configuration
    others: tuple[Configuration, ...]
    uniforms: tuple[Uniform, ...]

    @property
    def multiplier(self) -> float:
        """Of the uniform network beside the chosen one."""
        return self.uniforms[0].multiplier

    @property
    def uniform(self) -> Configuration:
        """The uniform network beside the chosen one."""
        return self.uniforms[0].network

    def recorded(self, graph: ChannelGraph, joint: Sequence[float] = ()) -> WidthSearch:
        """Return all of it as a record.

        Args:
            graph: of the super-net.
            joint: the further budgets, shares of its multiply-adds.
        """
        points = self.front.configurations
        uniforms = sorted(self.uniforms, key=lambda one: one.beside)
        return WidthSearch(
            fingerprint=self.front.fingerprint,
            samples=points[0].samples,
            sizes={name: graph.group(name).size for name in points[0].widths},
            front=tuple(map(_point, points)),
            chosen=points.index(self.chosen),
            uniform=tuple(map(_uniform, uniforms)),
            joint=tuple(
                JointNetwork(budget=share, point=points.index(one))
                for share, one in zip(joint, self.others, strict=True)
            ),
        )

    def in_words(self) -> str:
        """Compare the chosen network with the uniform one."""
        dense = self.front.configurations[0]
        return (
            f"the super-net's estimate on {self.chosen.samples:,} validation samples: "
            f"{100 * self.chosen.accuracy:.2f} % "
            f"for what was found ({self.chosen.macs:,} MACs), {100 * self.uniform.accuracy:.2f} % for every layer at "
            f"{self.multiplier:.3f} of its width ({self.uniform.macs:,} MACs), {100 * dense.accuracy:.2f} % for the "
            "widest"
        )


def searched(run: MethodRun, method: "AutoSlim", supernet: nn.Module) -> Searched:
    """Search a super-net, or recall what a search of the same run found.

    Raises:
        BudgetError: the budget cannot be met.
        TrainingError: the store belongs to another run.
    """
    assert run.budget is not None
    # The way down is the same for every budget, so another run's may be gone on with, whatever its latency table.
    made_for = run.made_for(None, run.graph.plan({}))
    budgets = [run.budget, *(Budget(macs=share) for share in method.joint)]
    limits = [budget.limits(run.graph) for budget in budgets]
    # The decision comes first, by which a finished run of another job is told.
    run.decisions.recalled("plan-1", run.made_for(run.budget, run.graph.plan({})))
    known = run.decisions.recalled(FRONT, made_for)
    begun = None if known is None else Front.from_json(known["front"]).timed(run.graph, run.budget.latency_model)
    batches = SearchBatches(run.task, method.search_batch, method.search_samples)

    def keep(front: Front) -> None:
        latest = front.configurations[-1]
        run.store.keep(FRONT, {"made_for": made_for, "front": front.to_json()})
        run.tell(
            f"search, step {len(front.configurations) - 1}: {100 * latest.accuracy:.2f} % at {latest.macs:,} MACs"
            + (f"; {latest.removed} lost channels" if latest.removed else "")
        )

    if begun is None or not all(begun.meeting(one) for one in limits):
        begun = greedy_slimming(
            supernet,
            method.space(run.graph),
            batches,
            budgets,
            graph=run.graph,
            speed=Speed(
                share_prefixes=method.share_prefixes,
                prefix_bytes=method.prefix_mib * 2**20,
                shortlist=method.shortlist,
            ),
            begun=begun,
            after_step=keep,
            allow_approximate=method.allow_approximate,
        )
    found = [_first(begun, one) for one in limits]
    if found[0] == begun.configurations[0]:
        raise BudgetError(nothing_to_cut(run.budget))
    return Searched(begun, found[0], tuple(found[1:]), _uniforms(run, method, supernet, batches, begun, found))


def _uniforms(
    run: MethodRun,
    method: "AutoSlim",
    supernet: nn.Module,
    batches: SearchBatches,
    front: Front,
    found: Sequence[Configuration],
) -> tuple[Uniform, ...]:
    """Return uniform networks beside those of the budgets, and beside some on the way to the lowest of them."""
    points = front.configurations
    asked = [points.index(one) for one in found]
    places = list(dict.fromkeys([*asked, *_spread([one.macs for one in points[: max(asked) + 1]], BESIDE)]))
    space = method.space(run.graph)
    wanted = [uniform_multiplier(run.graph, space, points[place].macs) for place in places]
    widths: list[JsonValue] = [dict(entry) for _, entry in wanted]
    made_for = run.made_for(None, run.graph.plan({}))
    entry = run.store.recall(UNIFORM)
    if entry is not None and isinstance(entry.values, dict) and entry.values.get("widths") == widths:
        known = run.decisions.recalled(UNIFORM, made_for)
        assert known is not None
        networks = Front.from_json(known["front"]).configurations
    else:
        run.tell(f"search: {counted(len(places), 'uniform network')} beside")
        networks = tuple(
            estimate(supernet, batches, entry, graph=run.graph, allow_approximate=method.allow_approximate)
            for _, entry in wanted
        )
        kept = Front(fingerprint=run.graph.fingerprint, configurations=networks)
        run.store.keep(UNIFORM, {"made_for": made_for, "widths": widths, "front": kept.to_json()})
    table = None if run.budget is None else run.budget.latency_model
    timed = Front(fingerprint=run.graph.fingerprint, configurations=networks).timed(run.graph, table)
    return tuple(
        Uniform(place, multiplier, network)
        for place, (multiplier, _), network in zip(places, wanted, timed.configurations, strict=True)
    )


def _spread(macs: Sequence[int], number: int) -> list[int]:
    """Return the places of a falling sequence that are nearest to evenly spaced values between its ends."""
    steps = [macs[-1] + (macs[0] - macs[-1]) * part / number for part in range(number, -1, -1)]
    return [min(range(len(macs)), key=lambda place, goal=goal: abs(macs[place] - goal)) for goal in steps]  # type: ignore[misc]


def _point(one: Configuration) -> FrontPoint:
    return FrontPoint(
        widths=dict(one.widths),
        accuracy=one.accuracy,
        macs=one.macs,
        params=one.params,
        size_bytes=one.size_bytes,
        activation_bytes=one.activation_bytes,
        latency_ms=one.latency_ms,
        removed=one.removed,
    )


def _uniform(one: Uniform) -> UniformNetwork:
    return UniformNetwork(
        beside=one.beside,
        multiplier=one.multiplier,
        widths=dict(one.network.widths),
        accuracy=one.network.accuracy,
        macs=one.network.macs,
        params=one.network.params,
        latency_ms=one.network.latency_ms,
    )


def _first(front: Front, limits: dict[str, float]) -> Configuration:
    found = front.meeting(limits)
    assert found is not None  # the search ends only there
    return found
