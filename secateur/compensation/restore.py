"""Everything that brings accuracy back after a cut without training, in its order, with what each step brought."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from secateur.compensation.batch_norm import reestimate_batch_norm
from secateur.compensation.compensate import Compensation, Told, compensate
from secateur.compensation.images import Counted, first_images, held
from secateur.compensation.settings import How, RestoreSettings
from secateur.graph import ChannelGraph, Plan
from secateur.record import RestoreStep
from secateur.record.restoration import BATCH_NORM, CUT
from secateur.training import Task
from secateur.wording import counted

IN_WORDS: Mapping[How, str] = {"mean": "mean", "scale": "least squares", "both": "least squares and mean"}
"""What each way to compensate is called in records."""


@dataclass(frozen=True)
class Restored:
    """What came back.

    Attributes:
        steps: the cut alone, then each thing that was done, in order.
        compensation: what was fitted anew.
        batch_norms: how many layers had their running statistics measured anew.
    """

    steps: tuple[RestoreStep, ...]
    compensation: Compensation = field(default_factory=lambda: Compensation("none"))
    batch_norms: int = 0

    @property
    def errors(self) -> dict[str, tuple[float, float]]:
        """The relative squared error of each layer that was fitted anew, before and after, by its path."""
        return self.compensation.errors

    @property
    def left(self) -> dict[str, str]:
        """Layer or group → why it was left as it was."""
        return dict(self.compensation.left)


def restore(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    task: Task,
    settings: RestoreSettings,
    *,
    graph: ChannelGraph | None = None,
    seed: int = 0,
    measured: bool = True,
    progress: Told | None = None,
) -> Restored:
    """Fit layers of ``small`` anew, then measure its batch norms anew, as far as ``settings`` say, in place.

    Args:
        model: as it was right before the cut; stays as it is.
        small: what ``plan`` left of it.
        plan: from ``model`` to ``small``.
        task: gives training images, and evaluates on the validation split.
        settings: what to do, and on how many images.
        graph: of ``model``; traced if None.
        seed: see :func:`secateur.compensate`.
        measured: whether the model is evaluated after the cut and after each step.
        progress: told what is being done.

    Raises:
        SecateurError: as :func:`secateur.compensate` and :func:`secateur.reestimate_batch_norm`.
    """
    tell = progress or (lambda _message: None)

    def step(what: str, images: int = 0, seconds: float = 0.0) -> RestoreStep:
        return RestoreStep(
            what=what, images=images, seconds=seconds, validation=task.evaluate(small) if measured else None
        )

    steps = [step(CUT)]
    compensation, norms = Compensation("none"), 0
    if settings.compensate != "none":
        begun = time.perf_counter()
        batches = held(lambda: first_images(task, settings.images), settings.images)
        compensation = compensate(
            model, small, plan, batches, settings.compensate, graph=graph, seed=seed, progress=progress
        )
        tell(compensation.note())
        steps.append(step(IN_WORDS[settings.compensate], compensation.images, time.perf_counter() - begun))
    if settings.batch_norm_images:
        begun = time.perf_counter()
        seen = Counted(lambda: first_images(task, settings.batch_norm_images))
        norms = reestimate_batch_norm(small, seen())
        tell(f"running statistics of {counted(norms, 'batch norm')} measured anew")
        images = seen.images(next(small.parameters()).device) if norms else 0
        steps.append(step(BATCH_NORM, images, time.perf_counter() - begun))
    return Restored(tuple(steps), compensation, norms)
