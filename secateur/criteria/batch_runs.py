"""Run a model on batches to look at it, and leave it as it was."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.criteria.accumulator import present_processes
from secateur.criteria.observation import Observation
from secateur.errors import DataError, SecateurError, UsageError
from secateur.graph.inputs import batch_size_of, run, tensors_of
from secateur.graph.misfit import does_not_run
from secateur.graph.slots import mode_of, preserved, randomness_preserved, stored_tensors
from secateur.memory import ran_out
from secateur.names import unknown_name
from secateur.randomness import derive_seed
from secateur.training import Batch, Processes, sum_over_processes
from secateur.training.devices import memory_named

Loss = Callable[[nn.Module, Batch], Tensor]
Mode = Literal["eval", "train"]
Told = Callable[[int], None]
"""Called with the number of mini-batches that are done, after each."""


def check_data(observation: Observation, batches: Iterable[Batch] | None, loss: Loss | None, mode: str) -> None:
    """Refuse a criterion without what it needs, before anything is run.

    Raises:
        UsageError: batches or a loss are needed and missing, or there is no such mode.
    """
    criterion = observation.criterion
    if mode not in ("eval", "train"):
        raise UsageError(unknown_name("mode", mode, ("eval", "train")))
    if criterion.needs_data and batches is None:
        raise UsageError(
            f"criterion {criterion.name!r} needs batches to run the model on; give batches=task.batches(n)"
        )
    if criterion.needs_loss and loss is None:
        raise UsageError(f"criterion {criterion.name!r} needs gradients of a loss; give loss=task.loss")


def observe(
    observation: Observation,
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss | None,
    *,
    mode: Mode = "eval",
    seed: int = 0,
    progress: Told | None = None,
) -> None:
    """Run ``model`` on ``batches`` and let ``observation`` look at each.

    Gradients are computed for the parameters that are looked at and for no others. Under several processes each runs
    its part of every batch. Flags, gradients, buffers, hooks and random states are afterwards as before.

    Raises:
        UsageError: a loss is not one finite number, or data and model are on different devices.
        DataError: there are no batches, or one is empty.
        TrainingError: memory ran out.
    """
    processes = present_processes()
    looked_at = {id(parameter) for parameter in observation.parameters.values()}
    done = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(randomness_preserved(stored_tensors(model)))
        stack.enter_context(left_as_it_was(model, looked_at))
        stack.enter_context(mode_of(model, training=mode == "train"))
        observation.watch(without_gradients=not observation.criterion.needs_loss)
        stack.callback(observation.unwatch)
        for batch in batches:
            samples = checked_samples(model, batch, done + 1, processes)
            torch.manual_seed(derive_seed(seed, "score", done, processes.rank))
            if samples:
                with memory_named(samples):
                    _run_once(observation, model, batch, loss, done + 1)
            _average_gradients(observation, samples, processes)
            if samples or observation.parameters:
                observation.end_batch(processes)
            else:
                observation.end_empty_batch(processes)
            for parameter in model.parameters():
                parameter.grad = None
            done += 1
            if progress is not None:
                progress(done)
    if done == 0:
        raise DataError(f"criterion {observation.criterion.name!r} got no batches; give at least one")


def _run_once(observation: Observation, model: nn.Module, batch: Batch, loss: Loss | None, number: int) -> None:
    if not observation.criterion.needs_loss:
        with torch.inference_mode(mode=False), torch.no_grad():
            if loss is not None:
                loss(model, batch)
            else:
                run(model, call_of(batch))
        return
    assert loss is not None
    with torch.inference_mode(mode=False), torch.enable_grad():
        value: Any = loss(model, batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(f"the loss of batch {number} must be one number, but is {shape}; return the mean loss")
        if not math.isfinite(value.item()):
            raise UsageError(
                f"the loss of batch {number} is {value.item()}, so nothing can be scored; look for NaN in weights and "
                "images"
            )
        if not value.requires_grad:
            raise UsageError(
                f"the loss of batch {number} does not depend on what criterion "
                f"{observation.criterion.name!r} looks at; compute it from the model that is scored, with autograd"
            )
        value.backward()  # type: ignore[no-untyped-call]


def _average_gradients(observation: Observation, samples: int, processes: Processes) -> None:
    """Make gradients those of the whole batch's mean loss, before absolute values are taken."""
    if processes.world_size == 1 or not observation.parameters:
        return
    parameters = {id(parameter): parameter for parameter in observation.parameters.values()}.values()
    first = next(iter(parameters))
    reached = [float(parameter.grad is not None) for parameter in parameters]
    known = sum_over_processes(torch.tensor([float(samples), *reached], device=first.device), processes)
    total = known[0]
    for parameter, processes_with_it in zip(parameters, known[1:].tolist(), strict=True):
        if not processes_with_it:
            continue  # a layer that did not run anywhere
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = sum_over_processes(gradient * (samples / total), processes)


@contextlib.contextmanager
def left_as_it_was(model: nn.Module, looked_at: set[int]) -> Iterator[None]:
    """Let autograd follow the parameters that are looked at alone, and put everything back afterwards."""
    parameters = list(model.parameters())
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        with preserved(model):
            for parameter in parameters:
                parameter.grad = None
                parameter.requires_grad_(id(parameter) in looked_at)
            yield
    finally:
        for parameter, flag, gradient in flags:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def call_of(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the call that a batch stands for: of the first of (inputs, labels), or of inputs alone."""
    inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else batch
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple) else (inputs,)), {}


@contextlib.contextmanager
def misfit_named(model: nn.Module, batch: Any, number: int) -> Iterator[None]:
    """Say in one sentence that a model does not take a batch on which it is run inside the block.

    Raises:
        DataError: the forward failed; says in which layer, at which shape, and what would fit.
    """
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:
        if ran_out(error) is not None:
            raise
        raise DataError(str(does_not_run(model, call_of(batch), error, given=f"batch {number},"))) from error


def checked_samples(model: nn.Module, batch: Any, number: int, processes: Processes) -> int:
    """Return the samples of a batch.

    Raises:
        DataError: it has none, though no other process has a part of it, or it holds no tensor.
        UsageError: it is on another device than the model.
    """
    call = call_of(batch)
    found = tensors_of(call)
    if not found:
        raise DataError(f"batch {number} holds no tensor, but {type(batch).__name__}; give (inputs, labels)")
    samples = batch_size_of(call)
    if samples == 0 and processes.world_size == 1:
        raise DataError(f"batch {number} has no samples; give batches of at least one")
    parameter = next(model.parameters(), None)
    if parameter is not None and found[0].device != parameter.device:
        raise UsageError(
            f"batch {number} is on {found[0].device}, but the model is on {parameter.device}; move one of them"
        )
    return samples
