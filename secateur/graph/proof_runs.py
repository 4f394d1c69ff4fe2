"""How two models are run so that they can be compared: without chance, in float64, and saying where one fails."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.graph.slots import module_names


@contextlib.contextmanager
def without_chance(active: bool) -> Iterator[None]:
    """Switch dropout off inside the block, in training mode too, if ``active``."""
    if not active:
        yield
        return
    with _NoDropout():  # type: ignore[no-untyped-call]
        yield


class _NoDropout(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets dropout keep everything, in both models alike, so that training mode can be compared."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        name = func._schema.name
        if name == "aten::native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if name == "aten::bernoulli_":
            return args[0].fill_(1.0)
        if name == "aten::bernoulli":
            return torch.ones_like(args[0])
        return func(*args, **(kwargs or {}))


class Widened(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets a forward that casts to a smaller floating-point type run in float64 all the same."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in (torch.float32, torch.float16, torch.bfloat16):
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


class LastModule:
    """Remembers which module's forward was entered last, to say where a run failed."""

    def __init__(self, model: nn.Module) -> None:
        self._names = module_names(model)
        self._last = ""

    def __enter__(self) -> None:
        def enter(module: nn.Module, args: Any) -> None:
            del args
            self._last = self._names.get(id(module), self._last)

        self._handle = register_module_forward_pre_hook(enter)

    def __exit__(self, *error: object) -> None:
        self._handle.remove()

    def __str__(self) -> str:
        return f" in module {self._last!r}" if self._last else ""
