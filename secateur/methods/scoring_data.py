"""What a method gives to a criterion that needs data, and what stands in for it where there is none."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from secateur.criteria import CRITERIA, criterion_named
from secateur.methods.contract import Method
from secateur.training import Batch, Task

STAND_IN = "l1"
"""The criterion by which a plan is made where the one asked for needs data and there is none."""

WITHOUT_DATA = ("random", "weight_sum")
"""Ways to choose that are no names in ``CRITERIA`` of their own and look at weights alone."""


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


def planning_notes(method: Method) -> list[str]:
    """Say why the plan that ``method`` makes without data may keep other units than its run will; nothing where not.

    Args:
        method: any; one whose ``criterion`` or ``variant`` looks at data, or that trains before it decides, has one.
    """
    if method.trains_to_decide and getattr(method, "sparse_epochs", None) != 0:
        return [
            f"the method {method.name} trains before it decides, which a plan does not: this one shows how much goes, "
            "not which channels"
        ]
    by = getattr(method, "criterion", None) or getattr(method, "variant", None)
    if not isinstance(by, str) or by in WITHOUT_DATA or (by in CRITERIA and not needs_data(by)):
        return []
    return [
        f"{by} looks at data, and a plan has none: L1 norms stand in for it, so this plan shows how much goes, "
        "not which units"
    ]
