"""Scaled-dot-product attention seen as one operator, whatever kernels it is made of and however it was imported."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

ATTENTION = nn.functional.scaled_dot_product_attention
"""Torch's own function."""

# Torch's function and the fast path's switch belong to the whole process: two threads that change them in turn would
# each put back what the other has set.
_ONE_AT_A_TIME = threading.RLock()

_FLATTEN = (torch.flatten, torch.Tensor.flatten)


class WholeAttention(TorchFunctionMode):
    """Hands every call of attention to one function while it is entered.

    Its default scale 1/√d reads a size, and which kernels it decomposes to depends on the device; neither can be seen
    operator by operator. Fused attention layers, which hide their products, take the ordinary path meanwhile.
    One thread at a time: a second that enters waits.

    Attributes:
        running: whether a call of attention is being run.
        flattening: whether a call of ``flatten`` is: the sizes of that view come from no code.

    Args:
        handle: called with the arguments of each call in place of torch's function; it may call that itself.
    """

    def __init__(self, handle: Callable[[tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self.running = False
        self.flattening = False
        self._handle = handle
        self._thread = threading.get_ident()
        self._before: list[tuple[Any, bool]] = []

    def is_own_thread(self) -> bool:
        """Whether the thread that runs is the one that entered; what others run meanwhile is not looked at."""
        return threading.get_ident() == self._thread

    def attend(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for torch's function."""
        if self.running or not self.is_own_thread():
            return ATTENTION(*args, **kwargs)
        self.running = True
        try:
            return self._handle(args, kwargs)
        finally:
            self.running = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Hand attention on, note that a ``flatten`` runs, and run everything else as it is."""
        del types
        if func in _FLATTEN:
            self.flattening = True
            try:
                return func(*args, **(kwargs or {}))
            finally:
                self.flattening = False
        return (self.attend if func is ATTENTION else func)(*args, **(kwargs or {}))

    def __enter__(self) -> Self:
        """Begin to see attention."""
        _ONE_AT_A_TIME.acquire()
        self._thread = threading.get_ident()
        self._before.append((nn.functional.scaled_dot_product_attention, torch.backends.mha.get_fastpath_enabled()))
        # Torch's own functions find it here; a model may have imported it by name, which only the mode sees.
        nn.functional.scaled_dot_product_attention = self.attend
        torch.backends.mha.set_fastpath_enabled(False)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put everything back."""
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        nn.functional.scaled_dot_product_attention, fast_path = self._before.pop()
        torch.backends.mha.set_fastpath_enabled(fast_path)
        _ONE_AT_A_TIME.release()
