"""Any criterion, iteratively to a budget: score, cut a share, recover, and again."""

import warnings
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter
from torch import nn

from secateur.compensation import RESTORE_NOTHING, RestoreSettings
from secateur.cost import Budget, MinimumWarning, Scope
from secateur.criteria import BlockScores, Combine, Scores, criterion_named, score, score_blocks
from secateur.criteria.accumulator import Missing
from secateur.errors import UsageError
from secateur.graph import ChannelGraph, Plan
from secateur.methods.contract import Compressed, Progress, Reduces
from secateur.methods.cut_words import require_budget
from secateur.methods.global_pruning.cost_aware import score_per_mac
from secateur.methods.levels import Level, require_blocks
from secateur.methods.numbering import in_original_numbers
from secateur.methods.recovery import check_recovery, phase_after, recovered
from secateur.methods.running import MethodRun, silent
from secateur.methods.scoring_data import NO_DATA, ScoringData, stand_in
from secateur.methods.step_records import DENSE, recorded, settled, settled_blocks
from secateur.methods.stepping import Residual, check_cuts, even_budgets, planned, shrinking_budgets
from secateur.methods.streams import SPARED, cuts_streams
from secateur.training import Store, Task, TrainSettings

STEPS = 10
"""Cuts on the way to a budget where neither their number nor their share is given."""


@dataclass(frozen=True, kw_only=True)
class GlobalPruning:
    """Score the units of all layers by any criterion, cut those of lowest score, recover, and repeat to a budget.

    The common baseline for criteria: whatever scores, the steps on the way, the recovery and the treatment of residual
    streams are the same. Source: the iterative scheme of Molchanov et al. 2017, arXiv:1611.06440, §2. Departures: a
    step is a share of the budget's quantity, not one unit; and criteria other than theirs. With one step and a
    criterion on weights it is the method ``magnitude``.

    The budget is approached in ``steps`` even cuts, or in cuts that take ``step_share`` of what is left each. All
    scores are taken afresh before each cut, on the same ``score_batches`` training batches where a criterion needs
    data. ``per_mac`` divides a unit's score by the multiply-adds that its removal saves.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    reduces: ClassVar[Reduces] = "channels"
    trains_to_decide: ClassVar[bool] = False

    name: Literal["global"] = "global"
    criterion: str = "l1"  # a name in CRITERIA
    combine: Combine | None = None  # mean, sum, max or l2 of the members of a group; None: as the criterion has it
    scope: Scope = "global"  # global, local or isomorphic
    normalize: bool = True  # divide scores by their group's mean, unless the criterion compares as it is
    per_mac: bool = False  # divide scores by the multiply-adds that a unit's removal saves
    min_units: int = 1  # that every group keeps
    min_share: float = 0.0  # of its units that every group keeps
    round_to: int = 1  # kept sizes are multiples of this
    residual: Residual = "spare"  # cut residual streams only if need be, never, or always
    lock: tuple[str, ...] = ()  # patterns of groups, and of blocks, to leave alone
    level: Level = "channel"  # what goes: channel, block or both
    allow_approximate: bool = False  # also cut channels that are normalised together, which is not the same as zeroing
    missing: Missing = "refuse"  # layers that the criterion cannot see: refuse names them, leave keeps them whole
    score_batches: int = 8  # of training data, at each step; criteria on weights need none
    steps: int | None = None  # even cuts; None: 10, or 1 where whole blocks go
    step_share: float | None = None  # of the quantity that is left, which each cut takes; in place of steps
    step_epochs: float = 1  # passes over the training data after each cut but the last, or a part of one
    recover: TrainSettings | None = None  # how to train after each cut but the last; None: as in the fine-tuning
    evaluate_steps: bool = True  # measure the validation accuracy right after every cut
    restore: RestoreSettings = RESTORE_NOTHING  # what comes back right after every cut, without training
    finetune_epochs: int = 20  # passes over the training data after the last cut
    finetune: TrainSettings | None = None  # None: the task's own settings
    seed: int = 0  # of the criterion random

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        criterion_named(self.criterion)
        share = self.step_share
        if share is not None and self.steps is not None:
            raise UsageError(f"there are steps ({self.steps}) and a step_share ({share:g}); leave one of them out")
        if share is not None and not 0 < share < 1:
            raise UsageError(f"step_share is {share:g}, but must be above 0 and below 1: the share that a cut takes")
        if share is not None and self.level != "channel":
            raise UsageError(
                f"there is a step_share ({share:g}) and level is {self.level}, but whole blocks go in one step; leave "
                "step_share out, or give level channel (--level channel)"
            )
        check_cuts(self, self._steps)
        if self.per_mac and (self.scope == "local" or self.level == "block"):
            unfit = "scope is local" if self.scope == "local" else "level is block"
            raise UsageError(
                f"per_mac is set and {unfit}, where units of different layers are never compared, so that it would "
                "change nothing; leave it out, or give scope global and level channel"
            )
        if self.score_batches < 1:
            raise UsageError(f"score_batches is {self.score_batches}, but must be at least 1")
        check_recovery(self.step_epochs)
        if self.finetune_epochs < 0:
            raise UsageError(f"finetune_epochs is {self.finetune_epochs}, but must be at least 0")

    def decide(self, graph: ChannelGraph, model: nn.Module, budget: Budget | None) -> Plan:
        """See :class:`secateur.methods.Method`; as if there were one step.

        There is no data here. Where the criterion needs some, L1 norms stand in: the plan shows what the budget leaves,
        not which units stay.
        """
        budget = require_budget(self.name, budget)
        criterion = stand_in(self.criterion)
        scores = {} if self.level == "block" else self._scores(graph, model, criterion, NO_DATA)
        blocks = self._block_scores(graph, model, criterion, NO_DATA)
        return self._planned(graph, criterion, self._worth(graph, criterion, scores), blocks, budget)

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
            measures_cuts=self.evaluate_steps,
            undecisive=frozenset({"finetune", "finetune_epochs", "evaluate_steps"}),
            model=model,
            task=task,
            store=store,
            budget=budget,
            finetune=self.finetune,
            tell=progress or silent,
        )
        targets = self._targets(run.graph, budget)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MinimumWarning)  # said again when the cut is decided for good
            self.decide(run.graph, model, budget)  # what cannot be met in the end is not begun
        small, plan, phase = model, run.graph.plan({}), DENSE
        for number, target in enumerate(targets, start=1):
            decision = partial(self._decision, run, small, plan, target, number, last=number == len(targets))
            earlier = plan
            small, plan = run.cut(small, plan, number, len(targets), target, decision)
            left = small if self.evaluate_steps else None
            blocks = self.level == "block"
            recorded(run, number, after=phase, earlier=earlier, plan=plan, small=left, blocks=blocks)
            if number < len(targets) and recovered(run, number, small, self.step_epochs, self.recover):
                phase = phase_after(number)
        if self.residual == "spare" and cuts_streams(run.graph, plan):
            run.notes.append(SPARED)
        return run.finished(small, plan, self.finetune_epochs)

    @property
    def _steps(self) -> int:
        return (STEPS if self.level == "channel" else 1) if self.steps is None else self.steps

    def _targets(self, graph: ChannelGraph, budget: Budget) -> list[Budget]:
        if self.step_share is not None:
            return shrinking_budgets(graph, budget, self.step_share)
        return even_budgets(graph, budget, self._steps)

    def _decision(
        self, run: MethodRun, small: nn.Module, earlier: Plan, target: Budget, number: int, *, last: bool
    ) -> Plan:
        now = run.graph.after(earlier)
        data = ScoringData.of(run.task, self.criterion, self.score_batches)
        blocks = self._block_scores(now, small, self.criterion, data)
        if blocks is not None:
            blocks = settled_blocks(run, number, blocks, alone=self.level == "block")
        scores: Scores = {}
        if self.level != "block":
            found = settled(run, number, self._scores(now, small, self.criterion, data))
            scores = in_original_numbers(run.graph, earlier, self._worth(now, self.criterion, found))
        with warnings.catch_warnings():
            if not last:
                warnings.simplefilter("ignore", MinimumWarning)  # the last cut tells of all layers at their minimum
            return self._planned(run.graph, self.criterion, scores, blocks, target, earlier)

    def _worth(self, graph: ChannelGraph, criterion: str, scores: Scores) -> Scores:
        """Return scores per multiply-add, if that is asked for."""
        return score_per_mac(graph, scores, normalize=self._normalizes(criterion)) if self.per_mac else scores

    def _normalizes(self, criterion: str) -> bool:
        return self.normalize and not criterion_named(criterion).globally_comparable

    def _scores(self, graph: ChannelGraph, model: nn.Module, criterion: str, data: ScoringData) -> Scores:
        return score(
            graph,
            model,
            criterion,
            batches=data.batches(),
            loss=data.loss,
            combine=self.combine,
            seed=self.seed,
            missing=self.missing,
        )

    def _block_scores(
        self, graph: ChannelGraph, model: nn.Module, criterion: str, data: ScoringData
    ) -> BlockScores | None:
        if self.level == "channel":
            return None
        require_blocks(graph)
        batches, loss = data.batches(), data.loss
        return score_blocks(graph, model, criterion, batches=batches, loss=loss, combine=self.combine, seed=self.seed)

    def _planned(
        self,
        graph: ChannelGraph,
        criterion: str,
        scores: Scores,
        blocks: BlockScores | None,
        budget: Budget,
        earlier: Plan | None = None,
    ) -> Plan:
        normalize = self._normalizes(criterion) and not self.per_mac  # scores per multiply-add are on one scale already
        return planned(self, graph, scores, blocks, budget, normalize=normalize, earlier=earlier)


_SETTINGS: TypeAdapter[GlobalPruning] = TypeAdapter(GlobalPruning)
