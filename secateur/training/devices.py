"""Devices, mixed precision and the processes that train together."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from secateur.errors import SecateurError, TrainingError, UsageError
from secateur.memory import asked_for, ran_out
from secateur.training.settings import PrecisionName


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0


def join_processes() -> Processes:
    """Return this process's place; under ``torchrun`` the first call connects the processes."""
    if not distributed.is_available():
        return Processes()
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
            return Processes()
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Processes(distributed.get_rank(), distributed.get_world_size())


def wait_for_all(processes: Processes) -> None:
    """Return when every process has come here."""
    if processes.world_size > 1:
        distributed.barrier()


def sum_over_processes(values: Tensor, processes: Processes) -> Tensor:
    """Return the sum of ``values`` over all processes, the same on each; ``values`` may be overwritten."""
    if processes.world_size > 1:
        distributed.all_reduce(values)
    return values


def share_buffers(model: nn.Module, processes: Processes) -> None:
    """Give every process the first one's buffers: batch statistics differ from process to process."""
    if processes.world_size > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def data_parallel(model: nn.Module, processes: Processes, *, any_part: bool = False) -> nn.Module:
    """Return ``model``, wrapped so that gradients are averaged over the processes where there are several.

    Args:
        model: what is trained; the wrapper shares its parameters.
        processes: those that train together.
        any_part: a forward pass may leave parameters out (slower).
    """
    if processes.world_size == 1:
        return model
    device = next(model.parameters()).device
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=any_part)


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to compute on.

    Args:
        name: ``"auto"`` takes CUDA, else Apple's MPS, else the CPU; or a device of torch such as
            ``"cuda:1"``. Under ``torchrun`` a CUDA device without a number is the process's own.

    Raises:
        UsageError: the device is unknown or not there.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; choose auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"device {name!r} is not there: torch sees no CUDA GPU; use --device cpu")
        index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", "0"))
        if index >= torch.cuda.device_count():
            raise UsageError(f"device 'cuda:{index}' is not there: torch sees {torch.cuda.device_count()} CUDA GPUs")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not there; use --device cpu")
    elif device.type not in ("cpu", "mps"):
        raise UsageError(f"unknown device {name!r}; choose auto, cpu, cuda, cuda:N or mps")
    return device


def set_threads(threads: int) -> None:
    """Let one operator use ``threads`` CPU threads.

    Raises:
        UsageError: fewer than one.
    """
    check_threads(threads)
    torch.set_num_threads(threads)


def check_threads(threads: int) -> None:
    """Refuse a number of threads that cannot be.

    Raises:
        UsageError: fewer than one.
    """
    if threads < 1:
        raise UsageError(f"threads is {threads}, but must be at least 1")


def choose_precision(name: PrecisionName, device: torch.device, *, scaled: bool = True) -> torch.dtype | None:
    """Return the type that autocast computes in, or ``None`` for float32 throughout.

    Args:
        name: what the settings ask for.
        device: where the model is.
        scaled: whether the training step scales the loss, which fp16 needs; a replaced step does not.

    Raises:
        UsageError: the device, or the step, cannot do what is asked for.
    """
    if name == "fp32" or (name == "auto" and device.type != "cuda"):
        return None
    if name == "bf16":
        if device.type == "mps":
            raise UsageError("precision 'bf16' is not supported on mps; use fp32")
        return torch.bfloat16
    if name == "auto" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    if device.type != "cuda":
        raise UsageError(f"precision 'fp16' needs a CUDA device, but the device is {device}; use bf16 or fp32")
    if not scaled:
        if name == "auto":
            return None
        raise UsageError("precision 'fp16' needs a scaled loss, which a replaced step does not have; use bf16 or fp32")
    return torch.float16


@contextlib.contextmanager
def own_random_numbers(device: torch.device) -> Iterator[list[torch.Generator]]:
    """Yield torch's global generators, to be seeded inside the block; afterwards they are as before.

    They are seeded one by one, because ``torch.manual_seed`` asks every kind of device and takes 0.2 ms,
    which is a quarter of a small network's step; a generator takes a microsecond.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    states = [generator.get_state() for generator in generators]
    try:
        yield generators
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextlib.contextmanager
def memory_named(batch_size: int) -> Iterator[None]:
    """Turn running out of memory inside the block into a sentence that names the batch size.

    Raises:
        TrainingError: the device or the machine has no memory left.
    """
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:  # by type on a GPU; on a CPU only the text of a RuntimeError tells
        short = ran_out(error)
        if short is None:
            raise
        fix = (
            f"try half of it: --batch-size {batch_size // 2} (batch_size in a recipe or in Python)"
            if batch_size > 1
            else "use smaller images or a smaller model, or a machine with more memory"
        )
        raise TrainingError(f"out of memory with batch size {batch_size}{asked_for(short)}; {fix}") from error
