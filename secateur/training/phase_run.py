"""One call of ``train``: put everything together, continue where a checkpoint says, write checkpoints."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from pydantic import JsonValue
from torch import nn

from secateur.errors import DataError
from secateur.randomness import derive_seed
from secateur.record import EpochMeasurement, TrainResult
from secateur.training.checkpoint import Checkpoint, Cursor, PhaseState, load_weights, weights_of
from secateur.training.devices import (
    choose_precision,
    data_parallel,
    memory_named,
    own_random_numbers,
    wait_for_all,
)
from secateur.training.freezing import training_mode
from secateur.training.hooks import HookCalls, accumulated_by, give_back_accumulated, sort_hooks
from secateur.training.interrupts import StopRequest, stop_requests
from secateur.training.loop import Feed, TrainingLoop
from secateur.training.optimizers import align_gradients, build_optimizer, load_moments, moments
from secateur.training.step import OrdinaryStep, ReplacedStep
from secateur.training.store import Phase, require_same_work
from secateur.training.surroundings import Surroundings
from secateur.training.task import Batch
from secateur.training.work import Work


def run_phase(work: Work, surroundings: Surroundings, phase: Phase | None) -> TrainResult:
    """Do ``work``, or take from ``phase`` what is done of it already.

    Raises:
        UsageError: an argument names something that is not there.
        TrainingError: a loss is not finite, memory ran out, or the phase was begun with other settings.
        DataError: there are too few samples.
        Interrupted: Ctrl-C in a phase; its checkpoint is saved.
    """
    calls = sort_hooks(work.hooks)
    saved = phase.load() if phase else None
    work.model.to(surroundings.device)
    result = TrainResult(phase=work.name, settings=work.settings_as_json())
    if saved is not None:
        require_same_work(work.name, saved, _asked_for(work, surroundings))
        load_weights(work.model, saved.weights, phase=work.name)
        give_back_accumulated(saved.accumulated, work.hooks, work.step, surroundings.device)
        if saved.state.done:
            return saved.state.result
        result = _continued(saved, surroundings)
    writer = _Writer(work=work, surroundings=surroundings, phase=phase, result=result)
    if work.epochs == 0:
        writer.save(Cursor(), (), done=True)
        return result
    if work.settings.evaluate_every and surroundings.data.size("validation") == 0:
        work = replace(work, settings=replace(work.settings, evaluate_every=0))
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_named(work.settings.batch_size))
        stack.enter_context(_memory_format(work.model, channels_last=work.settings.channels_last))
        stack.enter_context(training_mode(work.model, work.frozen))
        generators = stack.enter_context(own_random_numbers(surroundings.device))
        stop = stack.enter_context(stop_requests(active=phase is not None))
        loop = _build_loop(work, surroundings, calls, writer, saved, generators, stop)
        return replace(result, epochs=loop.run())


@dataclass(kw_only=True)
class _Writer:
    """Writes the checkpoints of one phase, or nothing where there is no phase."""

    work: Work
    surroundings: Surroundings
    phase: Phase | None
    result: TrainResult
    optimizer: torch.optim.Optimizer | None = None
    scaler: torch.amp.GradScaler | None = None

    def save(self, cursor: Cursor, epochs: tuple[EpochMeasurement, ...], done: bool) -> None:
        if self.phase is None:
            return
        state = PhaseState(
            made_for=_asked_for(self.work, self.surroundings),
            environment=self.surroundings.environment(),
            result=replace(self.result, epochs=epochs),
            cursor=cursor,
            scaler={} if self.scaler is None else self.scaler.state_dict(),
            done=done,
        )
        # Nobody continues the optimiser of a finished phase, but what hooks have accumulated may be its
        # result.
        keep_moments = self.optimizer is not None and not done
        self.phase.save(
            Checkpoint(
                state=state,
                weights=weights_of(self.work.model),
                moments=moments(self.work.model, self.optimizer) if self.optimizer and keep_moments else {},
                accumulated=accumulated_by(self.work.hooks, self.work.step),
            )
        )
        if done:
            wait_for_all(self.surroundings.processes)


def _build_loop(
    work: Work,
    surroundings: Surroundings,
    calls: HookCalls,
    writer: _Writer,
    saved: Checkpoint | None,
    generators: list[torch.Generator],
    stop: StopRequest,
) -> TrainingLoop:
    settings, device = work.settings, surroundings.device
    compute_type = choose_precision(settings.precision, device, scaled=work.step is None)
    writer.scaler = torch.amp.GradScaler(device.type) if compute_type is torch.float16 else None
    writer.optimizer = optimizer = build_optimizer(work.model, settings)
    if saved is not None:
        load_moments(work.model, optimizer, saved.moments)
        if writer.scaler is not None and saved.state.scaler:
            writer.scaler.load_state_dict(saved.state.scaler)
    if calls.after_backward or work.step is not None:
        align_gradients(optimizer)
    feed = _feed(work, surroundings)
    network = data_parallel(work.model, surroundings.processes, any_part=work.step is not None)
    ordinary = OrdinaryStep(
        model=work.model,
        network=network,
        parameters=tuple(parameter for parameter in work.model.parameters() if parameter.requires_grad),
        loss=surroundings.loss(settings, compute_type),
        optimizer=optimizer,
        hooks=calls,
        scaler=writer.scaler,
        gradient_clip=settings.gradient_clip,
        world_size=surroundings.processes.world_size,
    )
    for begin in calls.begin:
        begin(work.model, optimizer)
    return TrainingLoop(
        work=work,
        surroundings=surroundings,
        step=ordinary if work.step is None else ReplacedStep(network, work.step, optimizer),
        optimizer=optimizer,
        feed=feed,
        hooks=calls,
        save=writer.save,
        keeps=writer.phase is not None,
        stop=stop,
        generators=generators,
        cursor=own_part(saved.state.cursor, feed, surroundings.processes.rank) if saved else Cursor(),
        finished=saved.state.result.epochs if saved else (),
    )


def _feed(work: Work, surroundings: Surroundings) -> Feed:
    data, processes = surroundings.data, surroundings.processes
    samples = data.size("train") if work.indices is None else len(work.indices)

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        read = data.batches(
            "train",
            batch_size=work.settings.batch_size,
            seed=derive_seed(work.seed, work.name, epoch),
            augment=work.settings.augment,
            device=surroundings.device,
            start=start,
            limit=feed.steps - start,
            indices=work.indices,
            rank=processes.rank,
            world_size=processes.world_size,
        )
        # Not ``map``, which has no ``close`` to end the workers of a source that streams.
        return (_channels_last(batch) for batch in read) if work.settings.channels_last else read

    feed = Feed(batches, samples, work.settings.batch_size, processes.world_size)
    if feed.steps == 0:
        raise DataError(f"cannot train on {samples} samples; there must be at least 2 per process")
    return feed


def _asked_for(work: Work, surroundings: Surroundings) -> dict[str, JsonValue]:
    return work.as_json(f"{surroundings.data.name}, {surroundings.data.size('train')} samples")


def _continued(saved: Checkpoint, surroundings: Surroundings) -> TrainResult:
    """Return the result so far, with what continuing here means for it."""
    before, cursor = saved.state.result, saved.state.cursor
    changes = list(saved.state.environment.differences(surroundings.environment()))
    if surroundings.device.type != "cpu":
        changes.append(f"computing on {surroundings.device.type}, which is not repeatable to the bit")
    notes = [f"phase {before.phase!r} continued in epoch {cursor.epoch + 1} after step {cursor.step}"]
    if cursor.step > 0 and saved.state.environment.world_size > 1:
        notes.append(f"the training loss of epoch {cursor.epoch + 1} up to there is that of the first process only")
    if changes:
        notes.append(f"not bit for bit as an unbroken run: {'; '.join(changes)}")
    for note in notes:
        surroundings.progress.note(note)
    return replace(
        before,
        resumed=before.resumed + 1,
        bit_for_bit=before.bit_for_bit and not changes,
        notes=(*before.notes, *notes),
    )


def own_part(cursor: Cursor, feed: Feed, rank: int) -> Cursor:
    """Return this process's cursor, given the first one's, perhaps of a run with another number of processes."""
    samples = feed.samples_of(rank, steps=cursor.step)
    if samples == cursor.samples:
        return cursor
    return replace(cursor, samples=samples, loss_sum=cursor.loss_sum / cursor.samples * samples)


@contextlib.contextmanager
def _memory_format(model: nn.Module, *, channels_last: bool) -> Iterator[None]:
    """Lay the model's weights out channels-last inside the block, if asked for."""
    if not channels_last:
        yield
        return
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _channels_last(batch: Batch) -> Batch:
    return batch[0].contiguous(memory_format=torch.channels_last), batch[1]
