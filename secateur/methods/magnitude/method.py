"""Magnitude pruning: score units by their weights, cut to the budget once or in steps, fine-tune."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter
from torch import nn

from secateur.cost import Budget, Scope, allocate
from secateur.cost.budget import meter
from secateur.criteria import criterion_named, score
from secateur.criteria.blocks import BlockScores
from secateur.criteria.scoring import Combine, Scores
from secateur.errors import UsageError
from secateur.graph import ChannelGraph, Plan
from secateur.methods.contract import Compressed, Progress
from secateur.methods.levels import Level, blocks_to_drop, check_level
from secateur.methods.running import MethodRun, in_original_numbers, require_budget, silent
from secateur.methods.streams import SPARED, cuts_streams, sparing_streams
from secateur.names import unknown_name
from secateur.training import Store, Task, TrainSettings


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """Cut the units of smallest magnitude to a budget, then fine-tune.

    Source: the filter norms of Li et al. 2017, arXiv:1608.08710, §3.1. Departures: a budget instead of ratios per
    stage, all layers compared on one scale (scores divided by their group's mean). Residual streams are left alone as
    long as the budget can be met without them (``residual``), and cut as whole groups otherwise. With ``steps`` above
    1 the budget is approached evenly, with ``step_epochs`` of training after each cut but the last. ``level`` says
    whether channels go, whole residual blocks by the same criterion, or blocks first and channels for the rest.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: Literal["magnitude"] = "magnitude"
    criterion: str = "l1"  # l1, l2 or random
    combine: Combine = "mean"  # of the members of a group
    scope: Scope = "global"  # global, local or isomorphic
    normalize: bool = True  # divide scores by their group's mean in global scope
    min_units: int = 1  # that every group keeps
    min_share: float = 0.0  # of its units that every group keeps
    round_to: int = 1  # kept sizes are multiples of this
    residual: Literal["spare", "inner", "group"] = "spare"  # cut residual streams only if need be, never, or always
    lock: tuple[str, ...] = ()  # patterns of groups, and of blocks, to leave alone
    level: Level = "channel"  # what goes: channel, block or both
    allow_approximate: bool = False  # also cut channels that are normalised together, which is not the same as zeroing
    steps: int = 1  # cuts on the way to the budget
    step_epochs: int = 1  # passes over the training data after each cut but the last
    finetune_epochs: int = 20  # passes over the training data after the last cut
    finetune: TrainSettings | None = None  # None: the task's own settings
    seed: int = 0  # of the criterion random

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        criterion_named(self.criterion)
        if self.residual not in ("spare", "inner", "group"):
            raise UsageError(unknown_name("setting of residual", self.residual, ("spare", "inner", "group")))
        check_level(self.level)
        if self.steps < 1:
            raise UsageError(f"steps is {self.steps}, but must be at least 1")
        if self.steps > 1 and self.level != "channel":
            raise UsageError(
                f"steps is {self.steps} and level is {self.level}, but whole blocks go in one step; give steps 1 "
                "(--steps 1) or level channel (--level channel)"
            )
        for name in ("step_epochs", "finetune_epochs"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least 0")

    def decide(self, graph: ChannelGraph, model: nn.Module, budget: Budget | None) -> Plan:
        """See :class:`secateur.methods.Method`; as if there were one step."""
        budget = require_budget(self.name, budget)
        return self._allocated(graph, self._scores(graph, model), self._block_scores(graph, model), budget)

    def compress(
        self, model: nn.Module, task: Task, budget: Budget | None, *, store: Store, progress: Progress | None = None
    ) -> Compressed:
        """See :class:`secateur.methods.Method`."""
        budget = require_budget(self.name, budget)
        run = MethodRun(
            method=self.name,
            settings=_SETTINGS.dump_python(self, mode="json"),
            model=model,
            task=task,
            store=store,
            budget=budget,
            finetune=self.finetune,
            tell=progress or silent,
        )
        small, plan = model, run.graph.plan({})
        for number, target in enumerate(_targets(run.graph, budget, self.steps), start=1):

            def decision(small: nn.Module = small, earlier: Plan = plan, target: Budget = target) -> Plan:
                scores = self._scores(run.graph.after(earlier), small)
                scores = in_original_numbers(run.graph, earlier, scores)
                return self._allocated(run.graph, scores, self._block_scores(run.graph, small), target)

            small, plan = run.cut(small, plan, number, self.steps, target, decision)
            if number < self.steps:
                run.train(f"recover-{number}", small, self.step_epochs, between_cuts=True)
        if self.residual == "spare" and cuts_streams(run.graph, plan):
            run.notes.append(SPARED)
        return run.finished(small, plan, self.finetune_epochs)

    def _scores(self, graph: ChannelGraph, model: nn.Module) -> Scores:
        return score(graph, model, self.criterion, combine=self.combine, seed=self.seed)

    def _block_scores(self, graph: ChannelGraph, model: nn.Module) -> BlockScores | None:
        return blocks_to_drop(self.level, graph, model, self.criterion, combine=self.combine, seed=self.seed)

    def _allocated(self, graph: ChannelGraph, scores: Scores, blocks: BlockScores | None, budget: Budget) -> Plan:
        if self.level == "block":
            return self._allocate(graph, {}, blocks, budget)

        def attempt(*, streams: bool) -> Plan:
            chosen = {name: values for name, values in scores.items() if streams or not graph.group(name).is_stream}
            return self._allocate(graph, chosen, blocks, budget)

        return sparing_streams(attempt) if self.residual == "spare" else attempt(streams=self.residual == "group")

    def _allocate(self, graph: ChannelGraph, scores: Scores, blocks: BlockScores | None, budget: Budget) -> Plan:
        return allocate(
            graph,
            scores,
            budget,
            scope=self.scope,
            normalize=self.normalize and not criterion_named(self.criterion).globally_comparable,
            min_units=self.min_units,
            min_share=self.min_share,
            round_to=self.round_to,
            lock=self.lock,
            blocks=blocks,
            allow_approximate=self.allow_approximate,
        )


_SETTINGS: TypeAdapter[Magnitude] = TypeAdapter(Magnitude)


def _targets(graph: ChannelGraph, budget: Budget, steps: int) -> list[Budget]:
    """Return the budgets on the way: every limit is approached from the original's cost in even steps."""
    limits = budget.limits(graph)
    if steps == 1:
        return [budget]
    costs = {name: meter(name, graph)(graph.sizes) for name in limits}
    return [
        Budget(**{name: int(cost - (cost - min(cost, limits[name])) * step / steps) for name, cost in costs.items()})
        for step in range(1, steps + 1)
    ]
