"""What a run restores right after a cut, as its record tells it."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import TypeAdapter
from torch import nn

from secateur.compensation import RestoreSettings, restore
from secateur.graph import ChannelGraph, Plan
from secateur.record import Restoration
from secateur.training import Task

RESTORATION: TypeAdapter[Restoration] = TypeAdapter(Restoration)


@dataclass(frozen=True)
class Cut:
    """One cut of a run.

    Attributes:
        number: from 1.
        model: right before it; stays as it is.
        small: right after it; restored in place.
        plan: from the one to the other.
        graph: of ``model``.
        last: whether no other cut follows, as far as is known.
    """

    number: int
    model: nn.Module
    small: nn.Module
    plan: Plan
    graph: ChannelGraph
    last: bool


def restored(
    cut: Cut, task: Task, settings: RestoreSettings, *, measured: bool, tell: Callable[[str], None]
) -> Restoration:
    """Restore what a cut left, in place, and return what came back.

    Args:
        cut: what was cut.
        task: gives training images, and evaluates on the validation split.
        settings: what to restore.
        measured: whether accuracy is measured after each step.
        tell: told what is being done.
    """
    found = restore(cut.model, cut.small, cut.plan, task, settings, graph=cut.graph, measured=measured, progress=tell)
    return Restoration(cut=cut.number, steps=found.steps, errors=found.errors, left=found.left)
