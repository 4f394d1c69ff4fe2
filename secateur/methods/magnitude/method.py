"""Magnitude pruning: score units by their weights, cut to the budget once or in steps, fine-tune."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter
from torch import nn

from secateur.compensation import RESTORE_NOTHING, RestoreSettings
from secateur.cost import Budget, Scope
from secateur.criteria import criterion_named, score
from secateur.criteria.blocks import BlockScores
from secateur.criteria.scoring import Combine, Scores
from secateur.errors import UsageError
from secateur.graph import ChannelGraph, Plan
from secateur.methods.contract import Compressed, Progress, Reduces
from secateur.methods.cut_words import require_budget
from secateur.methods.levels import Level, blocks_to_drop
from secateur.methods.numbering import in_original_numbers
from secateur.methods.running import MethodRun, silent
from secateur.methods.stepping import Residual, check_cuts, even_budgets, planned
from secateur.methods.streams import SPARED, cuts_streams
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
    reduces: ClassVar[Reduces] = "channels"
    trains_to_decide: ClassVar[bool] = False

    name: Literal["magnitude"] = "magnitude"
    criterion: str = "l1"  # of the weights: l1, l2, fpgm, lamp, bn_scale or random
    combine: Combine = "mean"  # of the members of a group
    scope: Scope = "global"  # global, local or isomorphic
    normalize: bool = True  # divide scores by their group's mean in global scope
    min_units: int = 1  # that every group keeps
    min_share: float = 0.0  # of its units that every group keeps
    round_to: int = 1  # kept sizes are multiples of this
    residual: Residual = "spare"  # cut residual streams only if need be, never, or always
    lock: tuple[str, ...] = ()  # patterns of groups, and of blocks, to leave alone
    level: Level = "channel"  # what goes: channel, block or both
    allow_approximate: bool = False  # also cut channels that are normalised together, which is not the same as zeroing
    steps: int = 1  # cuts on the way to the budget
    step_epochs: int = 1  # passes over the training data after each cut but the last
    restore: RestoreSettings = RESTORE_NOTHING  # what comes back right after every cut, without training
    finetune_epochs: int = 20  # passes over the training data after the last cut
    finetune: TrainSettings | None = None  # None: the task's own settings
    seed: int = 0  # of the criterion random

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if criterion_named(self.criterion).needs_data:
            raise UsageError(
                f"the criterion {self.criterion} needs data, which magnitude does not look at; use the method global "
                "(--method global)"
            )
        check_cuts(self, self.steps)
        for name in ("step_epochs", "finetune_epochs"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least 0")

    def decide(self, graph: ChannelGraph, model: nn.Module, budget: Budget | None) -> Plan:
        """See :class:`secateur.methods.Method`; as if there were one step."""
        budget = require_budget(self.name, budget)
        return self._planned(graph, self._scores(graph, model), self._block_scores(graph, model), budget)

    def compress(
        self, model: nn.Module, task: Task, budget: Budget | None, *, store: Store, progress: Progress | None = None
    ) -> Compressed:
        """See :class:`secateur.methods.Method`."""
        budget = require_budget(self.name, budget)
        run = MethodRun(
            method=self.name,
            settings=_SETTINGS.dump_python(self, mode="json"),
            kind=_SETTINGS,
            restore=self.restore,
            model=model,
            task=task,
            store=store,
            budget=budget,
            finetune=self.finetune,
            tell=progress or silent,
        )
        small, plan = model, run.graph.plan({})
        for number, target in enumerate(even_budgets(run.graph, budget, self.steps), start=1):

            def decision(small: nn.Module = small, earlier: Plan = plan, target: Budget = target) -> Plan:
                scores = self._scores(run.graph.after(earlier), small)
                scores = in_original_numbers(run.graph, earlier, scores)
                return self._planned(run.graph, scores, self._block_scores(run.graph, small), target, earlier)

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

    def _planned(
        self,
        graph: ChannelGraph,
        scores: Scores,
        blocks: BlockScores | None,
        budget: Budget,
        earlier: Plan | None = None,
    ) -> Plan:
        normalize = self.normalize and not criterion_named(self.criterion).globally_comparable
        return planned(self, graph, scores, blocks, budget, normalize=normalize, earlier=earlier)


_SETTINGS: TypeAdapter[Magnitude] = TypeAdapter(Magnitude)
