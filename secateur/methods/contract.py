"""The contract of all methods: a frozen dataclass of settings with one verb."""

from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from pydantic import JsonValue
from torch import nn

from secateur.cost import Budget
from secateur.graph import ChannelGraph, Plan, Proof
from secateur.record import Evaluation, PrunedWeights, PruningStep, Restoration, TrainResult, WidthSearch
from secateur.sparse import Masks
from secateur.training import Store, Task, TrainSettings

Reduces: TypeAlias = Literal["channels", "weights"]
"""What a method makes fewer: channels and blocks, so that tensors shrink, or single weights, which become zero."""


@dataclass(frozen=True, kw_only=True)
class MethodRecord:
    """What a method did.

    Attributes:
        method: its name in ``METHODS``.
        settings: its settings, as JSON.
        phases: every training phase, in order.
        proof: of the whole cut applied to the dense model; each cut on the way was proved too, on the weights it met.
            None where nothing was cut.
        weights: of a method that prunes single weights, what is left of each layer.
        width_search: of a method that searches for widths, all networks on the way.
        steps: of a method that scores and cuts again and again, what each step saw and left.
        after_cut: validation accuracy after the last cut, before fine-tuning; with what was restored there.
        restored: what came back after each cut without training; none where that was not asked for.
        trained_between_cuts: whether weights changed before the last cut, by training, re-weighting or what was
            restored, so that the cut model is not the dense one cut.
        notes: departures from the paper, warnings, and anything else that a reader must know.
    """

    method: str
    settings: dict[str, JsonValue]
    phases: tuple[TrainResult, ...] = ()
    proof: Proof | None = None
    weights: PrunedWeights | None = None
    width_search: WidthSearch | None = None
    steps: tuple[PruningStep, ...] = ()
    after_cut: Evaluation | None = None
    restored: tuple[Restoration, ...] = ()
    trained_between_cuts: bool = False
    notes: tuple[str, ...] = ()

    @property
    def right_after_cut(self) -> Evaluation | None:
        """Validation accuracy right after the last cut, before anything was restored or trained."""
        return self.restored[-1].right_after_cut if self.restored else self.after_cut


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """What a method returns.

    Attributes:
        model: the smaller model, an ordinary module.
        plan: what was cut, in the original's indices; empty where only weights were pruned.
        record: what was done.
        masks: which weights of ``model`` stay; the others are exactly 0. None where no weights were pruned.
    """

    model: nn.Module
    plan: Plan
    record: MethodRecord = field(repr=False)
    masks: Masks | None = field(default=None, repr=False)


class Progress(Protocol):
    """Told in words what a method is doing."""

    def __call__(self, message: str) -> None:
        """Show one line."""


class Method(Protocol):
    """A compression method: settings as fields of a frozen dataclass, and one verb."""

    @property
    def name(self) -> str:
        """Its name in ``METHODS``."""

    @property
    def reduces(self) -> Reduces:
        """What it makes fewer."""

    @property
    def trains_to_decide(self) -> bool:
        """Whether it trains before it decides what goes, with published settings of its own."""

    @property
    def finetune_epochs(self) -> int:
        """Passes over the training data after the last cut; 0 leaves the cut model as it is."""

    @property
    def finetune(self) -> TrainSettings | None:
        """How it trains; None for the task's own settings."""

    def decide(self, graph: ChannelGraph, model: nn.Module, budget: Budget | None) -> Plan:
        """Return the plan that the method makes of ``model`` as it is; nothing is touched or trained.

        A method that trains on the way may decide otherwise in the end; what cannot be met is refused here already.

        Raises:
            BudgetError: the budget cannot be met, or the method needs one, or none.
            PlanError: the model is not the one of the graph, or a pattern matches nothing.
        """

    def compress(
        self, model: nn.Module, task: Task, budget: Budget | None, *, store: Store, progress: Progress | None = None
    ) -> Compressed:
        """Return a smaller copy of ``model`` that meets ``budget``; ``model`` stays as it was.

        Args:
            model: the trained dense model.
            task: how to train and evaluate it.
            budget: what the result may cost; None where the method's own settings say what goes.
            store: holds finished phases and decisions; the same call with the same store continues a killed run.
            progress: told what is being done.

        Raises:
            BudgetError: the budget cannot be met.
            VerificationError: the cut could not be proved.
            TrainingError: the loss is not finite, or the store belongs to another run.
        """
