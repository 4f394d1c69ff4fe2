"""Measured latency of a torch module or an ONNX file: warm-up, repeats, median and spread."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur import record
from secateur.errors import UsageError
from secateur.export import OnnxModel
from secateur.graph import inputs
from secateur.graph.inputs import ExampleInputs
from secateur.graph.slots import mode_of
from secateur.measure.threads import torch_threads

Timed = nn.Module | Callable[..., Any] | OnnxModel | Path | str
"""What can be timed: a module, anything callable, an ONNX model, or the path of an ``.onnx`` file."""

WINDOW = 5  # runs whose medians tell whether the warm-up is over
STABLE = 0.05  # relative change between two windows that counts as none


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Timings of one forward pass of one batch.

    Attributes:
        median_ms: middle of the timings, in milliseconds.
        least_ms: the shortest, which is what other work on the machine disturbs least.
        p10_ms: a tenth of the timings are below it.
        p90_ms: a tenth of the timings are above it.
        spread_ms: distance between the first and the third quartile.
        repeats: number of timings.
        warmup: runs before the first timing.
        threads: that one operator could use on the CPU.
        device: that computed.
        batch_size: samples in the batch.
        runtime: ``torch`` or ``onnxruntime``.
        machine: name of the processor, or of the GPU.
    """

    median_ms: float
    least_ms: float
    p10_ms: float
    p90_ms: float
    spread_ms: float
    repeats: int
    warmup: int
    threads: int
    device: str
    batch_size: int
    runtime: str
    machine: str

    def to_record(self) -> record.Latency:
        """Return what a run's record keeps of it."""
        return record.Latency(
            median_ms=self.median_ms,
            spread_ms=self.spread_ms,
            repeats=self.repeats,
            batch_size=self.batch_size,
            threads=self.threads,
            device=self.device,
            runtime=self.runtime,
        )


@dataclass(frozen=True, kw_only=True)
class LatencyComparison:
    """Two models timed in turn, so that a machine that slows down slows both.

    Attributes:
        first: timings of the first.
        second: timings of the second.
        ratio: median of the first divided by the median of the second; above 1 the second is faster.
        pair_ratio_p10: a tenth of the ratios of neighbouring timings are below it.
        pair_ratio_p90: a tenth of them are above it.
    """

    first: Latency
    second: Latency
    ratio: float
    pair_ratio_p10: float
    pair_ratio_p90: float


def measure_latency(
    model: Timed,
    example_inputs: ExampleInputs,
    *,
    threads: int = 1,
    warmup: int = 50,
    repeats: int = 50,
    device: torch.device | str = "cpu",
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Latency:
    """Time one forward pass, in evaluation and inference mode; everything is left as it was.

    Args:
        model: a module on ``device``, a callable, an :class:`OnnxModel`, or the path of an ``.onnx`` file.
        example_inputs: what it takes; moved to ``device`` before anything is timed.
        threads: that one operator may use on the CPU.
        warmup: the most runs before timing; it ends earlier when the timings of five runs stop changing.
        repeats: timings to take.
        device: what computes; CUDA is waited for before and after each run.
        clock_ns: what tells the time, in nanoseconds.

    Raises:
        UsageError: a number is out of range, the module is on another device, or an :class:`OnnxModel` was loaded with
            another number of threads.
        ArtifactError: the ONNX file cannot be read or run.
    """
    _check_numbers(warmup, repeats)
    with torch_threads(threads), _ready(model, example_inputs, threads, torch.device(device)) as run:
        timer = _Timer(run, torch.device(device), clock_ns)
        warm = timer.warm_up(warmup)
        timings = [timer.time_once() for _ in range(repeats)]
        return _summary(timings, model, example_inputs, warm, torch.device(device))


def compare_latency(
    first: Timed,
    second: Timed,
    example_inputs: ExampleInputs,
    *,
    threads: int = 1,
    warmup: int = 50,
    repeats: int = 50,
    device: torch.device | str = "cpu",
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> LatencyComparison:
    """Time two models in turn (first, second, first, second, …) on the same inputs; see :func:`measure_latency`.

    Raises:
        UsageError: as :func:`measure_latency`.
        ArtifactError: an ONNX file cannot be read or run.
    """
    timings = _in_turn((first, second), example_inputs, threads, warmup, repeats, torch.device(device), clock_ns)
    (one, found_first), (other, found_second) = timings
    found = found_first, found_second
    ratios = np.asarray(one) / np.asarray(other)
    return LatencyComparison(
        first=found[0],
        second=found[1],
        ratio=found[0].median_ms / found[1].median_ms,
        pair_ratio_p10=float(np.percentile(ratios, 10)),
        pair_ratio_p90=float(np.percentile(ratios, 90)),
    )


def latencies_in_turn(
    models: Sequence[Timed],
    example_inputs: ExampleInputs,
    *,
    threads: int = 1,
    warmup: int = 50,
    repeats: int = 50,
    device: torch.device | str = "cpu",
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> tuple[Latency, ...]:
    """Time any number of models in turn, all once before any again; see :func:`measure_latency`.

    Raises:
        UsageError: as :func:`measure_latency`.
        ArtifactError: an ONNX file cannot be read or run.
    """
    found = _in_turn(models, example_inputs, threads, warmup, repeats, torch.device(device), clock_ns)
    return tuple(latency for _, latency in found)


def _in_turn(
    models: Sequence[Timed],
    example_inputs: ExampleInputs,
    threads: int,
    warmup: int,
    repeats: int,
    device: torch.device,
    clock_ns: Callable[[], int],
) -> list[tuple[list[float], Latency]]:
    """Return the timings of each model, in milliseconds, and their summary."""
    _check_numbers(warmup, repeats)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch_threads(threads))
        runs = [stack.enter_context(_ready(model, example_inputs, threads, device)) for model in models]
        timers = [_Timer(run, device, clock_ns) for run in runs]
        warm = [timer.warm_up(warmup) for timer in timers]
        rounds = [[timer.time_once() for timer in timers] for _ in range(repeats)]
        timings = [list(column) for column in zip(*rounds, strict=True)]
        return [
            (taken, _summary(taken, model, example_inputs, warmed, device))
            for taken, model, warmed in zip(timings, models, warm, strict=True)
        ]


class _Timer:
    """Times single runs of a callable without arguments."""

    def __init__(self, run: Callable[[], object], device: torch.device, clock_ns: Callable[[], int]) -> None:
        self._run = run
        self._device = device
        self._clock_ns = clock_ns

    def time_once(self) -> float:
        """Return the milliseconds of one run."""
        self._wait()
        begin = self._clock_ns()
        self._run()
        self._wait()
        # A clock that has not moved is not a speed of infinity.
        return max(self._clock_ns() - begin, 1) / 1e6

    def warm_up(self, most: int) -> int:
        """Run until the medians of two windows agree, or ``most`` times; return how often."""
        done, previous = 0, float("inf")
        while done < most:
            count = min(WINDOW, most - done)
            current = median(self.time_once() for _ in range(count))
            done += count
            if abs(current - previous) <= STABLE * current:
                break
            previous = current
        return done

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()


def steady_clock(threads: int) -> Callable[[], int]:
    """Return the clock, in nanoseconds, by which ONNX models are compared while other work is on the machine.

    One thread computes in the process's own, whose processor time stands still while it waits for its turn and is
    otherwise that of the wall. With several threads processor time adds them up, so only the wall tells.
    """
    return time.process_time_ns if threads == 1 else time.perf_counter_ns


@contextlib.contextmanager
def _ready(
    model: Timed, example_inputs: ExampleInputs, threads: int, device: torch.device
) -> Iterator[Callable[[], object]]:
    """Yield a call of ``model`` on its inputs, in evaluation and inference mode where it is torch's."""
    args, kwargs = inputs.map_tensors(lambda tensor: tensor.detach().to(device), inputs.as_call(example_inputs))
    if isinstance(model, Path | str):
        model = OnnxModel(model, threads=threads)
    if isinstance(model, OnnxModel):
        if model.threads != threads:
            raise UsageError(
                f"the ONNX model was loaded with {model.threads} threads, but {threads} are to be measured; "
                f"load it with threads={threads}"
            )
        if device.type != "cpu":
            raise UsageError(f"ONNX files run on the CPU, but the device is {device}; use --device cpu")
        runnable, tensors = model, inputs.tensors_of((args, kwargs))
        yield lambda: runnable.run(*tensors)
        return
    call = model
    mode: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if isinstance(call, nn.Module):
        _check_device(call, device)
        mode = mode_of(call, training=False)
    with mode, torch.inference_mode():
        yield lambda: call(*args, **kwargs)


def _check_device(model: nn.Module, device: torch.device) -> None:
    held = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), device)
    same = held.type == device.type and (device.index is None or held.index == device.index)
    if not same:
        raise UsageError(f"the model is on {held}, but {device} is to be measured; move it there first")


def _check_numbers(warmup: int, repeats: int) -> None:
    if warmup < 0 or repeats < 1:
        raise UsageError(f"warmup is {warmup} and repeats {repeats}; they must be at least 0 and 1")


def _summary(
    timings: list[float], model: Timed, example_inputs: ExampleInputs, warmup: int, device: torch.device
) -> Latency:
    p10, first, middle, third, p90 = (float(value) for value in np.percentile(timings, (10, 25, 50, 75, 90)))
    place = record.environment(device)
    on_cpu = device.type == "cpu"
    return Latency(
        median_ms=middle,
        least_ms=min(timings),
        p10_ms=p10,
        p90_ms=p90,
        spread_ms=third - first,
        repeats=len(timings),
        warmup=warmup,
        threads=torch.get_num_threads(),
        device=str(device),
        batch_size=inputs.batch_size_of(inputs.as_call(example_inputs)),
        runtime="onnxruntime" if isinstance(model, OnnxModel | Path | str) else "torch",
        machine=place.cpu if on_cpu else place.device,
    )
