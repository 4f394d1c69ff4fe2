"""Sort hooks by what they do, once per phase, so that a step calls only what is there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.training.task import Batch

BeginHook = Callable[[nn.Module, torch.optim.Optimizer], None]
LossHook = Callable[[nn.Module, Batch, Tensor], Tensor]
ModelHook = Callable[[nn.Module], None]
EpochHook = Callable[[nn.Module, int], None]


@runtime_checkable
class Stateful(Protocol):
    """Something that accumulates tensors which a continued run needs back."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was accumulated, by name."""

    def load_state_dict(self, state: dict[str, Tensor], /) -> object:
        """Take back what :meth:`state_dict` returned."""


@dataclass(frozen=True)
class HookCalls:
    """The bound methods of all hooks, by the moment at which they are called."""

    begin: tuple[BeginHook, ...]
    loss: tuple[LossHook, ...]
    after_backward: tuple[ModelHook, ...]
    after_step: tuple[ModelHook, ...]
    after_epoch: tuple[EpochHook, ...]


def sort_hooks(hooks: Sequence[object]) -> HookCalls:
    """Return the methods of ``hooks`` by moment, each in the order given.

    Raises:
        UsageError: a hook has none of the methods, which is a misspelt name.
    """
    for hook in hooks:
        if not any(callable(getattr(hook, moment, None)) for moment in HookCalls.__dataclass_fields__):
            raise UsageError(
                f"the hook {type(hook).__name__} does nothing: it has none of the methods "
                f"{', '.join(HookCalls.__dataclass_fields__)}"
            )
    return HookCalls(
        begin=_methods(hooks, "begin"),
        loss=_methods(hooks, "loss"),
        after_backward=_methods(hooks, "after_backward"),
        after_step=_methods(hooks, "after_step"),
        after_epoch=_methods(hooks, "after_epoch"),
    )


def accumulated_by(hooks: Sequence[object], step: object) -> dict[str, dict[str, Tensor]]:
    """Return what hooks and a replaced step have accumulated, by names that are the same on every run."""
    return {name: item.state_dict() for name, item in _stateful(hooks, step).items()}


def give_back_accumulated(
    accumulated: dict[str, dict[str, Tensor]], hooks: Sequence[object], step: object, device: torch.device
) -> None:
    """Give hooks and a replaced step what :func:`accumulated_by` returned, on ``device``."""
    for name, item in _stateful(hooks, step).items():
        own = accumulated.get(name, {})
        item.load_state_dict({key: value if _stays(value, device) else value.to(device) for key, value in own.items()})


def _stays(value: Tensor, device: torch.device) -> bool:
    """Whether a device cannot hold what was accumulated: Metal has no float64."""
    return device.type == "mps" and value.dtype == torch.float64


def _stateful(hooks: Sequence[object], step: object) -> dict[str, Stateful]:
    named = {f"{position}.{type(hook).__name__}": hook for position, hook in enumerate(hooks)}
    return {name: item for name, item in {**named, "step": step}.items() if isinstance(item, Stateful)}


def _methods(hooks: Sequence[object], moment: str) -> tuple[Any, ...]:
    return tuple(getattr(hook, moment) for hook in hooks if callable(getattr(hook, moment, None)))
