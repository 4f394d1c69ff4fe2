"""Running operators on meta tensors, which have shapes and no values; the common ones by their shape alone."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.graph.shape_rules import ACTIVATIONS, attention_on_shapes, result_on_shapes
from secateur.graph.whole_attention import ATTENTION, WholeAttention

VIEWS = frozenset(["view", "_unsafe_view", "_reshape_alias"])
"""Operators whose result has a shape that code has asked for; what ``reshape`` comes down to, copied or not."""

SPLITS = frozenset(["split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk"])
"""Operators whose results have sizes that code has asked for."""

FOLLOWING = frozenset(
    [
        *ACTIVATIONS,
        *["add", "sub", "mul", "div", "cat", "mm", "addmm", "t", "transpose", "permute", "detach", "clone", "alias"],
        *["native_batch_norm", "native_layer_norm", "convolution", "dropout", "native_dropout", "_softmax", "softmax"],
        *[
            "mean",
            "sum",
            "amax",
            "_adaptive_avg_pool2d",
            "adaptive_max_pool2d",
            "avg_pool2d",
            "max_pool2d_with_indices",
        ],
        *["upsample_nearest2d", "upsample_bilinear2d", "unsqueeze", "squeeze", "copy", "prelu", "_to_copy", "bmm"],
    ]
)
"""Operators that have no size from the code but those of their inputs; others may be asked for one."""

ARITHMETIC = frozenset(["add", "sub", "rsub", "mul", "div", "pow", "floor_divide", "remainder", "fmod"])

_FOLLOWED = "_secateur_followed"


class Watcher(Protocol):
    """Sees what tells a size apart from the channels that it counts."""

    def viewed(self, tensor: Tensor) -> None:
        """See the result of a view outside attention."""

    def sliced(self, start: int) -> None:
        """See where a slice begins."""

    def computed(self, numbers: tuple[float, ...]) -> None:
        """See the numbers that an operator computes with, where it has any."""


class ShapeRun(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operators by :func:`on_shapes`, and shows a watcher views and numbers."""

    def __init__(self, watcher: Watcher | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watcher = watcher
        self.attention = WholeAttention(self._attend)

    def _attend(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the shape of an attention: taken apart on meta tensors it costs more than all else."""
        if self._watcher is not None and (numbers := numbers_in("attention", args, kwargs)):
            self._watcher.computed(numbers)
        found = attention_on_shapes(*args, **kwargs)
        return ATTENTION(*args, **kwargs) if found is None else follow(found)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        del types
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        if self._watcher is None or not any(hasattr(tensor, _FOLLOWED) for tensor in _tensors_in(args)):
            return on_shapes(func, name, args, kwargs or {})
        watched = not self.attention.running
        if watched and (numbers := numbers_in(name, args, kwargs or {})):
            self._watcher.computed(numbers)
        result = on_shapes(func, name, args, kwargs or {})
        for tensor in _tensors_in(result if isinstance(result, list | tuple) else (result,)):
            follow(tensor)
        if watched and name in VIEWS:
            self._watcher.viewed(result)
        elif watched and name == "slice":
            self._watcher.viewed(result)
            self._watcher.sliced(start_of_slice(args)[1])
        elif watched and name in SPLITS:
            for part in result:
                self._watcher.viewed(part)
        return result


@contextlib.contextmanager
def running_on_shapes(watcher: Watcher | None = None) -> Iterator[None]:
    """Run what is inside on meta tensors, ten times cheaper than they do by themselves; others run as they are.

    Args:
        watcher: sees what is done with tensors that :func:`follow` has marked, and with what is made of them.
    """
    mode = ShapeRun(watcher)
    with mode, mode.attention:
        yield


def follow(tensor: Tensor) -> Tensor:
    """Mark a weight or an input, so that a watcher sees what is made of it, and nothing that is made of constants."""
    setattr(tensor, _FOLLOWED, True)
    return tensor


def _tensors_in(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Tensor))


def start_of_slice(args: tuple[Any, ...]) -> tuple[int, int]:
    """Return the dimension that ``slice(input, dim, start, …)`` cuts, and where it begins, counted from the front."""
    axis = (args[1] if len(args) > 1 else 0) % args[0].dim()
    start = args[2] if len(args) > 2 else None
    size = args[0].shape[axis]
    return axis, 0 if start is None else max(0, min(size, start + size if start < 0 else start))


def numbers_in(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, ...]:
    """Return the numbers that an operator computes with: fractions, and whole numbers too where it is arithmetic."""
    kinds = (int, float) if name in ARITHMETIC else (float,)
    return tuple(value for value in (*args, *kwargs.values()) if type(value) in kinds)


def on_shapes(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator on meta tensors: the common ones by their shapes alone, without any kernel.

    What does not fit together runs through the kernel, so that it fails as it would with values.

    Args:
        func: the ATen overload.
        name: its name without namespace and without the underscore of the in-place form.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    result = result_on_shapes(name, args)
    if result is None:
        return func(*args, **kwargs)
    if isinstance(result, Tensor) and func._schema.name.endswith("_"):
        return args[0] if result.shape == args[0].shape else func(*args, **kwargs)
    return result
