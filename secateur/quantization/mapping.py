"""Real numbers to integers and back: the one mapping that ranges, simulation and file share.

A *step* is the real size of one integer step (ONNX calls it ``y_scale``); ``real = (integer − zero_point) · step``.

The rounded value is that of ONNX's ``QuantizeLinear``: x / step in float32, half to even, then saturated.
``torch.fake_quantize_*`` multiply by 1 / step instead, which differs in the last bit: of 12.8 million normal values
15 fell on the other side of a tie, while those of this module were all those of ONNX Runtime. They also take 11 ns
per element on one thread where division, rounding and clipping as four operators take 0.3 ns (within the cache).
"""

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from secateur.errors import QuantizationError

Range: TypeAlias = "tuple[float | Tensor, float | Tensor]"
"""Lowest and highest real value, both numbers, or both tensors of shape (channels,)."""

TINY = 2.0**-24
"""Ranges that reach no further from 0 become zeros (as NVIDIA's pytorch-quantization, ``tensor_quant.py``)."""

_BITS = range(2, 9)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Which integers stand for a tensor. Source: Wu et al. 2020, arXiv:2004.09602, §3.

    ``symmetric`` and signed: as many integers on either side of zero (−127..127 at 8 bit, −128 is never emitted) and
    zero point 0. ``symmetric`` and unsigned: zero point 0, for values that are never negative. Neither: all integers,
    and the zero point that makes the range fit.

    Raises:
        QuantizationError: ``bits`` is not within 2..8.
    """

    bits: int = 8
    signed: bool
    symmetric: bool
    axis: int | None = None  # dimension with a step per index: 0 of weights, 1 of transposed convolutions'; None: one

    def __post_init__(self) -> None:
        if self.bits not in _BITS:
            raise QuantizationError(f"integers of {self.bits} bits: choose from {_BITS[0]} to {_BITS[-1]}")

    @property
    def lowest(self) -> int:
        """The lowest integer that is emitted."""
        if not self.signed:
            return 0
        return -(1 << self.bits - 1) + self.symmetric

    @property
    def highest(self) -> int:
        """The highest integer that is emitted."""
        return (1 << self.bits - self.signed) - 1

    @property
    def dtype(self) -> torch.dtype:
        """What the integers are stored as: ``int8`` or ``uint8``, for fewer bits too."""
        return torch.int8 if self.signed else torch.uint8

    @property
    def levels(self) -> int:
        """Levels that a range of |x| is divided into: 128 at signed 8 bit, 256 at unsigned (as NVIDIA counts them)."""
        return 1 << self.bits - self.signed


@dataclass(frozen=True, eq=False)
class Affine:
    """A mapping that is chosen: ``real = (integer − zero_point) · step``.

    ``step`` (float32) and ``zero_point`` (int32) have shape (), or (channels,) where ``spec.axis`` names a dimension.
    """

    step: Tensor
    zero_point: Tensor
    spec: Spec

    def quantize(self, x: Tensor) -> Tensor:
        """Return integers of ``spec.dtype`` in the shape of ``x``, as ONNX's ``QuantizeLinear`` gives them."""
        step, zero_point = _along(self.step, x, self.spec), _along(self.zero_point, x, self.spec)
        return _levels(x, step, zero_point, self.spec).add_(zero_point).to(self.spec.dtype)

    def dequantize(self, integers: Tensor) -> Tensor:
        """Return the real values (float32) that integers stand for."""
        step, zero_point = _along(self.step, integers, self.spec), _along(self.zero_point, integers, self.spec)
        return (integers.to(torch.int32) - zero_point).to(self.step.dtype) * step

    def fake(self, x: Tensor) -> Tensor:
        """Return ``dequantize(quantize(x))`` in floating point, with gradients (see :func:`fake_quantize`)."""
        return fake_quantize(x, self.step, self.zero_point, self.spec)

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest real value that have an integer."""
        zero_point = self.zero_point.to(self.step.dtype)
        return (self.spec.lowest - zero_point) * self.step, (self.spec.highest - zero_point) * self.step


def affine_of(range: Range, spec: Spec) -> Affine:
    """Return the mapping of a range onto the integers of ``spec``.

    The range is widened to hold 0, so that 0 is exact. With a step per channel, a channel that reaches no further from
    0 than :data:`TINY` takes the largest step of the others (the bias of a convolution is rounded to this step times
    that of its input, and a channel of zeros may have a bias); where there is no other, the step is that of a range of
    1. Values within such a range become 0 either way.

    Args:
        range: (lowest, highest), as numbers or, where ``spec.axis`` names a dimension, as tensors of shape (channels,).
        spec: the integers.

    Raises:
        QuantizationError: the range is not finite or upside down, has another shape than ``spec.axis`` asks for, or
            is below 0 where the integers are unsigned around a zero point of 0.
    """
    lowest, highest = (torch.as_tensor(end, dtype=torch.float64).detach() for end in range)
    _check(lowest, highest, spec)
    lowest, highest = lowest.clamp(max=0), highest.clamp(min=0)
    reach = torch.maximum(-lowest, highest)
    step = reach / spec.highest if spec.symmetric else (highest - lowest) / (spec.highest - spec.lowest)
    zeros = reach <= TINY
    rest = step[~zeros]
    step = step.masked_fill(zeros, float(rest.max()) if rest.numel() else 1 / spec.highest).float()
    zero_point = torch.zeros_like(step, dtype=torch.int32)
    if not spec.symmetric:
        # Not from the rounded step: a range as far below zero as above puts zero between two integers, a tie.
        share = (-lowest / (highest - lowest)).masked_fill(zeros, 0)
        zero_point = (spec.lowest + (share * (spec.highest - spec.lowest)).round()).to(torch.int32)
    return Affine(step, zero_point, spec)


def range_of(x: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest value of a tensor that is at hand: of all of it, or per index of ``spec.axis``.

    Raises:
        QuantizationError: the tensor is empty.
    """
    if x.numel() == 0:
        raise QuantizationError(f"a tensor of shape {tuple(x.shape)} has no range; quantize one that holds values")
    x = x.detach()
    if spec.axis is None:
        whole = torch.aminmax(x)
        return whole.min, whole.max
    each = torch.aminmax(x.movedim(spec.axis, 0).reshape(x.shape[spec.axis], -1), dim=1)
    return each.min, each.max


def fake_quantize(x: Tensor, step: Tensor, zero_point: Tensor, spec: Spec) -> Tensor:
    """Round to the reals that have an integer, in floating point; gradients pass where nothing is clipped.

    Args:
        x: of any shape, float32.
        step: of shape () or (channels,); if it requires a gradient, it gets that of learned step sizes, unscaled
            (source: Esser et al. 2020, arXiv:1902.08153, Eq. 3).
        zero_point: int32, of the shape of ``step``.
        spec: the integers.
    """
    if torch.is_grad_enabled() and (x.requires_grad or step.requires_grad):
        return cast(Tensor, _StraightThrough.apply(x, step, zero_point, spec))  # type: ignore[no-untyped-call]
    step = _along(step, x, spec)
    return _levels(x, step, _along(zero_point, x, spec), spec).mul_(step)


def _levels(x: Tensor, step: Tensor, zero_point: Tensor, spec: Spec) -> Tensor:
    """Return integers less the zero point, as floats: sums of an integer and a zero point below 2^24 are exact."""
    rounded = x.div(step).round_()
    if zero_point.dim() == 0 and zero_point.device.type == "cpu":
        zero = int(zero_point)
        return rounded.clamp_(spec.lowest - zero, spec.highest - zero)
    return rounded.clamp_((spec.lowest - zero_point).to(x.dtype), (spec.highest - zero_point).to(x.dtype))


def _along(values: Tensor, x: Tensor, spec: Spec) -> Tensor:
    if spec.axis is None or values.dim() == 0:
        return values
    shape = [1] * x.dim()
    shape[spec.axis] = -1
    return values.view(shape)


def _check(lowest: Tensor, highest: Tensor, spec: Spec) -> None:
    dimensions = 0 if spec.axis is None else 1
    if lowest.shape != highest.shape or lowest.dim() != dimensions:
        wanted = "one number" if spec.axis is None else f"one number per index of dimension {spec.axis}"
        raise QuantizationError(
            f"a range has ends of shapes {tuple(lowest.shape)} and {tuple(highest.shape)}; give {wanted} for each"
        )
    for low, high in zip(lowest.reshape(-1).tolist(), highest.reshape(-1).tolist(), strict=True):
        if not (abs(low) < float("inf") and abs(high) < float("inf") and low <= high):
            raise QuantizationError(f"a range from {low:g} to {high:g}; give finite numbers, the lowest first")
        if spec.symmetric and not spec.signed and low < -TINY:
            raise QuantizationError(
                f"a range from {low:g} to {high:g} on unsigned integers with zero point 0, which stand for no number "
                "below 0; choose signed integers, or let the zero point follow (symmetric=False)"
            )


class _StraightThrough(torch.autograd.Function):
    """Rounding that gradients pass as if it was not there, and clipping that stops them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero_point: Tensor, spec: Spec) -> Tensor:
        wide, zero = _along(step, x, spec), _along(zero_point, x, spec)
        scaled = x.div(wide)
        rounded = scaled.round()
        levels = rounded.clamp((spec.lowest - zero).to(x.dtype), (spec.highest - zero).to(x.dtype))
        inside = levels == rounded
        ctx.axis = None if step.dim() == 0 else spec.axis
        # The gradient of the step: what rounding added, or the level itself where it was clipped.
        slope = (levels - scaled * inside) if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(inside, slope)
        return levels.mul_(wide)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        inside, slope = ctx.saved_tensors
        of_step = None
        if slope is not None:
            of_step = gradient * slope
            others = [place for place in range(of_step.dim()) if ctx.axis is None or place != ctx.axis % of_step.dim()]
            of_step = of_step.sum(others) if others else of_step
        return (gradient * inside if ctx.needs_input_grad[0] else None), of_step, None, None
