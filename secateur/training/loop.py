"""The training loop: as close to a bare forward–backward–step loop as its promises allow.

What happens once per step is only what must: the learning rate, the seed, the step, the sum of losses.
Progress, checkpoints and the check of losses on a GPU look at a clock or a counter and are rare.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from secateur.errors import DataError, TrainingError
from secateur.randomness import derive_seed
from secateur.record import EpochMeasurement
from secateur.training.checkpoint import Cursor
from secateur.training.devices import share_buffers, sum_over_processes
from secateur.training.hooks import HookCalls
from secateur.training.interrupts import Interrupted, StopRequest
from secateur.training.schedules import learning_rate
from secateur.training.surroundings import Surroundings
from secateur.training.task import Batch
from secateur.training.work import Work

LOOK_SECONDS = 0.25  # between two looks at progress and at the age of the checkpoint


def steps_between_checks(device: torch.device) -> int:
    """Return how many losses may wait to be read: reading one makes a GPU finish all its work first."""
    return 1 if device.type == "cpu" else 50


@dataclass(frozen=True)
class Feed:
    """The batches of a phase."""

    batches: Callable[[int, int], Iterator[Batch]]  # (epoch, batches to skip) → this process's part of each
    samples: int  # of one epoch, over all processes
    batch_size: int
    world_size: int = 1

    @property
    def steps(self) -> int:
        """Steps of one epoch.

        A last, incomplete batch with fewer than two samples per process is left out: batch norm cannot train
        on a single value per channel.
        """
        full, rest = divmod(self.samples, self.batch_size)
        return full + (rest >= 2 * self.world_size)

    def size(self, step: int) -> int:
        """Return the samples of batch ``step`` over all processes."""
        return min(self.batch_size, self.samples - step * self.batch_size)

    def samples_of(self, rank: int, *, steps: int) -> int:
        """Return the samples that process ``rank`` has in the first ``steps`` steps of an epoch."""
        sizes = map(self.size, range(steps))
        return sum((rank + 1) * size // self.world_size - rank * size // self.world_size for size in sizes)


@dataclass(kw_only=True)
class TrainingLoop:
    """Runs the epochs of one phase from a cursor on."""

    work: Work
    surroundings: Surroundings
    step: Callable[[Batch, int], Tensor]  # (batch, samples in it over all processes) → mean loss of this part
    optimizer: torch.optim.Optimizer
    feed: Feed
    hooks: HookCalls
    save: Callable[[Cursor, tuple[EpochMeasurement, ...], bool], None]
    keeps: bool  # whether ``save`` keeps anything
    stop: StopRequest
    generators: list[torch.Generator]
    cursor: Cursor = field(default_factory=Cursor)
    finished: tuple[EpochMeasurement, ...] = ()
    _pending: list[tuple[int, int, Tensor]] = field(default_factory=list)  # (step, samples, loss) not read yet
    _begun: float = 0.0  # when the clock was last read for the cursor's seconds
    _saved: float = 0.0
    _look: float = 0.0
    _rate: float = math.nan

    def run(self) -> tuple[EpochMeasurement, ...]:
        """Train to the end of the phase and return all its epochs.

        Raises:
            TrainingError: a loss is not finite.
            DataError: the data source gives fewer batches than it has.
            Interrupted: the user asked to stop; the checkpoint is saved.
        """
        steps = self.feed.steps
        done = self.cursor.epoch * steps + self.cursor.step
        self.surroundings.progress.phase_begins(
            self.work.name, epochs=self.work.epochs, steps=self.work.epochs * steps, done=done
        )
        self._saved = self._look = self.surroundings.clock()
        try:
            while self.cursor.epoch < self.work.epochs:
                self._run_epoch()
                self._end_epoch()
        finally:
            self.surroundings.progress.phase_ends()
        return self.finished

    def _run_epoch(self) -> None:
        epoch, first, steps = self.cursor.epoch, self.cursor.step, self.feed.steps
        loss_sum, samples = self.cursor.loss_sum, self.cursor.samples
        every, clock = self.surroundings.checkpoint_steps, self.surroundings.clock
        pending = steps_between_checks(self.surroundings.device)
        self._begun = clock()
        batches = self.feed.batches(epoch, first) if first < steps else iter(())
        index = first - 1
        with contextlib.ExitStack() as stack:
            close = getattr(batches, "close", None)  # ends the workers of a source that streams
            if close is not None:
                stack.callback(close)
            # zip asks the range first, so that no batch beyond the last step is read.
            for index, batch in zip(range(first, steps), batches, strict=False):
                self._set_learning_rate(epoch * steps + index)
                self._seed(epoch, index)
                loss = self.step(batch, self.feed.size(index))
                for hook in self.hooks.after_step:
                    hook(self.work.model)
                count = len(batch[1])
                samples += count
                if pending == 1:
                    value = loss.item()
                    loss_sum += value * count
                    if not math.isfinite(value):
                        raise self._not_finite(epoch, index, value)
                else:
                    self._pending.append((index, count, loss))
                now = clock()
                due = every is not None and (index + 1) % every == 0
                if now >= self._look or due or self.stop.made or len(self._pending) >= pending:
                    loss_sum += self._read_losses(epoch)
                    seconds = self.cursor.seconds + now - self._begun
                    self._begun = now
                    self.cursor = Cursor(
                        epoch=epoch, step=index + 1, loss_sum=loss_sum, samples=samples, seconds=seconds
                    )
                    self._look_up(now, due)
        if index + 1 < steps:
            raise DataError(
                f"the data source gave {index + 1} batches instead of {steps} "
                f"in phase {self.work.name!r}, epoch {epoch + 1}"
            )
        loss_sum += self._read_losses(epoch)
        seconds = self.cursor.seconds + clock() - self._begun
        self.cursor = Cursor(epoch=epoch, step=steps, loss_sum=loss_sum, samples=samples, seconds=seconds)

    def _look_up(self, now: float, due: bool) -> None:
        """Show progress, write a checkpoint if one is due, stop if the user asked for it."""
        cursor = self.cursor
        if now >= self._look:
            self._look = now + LOOK_SECONDS
            done = cursor.epoch * self.feed.steps + cursor.step
            speed = cursor.samples * self.surroundings.processes.world_size / max(cursor.seconds, 1e-9)
            self.surroundings.progress.advance(
                done, epoch=cursor.epoch, loss=cursor.loss_sum / cursor.samples, images_per_s=speed
            )
        if self.keeps and (due or self.stop.made or now - self._saved >= self.surroundings.checkpoint_seconds):
            self.save(cursor, self.finished, False)
            self._saved = self._begun = self.surroundings.clock()
        self._stop_if_asked()

    def _end_epoch(self) -> None:
        epoch = self.cursor.epoch
        self._seed(epoch, self.feed.steps)  # a run that continues here has taken no step that left a state
        for hook in self.hooks.after_epoch:
            hook(self.work.model, epoch)
        share_buffers(self.work.model, self.surroundings.processes)
        totals = torch.tensor([self.cursor.loss_sum, self.cursor.samples], dtype=torch.float64)
        if self.surroundings.processes.world_size > 1:
            totals = sum_over_processes(totals.to(self.surroundings.device), self.surroundings.processes).cpu()
        loss_sum, samples = totals.tolist()
        last = epoch + 1 == self.work.epochs
        settings = self.work.settings
        measurement = EpochMeasurement(
            epoch=epoch,
            train_loss=loss_sum / samples,
            learning_rate=self._learning_rate((epoch + 1) * self.feed.steps - 1),
            samples=round(samples),
            seconds=self.cursor.seconds,
            images_per_s=samples / max(self.cursor.seconds, 1e-9),
        )
        if settings.evaluate_every and (last or (epoch + 1) % settings.evaluate_every == 0):
            measurement = replace(
                measurement,
                validation=self.surroundings.evaluate(self.work.model, "validation", settings.batch_size),
            )
        self.finished = (*self.finished, measurement)
        self.cursor = Cursor(epoch=epoch + 1)
        self.surroundings.progress.epoch_ends(measurement)
        self.save(self.cursor, self.finished, last)
        self._saved = self.surroundings.clock()
        self._stop_if_asked()

    def _seed(self, epoch: int, step: int) -> None:
        seed = derive_seed(self.work.seed, self.work.name, epoch, step, self.surroundings.processes.rank)
        for generator in self.generators:
            generator.manual_seed(seed)

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.work.settings, step, epochs=self.work.epochs, steps_per_epoch=self.feed.steps)

    def _set_learning_rate(self, step: int) -> None:
        rate = self._learning_rate(step)
        if rate != self._rate:
            self._rate = rate
            for group in self.optimizer.param_groups:
                group["lr"] = rate

    def _read_losses(self, epoch: int) -> float:
        """Return the sum of the losses that are still on the device, after checking each."""
        if not self._pending:
            return 0.0
        values = torch.stack([loss for _, _, loss in self._pending]).tolist()
        total = 0.0
        for (index, count, _), value in zip(self._pending, values, strict=True):
            if not math.isfinite(value):
                raise self._not_finite(epoch, index, value)
            total += value * count
        self._pending.clear()
        return total

    def _not_finite(self, epoch: int, index: int, value: float) -> TrainingError:
        where = (
            f"the loss is {value} in phase {self.work.name!r}, epoch {epoch + 1} of {self.work.epochs}, "
            f"batch {index + 1} of {self.feed.steps}"
        )
        if epoch == index == 0:
            return TrainingError(
                f"{where}, before this phase changed any weight, so no learning rate is to blame: look for what the "
                "model divides by or takes the logarithm of in training mode, and for NaN in the images"
            )
        kept = "; the last checkpoint is kept" if self.keeps else ""
        return TrainingError(
            f"{where}{kept}; use a lower learning rate than {self._rate:g} (--train-lr in phase 'dense', else --lr), "
            "or clip the gradients (gradient_clip)"
        )

    def _stop_if_asked(self) -> None:
        if self.stop.made:
            raise Interrupted(self.work.name, self.cursor.epoch, self.cursor.step)
