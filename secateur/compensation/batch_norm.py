"""Running statistics of batch norm, measured anew on the network as it is now."""

import contextlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.criteria.accumulator import present_processes
from secateur.criteria.batch_runs import call_of, checked_samples, misfit_named
from secateur.criteria.reconstruction.listening import left_at_rest
from secateur.errors import DataError
from secateur.graph.inputs import run
from secateur.training import Batch, Processes, sum_over_processes
from secateur.training.devices import memory_named


def reestimate_batch_norm(model: nn.Module, batches: Iterable[Batch]) -> int:
    """Measure the running means and variances of all batch norms anew, in place; return how many layers that were.

    Each batch runs once with batch norm in training mode and all else (dropout) in eval mode. Means and unbiased
    variances are averaged over the batches, each as much as it has samples, so that a short last one counts little:
    every layer sees what the layers before give when they are normalised by the batch. Norms that keep no statistics
    stay as they are; so do frozen ones: of other classes, with ``momentum=0``, or whose parameters do not train though
    others do. Modes, momentum, hooks and random states are afterwards as before.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 2: population statistics as averages over mini-batches;
    after a cut, Li et al. 2020, "EagleEye", arXiv:2007.02491, adaptive batch normalisation.

    Args:
        model: its running statistics change, nothing else.
        batches: (inputs, labels), or inputs alone, on the model's device, of two samples or more. A batch of a single
            sample after larger ones, such as the last of a pass, is left out. Under several processes each runs its
            part, and what all find is averaged.

    Raises:
        DataError: there are no batches, one is empty, the model does not run on one, a layer gets one value per
            channel, which has no variance, or one that is not finite.
        UsageError: data and model are on different devices.
        TrainingError: memory ran out.
    """
    some_train = any(parameter.requires_grad for parameter in model.parameters())
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.track_running_stats
        and module.running_mean is not None
        and module.momentum != 0
        and not (some_train and _rests(module))
    ]
    if not norms:
        return 0
    processes = present_processes()
    with left_at_rest(model):  # its buffers too, so that nothing is lost where something goes wrong
        for norm in norms:
            norm.reset_running_stats()
            norm.training, norm.momentum = True, None  # of one that nobody hears, every batch counts alike
        samples = _run_all(model, norms, batches, processes)
        found = [_over(norm, seen, processes) for norm, seen in zip(norms, samples, strict=True)]
    if not all(torch.isfinite(mean).all() and torch.isfinite(variance).all() for mean, variance, _ in found):
        raise DataError("the network gives NaN or infinity on these images, so batch norm cannot be measured anew")
    with torch.no_grad():
        for norm, (mean, variance, batches_seen) in zip(norms, found, strict=True):
            if not batches_seen:
                continue  # a layer that did not run
            norm.get_buffer("running_mean").copy_(mean)
            norm.get_buffer("running_var").copy_(variance)
            if norm.momentum is None:  # then later averages are weighted by how many batches there were before
                norm.get_buffer("num_batches_tracked").fill_(round(batches_seen))
    return sum(bool(batches_seen) for _, _, batches_seen in found)


def _run_all(
    model: nn.Module, norms: Sequence[_BatchNorm], batches: Iterable[Batch], processes: Processes
) -> list[float]:
    """Run ``model`` on all batches; return how many samples each norm has seen."""
    number, largest, samples = 0, 0, 0
    seen = [0.0] * len(norms)

    def weigh(place: int, norm: _BatchNorm, _args: tuple[Any, ...]) -> None:
        seen[place] += samples
        norm.momentum = samples / seen[place]

    with contextlib.ExitStack() as stack:
        for place, norm in enumerate(norms):
            stack.callback(norm.register_forward_pre_hook(partial(weigh, place)).remove)
        for number, batch in enumerate(batches, start=1):
            samples = checked_samples(model, batch, number, processes)
            if samples > 1 or (samples and largest <= 1):
                _run_on(model, batch, number, samples)
            largest = max(largest, samples)
    if number == 0:
        raise DataError("batch norm cannot be measured anew without batches; give at least one")
    return seen


def _run_on(model: nn.Module, batch: Batch, number: int, samples: int) -> None:
    with memory_named(samples), misfit_named(model, batch, number):
        try:
            run(model, call_of(batch))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise DataError(
                f"batch {number} gives a batch norm one value per channel, which has no variance; give batches of two "
                "samples or more"
            ) from error


def _over(norm: _BatchNorm, samples: float, processes: Processes) -> tuple[Tensor, Tensor, float]:
    """Return the mean and variance over the samples of all processes, shapes (channels,), and of how many batches."""
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    count = norm.get_buffer("num_batches_tracked").to(mean.dtype).reshape(1)
    if processes.world_size == 1:
        return mean.clone(), variance.clone(), float(count)
    mean, variance, count = mean.float(), variance.float(), count.float()
    seen = count.new_tensor([samples]) if samples else count
    total = sum_over_processes(torch.cat([mean * seen, variance * seen, seen, count]), processes)
    means, variances = (total[:-2] / max(float(total[-2]), 1.0)).chunk(2)
    return means, variances, float(total[-1])


def _rests(norm: _BatchNorm) -> bool:
    """Say whether a norm has parameters and trains none of them."""
    parameters: Sequence[nn.Parameter] = list(norm.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
