"""The contract of all methods: a frozen dataclass of settings with one verb."""

from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue
from torch import nn

from secateur.cost import Budget
from secateur.graph import Plan, Proof
from secateur.record import Evaluation, TrainResult
from secateur.training import Store, Task


@dataclass(frozen=True, kw_only=True)
class MethodRecord:
    """What a method did.

    Attributes:
        method: its name in ``METHODS``.
        settings: its settings, as JSON.
        phases: every training phase, in order.
        proof: of the whole cut applied to the dense model; each cut on the way was proved too, on the weights it met.
        after_cut: validation accuracy right after the last cut, before fine-tuning.
        notes: departures from the paper, warnings, and anything else that a reader must know.
    """

    method: str
    settings: dict[str, JsonValue]
    phases: tuple[TrainResult, ...] = ()
    proof: Proof | None = None
    after_cut: Evaluation | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """What a method returns.

    Attributes:
        model: the smaller model, an ordinary module.
        plan: what was cut, in the original's indices.
        record: what was done.
    """

    model: nn.Module
    plan: Plan
    record: MethodRecord = field(repr=False)


class Progress(Protocol):
    """Told in words what a method is doing."""

    def __call__(self, message: str) -> None:
        """Show one line."""


class Method(Protocol):
    """A compression method: settings as fields of a frozen dataclass, and one verb."""

    def compress(
        self, model: nn.Module, task: Task, budget: Budget, *, store: Store, progress: Progress | None = None
    ) -> Compressed:
        """Return a smaller copy of ``model`` that meets ``budget``; ``model`` stays as it was.

        Args:
            model: the trained dense model.
            task: how to train and evaluate it.
            budget: what the result may cost.
            store: holds finished phases and decisions; the same call with the same store continues a killed run.
            progress: told what is being done.

        Raises:
            BudgetError: the budget cannot be met.
            VerificationError: the cut could not be proved.
            TrainingError: the loss is not finite, or the store belongs to another run.
        """
