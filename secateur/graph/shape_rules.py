"""What common operators give on meta tensors, by shape alone: shape, dtype and strides as the kernels have them.

A kernel on meta tensors costs fifty microseconds, and one that torch takes apart in Python a millisecond. Each rule
returns None where the kernel has to speak: for what does not fit together, and for what the rule does not know.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ACTIVATIONS = frozenset(
    ["relu", "hardtanh", "silu", "sigmoid", "hardswish", "hardsigmoid", "gelu", "leaky_relu", "elu", "tanh", "mish"]
)

_NOTHING = torch.empty(0, device="meta")


def result_on_shapes(name: str, args: tuple[Any, ...]) -> Any:
    """Return what an operator gives whose first tensor is a meta tensor; None where its kernel should say it.

    Args:
        name: without namespace and without the underscore of the in-place form.
        args: its positional arguments.
    """
    rule = _BY_SHAPE.get(name)
    if rule is None or not args:
        return None
    first = args[0][0] if isinstance(args[0], list | tuple) and args[0] else args[0]
    return rule(*args) if isinstance(first, Tensor) and first.device.type == "meta" else None


def attention_on_shapes(
    query: Tensor, key: Tensor, value: Tensor, mask: Any = None, *others: Any, **settings: Any
) -> Tensor | None:
    """Return what scaled-dot-product attention gives on meta tensors; None where its kernel should say it."""
    masked = mask is not None or settings.get("attn_mask") is not None
    plain = not masked and not settings.get("enable_gqa") and len(others) <= 3
    fits = query.shape[:-2] == key.shape[:-2] == value.shape[:-2] and query.shape[-1] == key.shape[-1]
    if not plain or query.device.type != "meta" or not fits or key.shape[-2] != value.shape[-2] or query.dim() < 3:
        return None
    return _contiguous((*query.shape[:-1], value.shape[-1]), query.dtype)


def _normalised(first: Tensor, *vectors: Any) -> Any:
    sizes = {vector.shape[0] for vector in vectors[:4] if vector is not None}
    known = first.is_contiguous() or (first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last))
    return None if sizes - {first.shape[1]} or not known else (meta_like(first), _NOTHING, _NOTHING)


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
    return meta_like(first) if first.is_floating_point() and _is_dense(first) else None


def _combined(first: Tensor, second: Any = None, *_: Any) -> Tensor | None:
    if type(second) in (int, float):
        return meta_like(first) if first.is_floating_point() and _is_dense(first) else None
    if not first.is_floating_point():  # a quotient of integers has another dtype
        return None
    if _alike(first, second):
        return meta_like(first) if _is_dense(first) else None
    if not isinstance(second, Tensor) or first.dtype != second.dtype:
        return None
    # A gate per channel, as in squeeze-and-excitation, or a vector of scales or shifts; or the other way round.
    if second.device.type != "meta" and second.dim():
        return None
    if second.dim() <= first.dim() and _spreads(second, first.shape):
        return meta_like(first) if first.is_contiguous() and second.is_contiguous() else _by_channel(first, second)
    if first.dim() <= second.dim() and _spreads(first, second.shape):
        return meta_like(second) if first.is_contiguous() and second.is_contiguous() else _by_channel(second, first)
    return None


def _by_channel(large: Tensor, small: Tensor) -> Tensor | None:
    """Return what a tensor and one of equal rank with a number per channel give: the strides of the larger one."""
    gate = small.dim() == large.dim() and small.numel() == max(small.shape, default=1)
    return meta_like(large) if gate and _is_dense(large) else None


def _subtracted_from(first: Tensor, second: Any, *_: Any) -> Tensor | None:
    return _combined(first, second) if not isinstance(second, Tensor) else None


def _spreads(small: Tensor, shape: Sequence[int]) -> bool:
    """Whether a tensor is broadcast to ``shape``, of which it has the last dimensions."""
    return all(size in (other, 1) for size, other in zip(small.shape[::-1], shape[::-1], strict=False))


def _joined(parts: Any, axis: int = 0, *_: Any) -> Tensor | None:
    first = parts[0]
    axis = axis % first.dim() if first.dim() else 0
    rest = [size for place, size in enumerate(first.shape) if place != axis]
    for part in parts:
        fits = isinstance(part, Tensor) and part.device.type == "meta" and part.dtype == first.dtype
        if not fits or part.dim() != first.dim() or part.dim() == 0 or not part.is_contiguous():
            return None
        if [size for place, size in enumerate(part.shape) if place != axis] != rest:
            return None
    shape = list(first.shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return _contiguous(tuple(shape), first.dtype)


def _rolled(first: Tensor, *_: Any) -> Tensor | None:
    return meta_like(first) if first.is_contiguous() else None


def _filled(first: Tensor, mask: Any, value: Any) -> Tensor | None:
    fits = isinstance(mask, Tensor) and mask.dim() <= first.dim() and _spreads(mask, first.shape)
    plain = mask.dtype == torch.bool and not isinstance(value, Tensor) and first.is_floating_point()
    return meta_like(first) if fits and plain and first.is_contiguous() else None


def _averaged(first: Tensor, axes: Any = None, keep: bool = False, *_: Any) -> Tensor | None:
    if not isinstance(axes, list | tuple) or not axes or not first.is_floating_point():
        return None
    chosen = {axis % first.dim() for axis in axes}
    if len(chosen) != len(axes):
        return None
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
    **dict.fromkeys(ACTIVATIONS, _activated),
    **dict.fromkeys(["add", "mul", "sub", "div"], _combined),
    "rsub": _subtracted_from,
    "cat": _joined,
    "roll": _rolled,
    "masked_fill": _filled,
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


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements lie without gaps, in whatever order: a result then takes its strides."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
