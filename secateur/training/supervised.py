"""Ordinary supervised training on images with a class each or a class per pixel, in phases that can be interrupted."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.randomness import derive_seed
from secateur.record import Evaluation, TrainResult
from secateur.training.devices import choose_device, choose_precision, join_processes
from secateur.training.distillation import frozen_teacher
from secateur.training.phase_run import run_phase
from secateur.training.progress import Progress, Quiet
from secateur.training.settings import TrainSettings
from secateur.training.store import Phase
from secateur.training.subset import subset_indices
from secateur.training.surroundings import Surroundings
from secateur.training.task import Batch, DataSource, Split, Step, Subset
from secateur.training.work import Work

DEFAULTS = TrainSettings()


class SupervisedTask:
    """Trains and evaluates on a data source; a :class:`~secateur.training.task.PhasedTask`.

    The data says whether this is classification or segmentation, see :func:`~secateur.training.task.task_of`.

    Every draw is seeded by (seed, phase, epoch, step, rank): the order of the data and its augmentation by
    (seed, phase, epoch), and torch's global generator, which dropout reads, anew for each step. Training
    outside a phase uses the name ``"train"``.
    """

    def __init__(
        self,
        data: DataSource,
        *,
        settings: TrainSettings = DEFAULTS,
        seed: int = 0,
        device: str = "auto",
        teacher: nn.Module | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        progress: Progress | None = None,
        checkpoint_minutes: float = 10.0,
        checkpoint_steps: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare to train on ``data``; under ``torchrun`` this connects the processes.

        Args:
            data: labelled images with training, validation and test splits.
            settings: how to train where a call does not say otherwise.
            seed: of every draw.
            device: ``"auto"`` or a device of torch; models are moved there.
            teacher: the dense model, for settings with distillation; a frozen copy is kept.
            loss: maps logits (N, classes) and labels (N,) to the mean loss, or logits (N, classes, H, W) and masks
                (N, H, W) to the mean over labelled pixels; cross entropy by default.
            progress: where to show how it goes; nowhere by default.
            checkpoint_minutes: between checkpoints inside an epoch; one is written at the end of each epoch
                anyway.
            checkpoint_steps: write one after so many steps of an epoch as well.
            clock: seconds, for speeds and the age of checkpoints.

        Raises:
            UsageError: the device is not there, or a setting needs what was not given.
        """
        if checkpoint_minutes <= 0 or (checkpoint_steps is not None and checkpoint_steps < 1):
            raise UsageError("checkpoint_minutes must be above 0 and checkpoint_steps at least 1")
        processes = join_processes()
        place = choose_device(device)
        self.settings = settings
        self.seed = seed
        self._phase: Phase | None = None
        self._surroundings = Surroundings(
            data=data,
            device=place,
            processes=processes,
            teacher=None if teacher is None else frozen_teacher(teacher).to(place),
            labelled=loss,
            progress=progress if progress is not None and processes.first else Quiet(),
            checkpoint_seconds=60 * checkpoint_minutes,
            checkpoint_steps=checkpoint_steps,
            clock=clock,
        )
        # A step of somebody's own does not scale its loss, so the task's bare loss never computes in fp16.
        precision = "fp32" if settings.precision == "fp16" else settings.precision
        self._loss = self._surroundings.loss(settings, choose_precision(precision, place, scaled=False))

    @property
    def data(self) -> DataSource:
        """The data source."""
        return self._surroundings.data

    @property
    def device(self) -> torch.device:
        """Where models are trained and evaluated."""
        return self._surroundings.device

    @property
    def example_inputs(self) -> Tensor:
        """Two validation samples, or training samples where there are none, (2, C, H, W), on the device."""
        split: Split = "validation" if self.data.size("validation") >= 2 else "train"
        return next(iter(self.data.batches(split, batch_size=2, device=self.device, limit=1)))[0]

    def in_phase(self, phase: Phase) -> "SupervisedTask":
        """Return this task, training as ``phase``: continues it if it was begun, skips it if it is done."""
        bound = copy.copy(self)
        bound._phase = phase
        return bound

    def train(
        self,
        model: nn.Module,
        *,
        epochs: int,
        settings: TrainSettings | None = None,
        subset: Subset | None = None,
        frozen: Iterable[str] = (),
        step: Step | None = None,
        hooks: Sequence[object] = (),
    ) -> TrainResult:
        """Train ``model`` in place, on the task's device; it ends as of the last epoch, not the best.

        A last, incomplete batch with fewer than two samples per process is left out, because batch norm
        cannot train on one value per channel.

        Args:
            model: what to train; its flags are afterwards as they were, and it holds no gradients.
            epochs: passes over the training split; 0 does nothing.
            settings: of this phase; the task's own by default.
            subset: a number of training samples, a share in (0, 1], or indices. Numbers and shares draw the
                same samples for every epoch of the phase.
            frozen: names of parameters or modules that stay bitwise still; norms inside such modules keep
                their running statistics too.
            step: replaces the ordinary step. It gets the model (under several processes its data-parallel
                wrapper, which must be called), the batch and the optimiser, and returns the loss. Hooks of
                the loss and of the gradients, clipping and label settings are then its own business.
            hooks: objects as described in :class:`~secateur.training.task.Hook`.

        Returns:
            What each epoch measured.

        Raises:
            UsageError: an argument is out of range or names something that is not there.
            TrainingError: a loss is not finite, memory ran out, or the phase was begun with other settings.
            Interrupted: Ctrl-C in a phase; its checkpoint is saved.
        """
        if epochs < 0:
            raise UsageError(f"epochs is {epochs}, but must be at least 0")
        name = self._phase.name if self._phase else "train"
        indices = subset_indices(subset, self.data.size("train"), seed=derive_seed(self.seed, name))
        work = Work(
            name=name,
            model=model,
            epochs=epochs,
            settings=settings or self.settings,
            seed=self.seed,
            indices=indices,
            frozen=tuple(frozen),
            step=step,
            hooks=tuple(hooks),
        )
        return run_phase(work, self._surroundings, self._phase)

    def evaluate(self, model: nn.Module, split: Split = "validation") -> Evaluation:
        """Return the averages over ``split``, in float32; ``model`` is moved to the device.

        Raises:
            DataError: the split is empty, or the model's outputs do not fit the data.
        """
        return self._surroundings.evaluate(model, split, self.settings.batch_size)

    def batches(self, n: int, split: Split = "train") -> Iterator[Batch]:
        """Yield up to ``n`` batches on the task's device, the same on every call, shuffled but not augmented.

        Under several processes each gets its part of every batch.
        """
        processes = self._surroundings.processes
        return self.data.batches(
            split,
            batch_size=self.settings.batch_size,
            seed=derive_seed(self.seed, "batches", split),
            device=self.device,
            limit=n,
            rank=processes.rank,
            world_size=processes.world_size,
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of one batch under the task's own settings, in the model's current mode."""
        return self._loss(model, batch)
