"""Layer level: drop whole residual branches to a budget, then fine-tune."""

import fnmatch
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter
from torch import nn

from secateur.compensation import RESTORE_NOTHING, RestoreSettings
from secateur.cost import Budget, allocate
from secateur.criteria import CRITERIA, BlockScores, Combine, score_blocks
from secateur.errors import UsageError
from secateur.graph import ChannelGraph, Plan
from secateur.methods.blocks.effect import measured_effects
from secateur.methods.contract import Compressed, Progress, Reduces
from secateur.methods.cut_words import require_budget
from secateur.methods.levels import Level, cost_after, require_blocks
from secateur.methods.recovery import check_recovery, phase_after, recovered
from secateur.methods.running import MethodRun, silent
from secateur.methods.scoring_data import STAND_IN, ScoringData, stand_in
from secateur.methods.step_records import DENSE, recorded, settled_blocks
from secateur.names import unknown_name
from secateur.training import Store, Task, TrainSettings

EFFECT = "effect"
"""The measured effect of dropping a block, beside the names in ``CRITERIA``."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Drop the residual branches that matter least until the budget holds, then fine-tune.

    What a block matters is by default measured: the rise of the training loss when it alone is dropped, taken afresh
    after each drop (``measure`` each), because blocks stand in for one another. Or any criterion for channels scores
    the branches. Source: that single residual blocks can be dropped with little loss is Veit, Wilber and Belongie 2016,
    arXiv:1605.06431, §4.1; the greedy choice by measured loss is the obvious use of it. Departures: a budget instead
    of a number of blocks.

    With ``measure`` once, all blocks are scored on the dense model and go in one cut. With each, one goes per cut, and
    ``step_epochs`` of training may follow each but the last.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    reduces: ClassVar[Reduces] = "channels"
    trains_to_decide: ClassVar[bool] = False

    level: ClassVar[Level] = "block"  # what goes

    name: Literal["blocks"] = "blocks"
    criterion: str = EFFECT  # effect, or a name in CRITERIA
    measure: Literal["each", "once"] = "each"  # afresh after each drop, or once on the dense model
    combine: Combine | None = None  # of a block's weights or groups; None: as the criterion has it
    score_batches: int = 8  # of training data to measure the effect on, or for criteria that need data
    lock: tuple[str, ...] = ()  # patterns of blocks to leave alone, and of groups whose blocks stay
    step_epochs: float = 0  # passes over the training data after each drop but the last, or a part of one
    recover: TrainSettings | None = None  # how to train after each drop but the last; None: as in the fine-tuning
    evaluate_steps: bool = True  # measure the validation accuracy right after every cut
    restore: RestoreSettings = RESTORE_NOTHING  # what comes back right after every cut, without training
    finetune_epochs: int = 20  # passes over the training data after the last cut
    finetune: TrainSettings | None = None  # None: the task's own settings
    seed: int = 0  # of the criterion random

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if self.criterion != EFFECT and self.criterion not in CRITERIA:
            raise UsageError(unknown_name("criterion", self.criterion, (EFFECT, *CRITERIA)))
        if self.measure not in ("each", "once"):
            raise UsageError(unknown_name("setting of measure", self.measure, ("each", "once")))
        if self.measure == "once" and self.step_epochs:
            raise UsageError(
                f"step_epochs is {self.step_epochs:g} and measure is once, but then all blocks go in one cut, with no "
                "training in between; give measure each, or step_epochs 0"
            )
        if self.score_batches < 1:
            raise UsageError(f"score_batches is {self.score_batches}, but must be at least 1")
        check_recovery(self.step_epochs)
        if self.finetune_epochs < 0:
            raise UsageError(f"finetune_epochs is {self.finetune_epochs}, but must be at least 0")

    def decide(self, graph: ChannelGraph, model: nn.Module, budget: Budget | None) -> Plan:
        """See :class:`secateur.methods.Method`; as if all blocks went at once.

        There is no data here. Where the criterion needs some, L1 norms stand in: the plan shows how many blocks have to
        go, not which.
        """
        budget = require_budget(self.name, budget)
        self._require_blocks(graph)
        criterion = STAND_IN if self.criterion == EFFECT else stand_in(self.criterion)
        scores = score_blocks(graph, model, criterion, combine=self.combine, seed=self.seed)
        return allocate(graph, {}, budget, lock=self.lock, blocks=scores)

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
        self.decide(run.graph, model, budget)  # what cannot be met in the end is not begun
        small, plan, phase, number = model, run.graph.plan({}), DENSE, 0
        while not _holds(run.graph, plan, budget):
            number, earlier = number + 1, plan
            if number > 1 and recovered(run, number - 1, small, self.step_epochs, self.recover):
                phase = phase_after(number - 1)
            decision = partial(self._decision, run, small, plan, budget, number)
            small, plan = run.cut(small, plan, number, None if self.measure == "each" else 1, budget, decision)
            left = small if self.evaluate_steps else None
            recorded(run, number, after=phase, earlier=earlier, plan=plan, small=left, blocks=True)
        return run.finished(small, plan, self.finetune_epochs)

    def _decision(self, run: MethodRun, small: nn.Module, earlier: Plan, budget: Budget, number: int) -> Plan:
        """Return the plan of all drops so far and the next one, or of all that are needed."""
        now = run.graph.after(earlier)
        scores = settled_blocks(run, number, self._scores(now, small, run.task))
        if self.measure == "once":
            return allocate(run.graph, {}, budget, lock=self.lock, blocks=scores)
        least = min(scores, key=scores.__getitem__)  # of equal ones the first in the network
        return run.graph.drop_blocks((*earlier.dropped_blocks, least))

    def _scores(self, graph: ChannelGraph, model: nn.Module, task: Task) -> BlockScores:
        names = [block.name for block in graph.blocks if block.locked is None and not self._leaves(graph, block.name)]
        if self.criterion == EFFECT:
            return measured_effects(graph, model, names, task, self.score_batches)
        data = ScoringData.of(task, self.criterion, self.score_batches)
        return score_blocks(
            graph,
            model,
            self.criterion,
            batches=data.batches(),
            loss=data.loss,
            combine=self.combine,
            seed=self.seed,
            only=names,
        )

    def _leaves(self, graph: ChannelGraph, block: str) -> bool:
        """Say whether a block, or a group that would go with it, is among what is to be left alone."""
        together = (block, *graph.drop_blocks([block]).gone) if self.lock else ()
        return any(fnmatch.fnmatchcase(name, pattern) for name in together for pattern in self.lock)

    def _require_blocks(self, graph: ChannelGraph) -> None:
        require_blocks(graph, otherwise="with another method, such as global (--method global)")


def _holds(graph: ChannelGraph, plan: Plan, budget: Budget) -> bool:
    return all(
        cost_after(graph, plan, name, budget.latency_model) <= limit for name, limit in budget.limits(graph).items()
    )


_SETTINGS: TypeAdapter[Blocks] = TypeAdapter(Blocks)
