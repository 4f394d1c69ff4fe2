"""Running operators on meta tensors, which have shapes and no values; the common ones by their shape alone."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.graph.whole_attention import ATTENTION, WholeAttention

_ACTIVATIONS = frozenset(
    ["relu", "hardtanh", "silu", "sigmoid", "hardswish", "hardsigmoid", "gelu", "leaky_relu", "elu", "tanh", "mish"]
)
VIEWS = frozenset(["view", "_unsafe_view", "_reshape_alias"])
"""Operators whose result has a shape that code has asked for; what ``reshape`` comes down to, copied or not."""

SPLITS = frozenset(["split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk"])
"""Operators whose results have sizes that code has asked for."""

FOLLOWING = frozenset(
    [
        *_ACTIVATIONS,
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

_NOTHING = torch.empty(0, device="meta")


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
    first = args[0] if args else None
    if isinstance(first, Tensor) and first.device.type == "meta":
        shapes = _BY_SHAPE.get(name)
        result = None if shapes is None else shapes(*args)
        if result is not None:
            in_place = isinstance(result, Tensor) and func._schema.name.endswith("_")
            return first if in_place else result
    return func(*args, **kwargs)


def attention_on_shapes(query: Tensor, key: Tensor, value: Tensor, *others: Any, **settings: Any) -> Tensor | None:
    """Return what scaled-dot-product attention gives on meta tensors; None where its kernel should say it."""
    plain = not others and not (set(settings) - {"dropout_p", "scale", "is_causal"})
    fits = query.shape[:-2] == key.shape[:-2] == value.shape[:-2] and query.shape[-1] == key.shape[-1]
    if not plain or query.device.type != "meta" or not fits or key.shape[-2] != value.shape[-2] or query.dim() < 3:
        return None
    return _contiguous((*query.shape[:-1], value.shape[-1]), query.dtype)


def _normalised(first: Tensor, *vectors: Any) -> Any:
    sizes = {vector.shape[0] for vector in vectors[:4] if vector is not None}
    return None if sizes - {first.shape[1]} else (meta_like(first), _NOTHING, _NOTHING)


def _layer_normalised(first: Tensor, shape: Any, weight: Any, bias: Any, *_: Any) -> Any:
    shape = tuple(shape)
    if tuple(first.shape[first.dim() - len(shape) :]) != shape:
        return None
    if any(vector is not None and tuple(vector.shape) != shape for vector in (weight, bias)):
        return None
    return _contiguous(tuple(first.shape), first.dtype), _NOTHING, _NOTHING


def _convolved(
    first: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Tensor | None:
    del output_padding
    space = weight.dim() - 2
    fits = first.dim() == space + 2 and first.shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0
    if transposed or not fits or first.dtype != weight.dtype or weight.shape[0] == 0:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    shape = [first.shape[0], weight.shape[0]]
    for axis in range(space):
        step, pad, spread = (numbers[axis % len(numbers)] for numbers in (stride, padding, dilation))
        shape.append((first.shape[axis + 2] + 2 * pad - spread * (weight.shape[axis + 2] - 1) - 1) // step + 1)
    if min(shape) <= 0 or not first.is_contiguous() or not weight.is_contiguous():
        return None  # the kernel chooses the memory format, and says what is wrong
    return _contiguous(tuple(shape), first.dtype)


def _activated(first: Tensor, *_: Any) -> Tensor | None:
    return meta_like(first) if first.is_floating_point() else None


def _combined(first: Tensor, second: Any = None, *_: Any) -> Tensor | None:
    if _alike(first, second):
        return meta_like(first)
    if not isinstance(second, Tensor) or first.dtype != second.dtype or first.dim() != second.dim():
        return None
    # A gate per channel, as in squeeze-and-excitation, or the other way round.
    shapes = list(zip(first.shape, second.shape, strict=True))
    if all(other in (size, 1) for size, other in shapes):
        return meta_like(first)
    if all(size in (other, 1) for size, other in shapes) and second.device.type == "meta":
        return meta_like(second)
    return None


def _averaged(first: Tensor, axes: Any = None, keep: bool = False, *_: Any) -> Tensor | None:
    if not isinstance(axes, list | tuple) or not axes or not first.is_floating_point():
        return None
    chosen = {axis % first.dim() for axis in axes}
    shape = [1 if axis in chosen else size for axis, size in enumerate(first.shape)]
    return _contiguous(tuple(size for axis, size in enumerate(shape) if keep or axis not in chosen), first.dtype)


def _resized(first: Tensor, size: Any = None, *_: Any) -> Tensor | None:
    """Return what interpolation gives; on meta tensors a bicubic one is taken apart into a hundred operators."""
    if not isinstance(size, list | tuple) or len(size) != first.dim() - 2 or not first.is_contiguous():
        return None
    return _contiguous((*first.shape[:2], *size), first.dtype) if first.is_floating_point() and min(size) > 0 else None


def _softened(first: Tensor, *_: Any) -> Tensor | None:
    return _contiguous(tuple(first.shape), first.dtype) if first.is_floating_point() else None


def _multiplied(first: Tensor, second: Any) -> Tensor | None:
    fits = isinstance(second, Tensor) and first.dtype == second.dtype and first.shape[-1] == second.shape[-2]
    if not fits or first.shape[:-2] != second.shape[:-2]:
        return None
    return _contiguous((*first.shape[:-1], second.shape[-1]), first.dtype)


def _multiplied_and_added(bias: Tensor, first: Any, second: Any) -> Tensor | None:
    result = _multiplied(first, second) if isinstance(first, Tensor) else None
    return result if result is not None and bias.shape == result.shape[-1:] and bias.dtype == first.dtype else None


_BY_SHAPE: dict[str, Callable[..., Any]] = {
    "native_batch_norm": _normalised,
    "convolution": _convolved,
    "native_layer_norm": _layer_normalised,
    "mean": _averaged,
    "_softmax": _softened,
    **dict.fromkeys(["upsample_bicubic2d", "upsample_bilinear2d", "upsample_nearest2d"], _resized),
    "mm": _multiplied,
    "bmm": _multiplied,
    "addmm": _multiplied_and_added,
    **dict.fromkeys(_ACTIVATIONS, _activated),
    **dict.fromkeys(["add", "mul", "sub"], _combined),
}


def _contiguous(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return torch.empty_strided(shape, strides[::-1], dtype=dtype, device="meta")


def meta_like(tensor: Tensor) -> Tensor:
    """Return a meta tensor of the same shape and dtype, and the same strides, except that nothing is expanded."""
    if 0 in tensor.stride():
        return _contiguous(tuple(tensor.shape), tensor.dtype)
    # empty_like on meta tensors runs through Python; this does not.
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _alike(first: object, second: object = None) -> bool:
    return (
        isinstance(first, Tensor)
        and isinstance(second, Tensor)
        and first.shape == second.shape
        and first.dtype == second.dtype
        and first.stride() == second.stride()
    )
