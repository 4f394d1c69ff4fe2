"""What a method gives to a criterion that needs data, and what stands in for it where there is none."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from secateur.criteria import criterion_named
from secateur.training import Batch, Task

STAND_IN = "l1"
"""The criterion by which a plan is made where the one asked for needs data and there is none."""


@dataclass(frozen=True)
class ScoringData:
    """Training batches and the loss, or nothing for a criterion on weights."""

    task: Task | None = None
    count: int = 0

    @classmethod
    def of(cls, task: Task, criterion: str, count: int) -> "ScoringData":
        """Return what ``criterion`` needs of ``task``."""
        return cls(task, count) if needs_data(criterion) else NO_DATA

    def batches(self) -> Iterator[Batch] | None:
        """Return the batches, the same ones on every call."""
        return None if self.task is None else self.task.batches(self.count)

    @property
    def loss(self) -> Callable[[nn.Module, Batch], Tensor] | None:
        """The loss of one batch, which can be differentiated."""
        return None if self.task is None else self.task.loss


NO_DATA = ScoringData()


def needs_data(criterion: str) -> bool:
    """Say whether a criterion looks at more than weights.

    Raises:
        UsageError: there is no such criterion; the nearest is suggested.
    """
    return criterion_named(criterion).needs_data


def stand_in(criterion: str) -> str:
    """Return the criterion itself, or where it needs data the one that plans are made by without."""
    return STAND_IN if needs_data(criterion) else criterion
