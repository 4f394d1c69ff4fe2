"""Everything that brings accuracy back after a cut without training, in its order, with what each step brought."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from secateur.compensation.batch_norm import reestimate_batch_norm
from secateur.compensation.compensate import Batches, Compensation, Told, compensate
from secateur.compensation.settings import How, RestoreSettings
from secateur.criteria.accumulator import present_processes
from secateur.criteria.batch_runs import call_of
from secateur.graph import ChannelGraph, Plan
from secateur.graph.inputs import batch_size_of, map_tensors, tensors_of
from secateur.record import RestoreStep
from secateur.record.restoration import BATCH_NORM, CUT
from secateur.training import Batch, Task

IN_WORDS: Mapping[How, str] = {"mean": "mean", "scale": "least squares", "both": "least squares and mean"}
"""What each way to compensate is called in records."""

HELD_BYTES = 2**30
"""Images are read once and held, up to so many bytes; more are read again for each layer."""


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
        norms = reestimate_batch_norm(small, first_images(task, settings.batch_norm_images))
        tell(f"running statistics of {norms} batch norm(s) measured anew")
        steps.append(step(BATCH_NORM, settings.batch_norm_images, time.perf_counter() - begun))
    return Restored(tuple(steps), compensation, norms)


def first_images(task: Task, count: int) -> Iterator[Batch]:
    """Yield the first mini-batches of the training split that hold ``count`` images, over all processes together.

    They are the same on every call. The last one is shortened; a data set with fewer images is yielded once.
    """
    processes = present_processes()
    share = count // processes.world_size + (processes.rank < count % processes.world_size)
    size = next((batch_size_of(call_of(batch)) for batch in task.batches(1)), 1)
    for batch in task.batches(math.ceil(count / max(size, 1))):
        samples = batch_size_of(call_of(batch))
        if not share:
            return
        yield batch if samples <= share else _shortened(batch, samples, share)
        share -= min(samples, share)


def held(batches: Batches, images: int) -> Batches:
    """Return mini-batches that are read once, if ``images`` of them are few enough to hold, else as they are."""
    first = next(iter(batches()), None)
    if first is None:
        return batches
    call = call_of(first)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(call))
    if size / max(batch_size_of(call), 1) * images > HELD_BYTES:
        return batches
    kept = list(batches())
    return lambda: kept


def _shortened(batch: Batch, samples: int, share: int) -> Batch:
    """Return the first samples of a mini-batch."""
    found: Batch = map_tensors(lambda tensor: tensor[:share] if len(tensor) == samples else tensor, batch)
    return found
