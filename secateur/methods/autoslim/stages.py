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

if TYPE_CHECKING:
    from secateur.methods.autoslim.method import AutoSlim

FRONT, UNIFORM = "front", "uniform-estimate"
"""Names in the store: all configurations so far, and what the super-net says of the uniform network."""


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        front: every configuration on the way.
        chosen: the one of the budget.
        others: those of further budgets, in their order.
        multiplier: of the uniform network with as many multiply-adds as the chosen one at most.
        uniform: that network, with what the super-net gives at its widths.
    """

    front: Front
    chosen: Configuration
    others: tuple[Configuration, ...]
    multiplier: float
    uniform: Configuration

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
    made_for = run.made_for(run.budget, run.graph.plan({})) | {"joint": list(method.joint)}
    budgets = [run.budget, *(Budget(macs=share) for share in method.joint)]
    limits = [budget.limits(run.graph) for budget in budgets]
    # The decision comes first, by which a finished run of another job is told.
    run.decisions.recalled("plan-1", run.made_for(run.budget, run.graph.plan({})))
    known = run.decisions.recalled(FRONT, made_for)
    begun = None if known is None else Front.from_json(known["front"])
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
    multiplier, widths = uniform_multiplier(run.graph, method.space(run.graph), found[0].macs)
    uniform = _estimated(run, method, supernet, batches, widths)
    return Searched(begun, found[0], tuple(found[1:]), multiplier, uniform)


def _estimated(
    run: MethodRun, method: "AutoSlim", supernet: nn.Module, batches: SearchBatches, widths: dict[str, int]
) -> Configuration:
    made_for: dict[str, JsonValue] = run.made_for(run.budget, run.graph.plan({})) | {"widths": dict(widths)}
    known = run.decisions.recalled(UNIFORM, made_for)
    if known is None:
        found = estimate(supernet, batches, widths, graph=run.graph, allow_approximate=method.allow_approximate)
        front = Front(fingerprint=run.graph.fingerprint, configurations=(found,))
        run.store.keep(UNIFORM, {"made_for": made_for, "front": front.to_json()})
        return found
    return Front.from_json(known["front"]).configurations[0]


def _first(front: Front, limits: dict[str, float]) -> Configuration:
    found = front.meeting(limits)
    assert found is not None  # the search ends only there
    return found


def widths_beside(graph: ChannelGraph, configurations: Sequence[Configuration]) -> list[tuple[str, int, list[int]]]:
    """Return (group, its units in the widest network, its units in each configuration) for the groups searched."""
    names = configurations[0].widths if configurations else ()
    return [(name, graph.group(name).size, [one.widths[name] for one in configurations]) for name in names]
