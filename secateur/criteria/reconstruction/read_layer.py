"""Convolutions and linear layers in one form: windows of input channels, and the unit that each channel belongs to."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.errors import UsageError
from secateur.wording import counted

READABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""The modules whose output is a sum of contributions of input channels."""

Units = Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]] | Tensor

CHUNK_ELEMENTS = 2**24
"""Numbers in one materialised block: 64 MiB in single precision."""


@dataclass(frozen=True, eq=False)
class ReadLayer:
    """A layer that reads units.

    A linear layer is a convolution without spatial dimensions, each of its columns a channel. Channels of no unit are
    left out, except in grouped convolutions, where they keep their place and are left out of the sums.

    Attributes:
        weight: the layer's own values, not copied unless channels are left out, shape (groups, O/groups, C/groups, *K).
        units: unit of each channel that is read, -1 for none, shape (C,).
        size: number of units.
        channels: which channels of the input are read, shape (C,); None for all.
        in_channels: number of channels of the input.
        stride: per spatial dimension; 1 where the kernel is a point and the input was thinned out instead.
        thinning: every how many-th position of the input is read at all, per spatial dimension.
        dilation: per spatial dimension.
        padding: (before, after) per spatial dimension.
        padding_mode: as of the module.
    """

    weight: Tensor
    units: Tensor
    size: int
    channels: Tensor | None
    in_channels: int
    stride: tuple[int, ...]
    thinning: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    padding_mode: str

    @classmethod
    def of(cls, module: nn.Module, units: Units, size: int | None = None) -> "ReadLayer":
        """Return ``module`` in this form.

        Args:
            module: a convolution or linear layer; its weight is read when statistics are asked for, so leave it as it
                is until then.
            units: unit of each input channel (column of a linear layer), -1 for none; several may share one.
            size: number of units, the highest and one if None.

        Raises:
            UsageError: such a module is not supported, or ``units`` does not fit it.
        """
        if not isinstance(module, READABLE):
            raise UsageError(
                f"contributions of input channels are not defined for {type(module).__name__}; give one of "
                f"{', '.join(kind.__name__ for kind in READABLE)}"
            )
        linear = isinstance(module, nn.Linear)
        in_channels = module.in_features if isinstance(module, nn.Linear) else module.in_channels
        found = torch.as_tensor(np.asarray(units), dtype=torch.int64).to(module.weight.device)
        size = _checked_size(found, in_channels, size, "columns" if linear else "input channels")
        weight, groups = module.weight.detach(), 1 if isinstance(module, nn.Linear) else module.groups
        channels = None
        if groups == 1 and bool((found < 0).any()):
            channels = (found >= 0).nonzero().squeeze(1)
            weight, found = weight.index_select(1, channels), found[channels]
        weight = weight.reshape(groups, -1, *weight.shape[1:])
        if isinstance(module, nn.Linear):
            return cls(weight, found, size, channels, in_channels, (), (), (), (), "zeros")
        padding = _padding(module)
        point = math.prod(module.kernel_size) == 1 and not any(map(any, padding))
        stride: tuple[int, ...] = tuple(module.stride)
        ones = (1,) * len(stride)
        return cls(
            weight=weight,
            units=found,
            size=size,
            channels=channels,
            in_channels=in_channels,
            stride=ones if point else stride,
            thinning=stride if point else ones,
            dilation=tuple(module.dilation),
            padding=padding,
            padding_mode=module.padding_mode,
        )

    @property
    def groups(self) -> int:
        """Number of groups of the convolution."""
        return self.weight.shape[0]

    @property
    def filters(self) -> int:
        """Number of filters O, those of all groups."""
        return self.weight.shape[0] * self.weight.shape[1]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps per spatial dimension."""
        return tuple(self.weight.shape[3:])

    @property
    def taps(self) -> int:
        """Numbers that one filter reads at one position: channels of its group × places of the kernel."""
        return self.weight[0, 0].numel()

    def images(self, inputs: Tensor) -> Tensor:
        """Return the channels that are read, shape (N, C, *spatial), in single or double precision.

        Raises:
            UsageError: ``inputs`` is not what the layer reads.
        """
        spatial = len(self.kernel)
        if spatial == 0:
            if inputs.ndim < 1 or inputs.shape[-1] != self.in_channels:
                raise UsageError(f"the inputs have shape {tuple(inputs.shape)}; give (..., {self.in_channels})")
            inputs = inputs.reshape(-1, self.in_channels)
        else:
            inputs = inputs[None] if inputs.ndim == spatial + 1 else inputs
            if inputs.ndim != spatial + 2 or inputs.shape[1] != self.in_channels:
                raise UsageError(
                    f"the inputs have shape {tuple(inputs.shape)}; give (N, {self.in_channels}) and "
                    f"{counted(spatial, 'spatial dimension')}"
                )
        if inputs.dtype not in (torch.float32, torch.float64):
            inputs = inputs.float()
        if any(step > 1 for step in self.thinning):
            inputs = inputs[(slice(None), slice(None), *(slice(None, None, step) for step in self.thinning))]
        return inputs if self.channels is None else inputs.index_select(1, self.channels)

    def targets(self, target: Tensor, images: Tensor) -> Tensor:
        """Return a target given from outside as (N, O, *positions), in the precision of ``images``.

        Raises:
            UsageError: ``target`` is not shaped like the layer's output on these inputs.
        """
        expected = (images.shape[0], self.filters, *self.output_size(images.shape[2:]))
        target = target.reshape(-1, target.shape[-1]) if not self.kernel and target.ndim > 0 else target
        target = target[None] if target.ndim == len(expected) - 1 else target
        if tuple(target.shape) != expected:
            raise UsageError(
                f"the target has shape {tuple(target.shape)}; the layer's output on these inputs is {expected}"
            )
        return target.to(images)

    def output_size(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the number of output positions per spatial dimension.

        Raises:
            UsageError: the input is smaller than the kernel.
        """
        found = tuple(
            (length + sum(padding) - dilation * (taps - 1) - 1) // stride + 1
            for length, padding, dilation, taps, stride in zip(
                spatial, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        if any(length < 1 for length in found):
            raise UsageError(f"an input of {tuple(spatial)} is too small for a kernel of {self.kernel}")
        return found

    def padded(self, images: Tensor) -> Tensor:
        """Return ``images`` with the layer's own padding."""
        if not any(map(any, self.padding)):
            return images
        amounts = [amount for pair in reversed(self.padding) for amount in pair]
        return F.pad(images, amounts, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)

    def rows(self, padded: Tensor) -> Iterator[tuple[Tensor, tuple[slice, ...]]]:
        """Yield what filters read at each position, in blocks of bounded size.

        Args:
            padded: result of :meth:`padded`.

        Yields:
            Rows, shape (groups, positions, taps); and the part of (N, first spatial dimension) that they are of.
        """
        windows = padded.reshape(len(padded), self.groups, -1, *padded.shape[2:])  # (N, groups, C/groups, *spatial)
        spatial = len(self.kernel)
        for dim, (taps, step, dilation) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            windows = windows.unfold(3 + dim, dilation * (taps - 1) + 1, step)[..., ::dilation]
        # (N, groups, C/groups, *positions, *K) → (groups, N, *positions, C/groups, *K)
        places = [3 + dim for dim in range(spatial)]
        kernel = [3 + spatial + dim for dim in range(spatial)]
        windows = windows.permute(1, 0, *places, 2, *kernel)
        lines = windows.shape[2] if spatial else 1
        line = math.prod(windows.shape[3 : 2 + spatial]) * self.groups * self.taps
        images_at_once = max(1, CHUNK_ELEMENTS // (line * lines))
        lines_at_once = lines if line * lines <= CHUNK_ELEMENTS else max(1, CHUNK_ELEMENTS // line)
        for first in range(0, windows.shape[1], images_at_once):
            for top in range(0, lines, lines_at_once):
                part = (slice(first, first + images_at_once), slice(top, top + lines_at_once))[: 1 + min(1, spatial)]
                yield windows[(slice(None), *part)].reshape(self.groups, -1, self.taps), part

    def by_unit(self, of_channels: Tensor, dim: int) -> Tensor:
        """Return sums of ``of_channels`` over the channels of each unit, of size U along ``dim``."""
        shape = list(of_channels.shape)
        shape[dim] = self.size
        kept = (self.units >= 0).nonzero().squeeze(1)
        if len(kept) < len(self.units):
            of_channels = of_channels.index_select(dim, kept)
        return of_channels.new_zeros(shape).index_add_(dim, self.units[kept], of_channels)


def doubles(*size: int, device: torch.device) -> Tensor:
    """Return zeros to sum in, in double precision."""
    return torch.zeros(size, dtype=torch.float64, device=device)


def by_group(layer: ReadLayer, target: Tensor) -> Tensor:
    """Return a target, shape (N, O, *positions), as (groups, N, *positions, O/groups), in the order of rows."""
    return target.reshape(len(target), layer.groups, -1, *target.shape[2:]).movedim(1, 0).movedim(2, -1)


def _checked_size(units: Tensor, in_channels: int, size: int | None, noun: str) -> int:
    if units.shape != (in_channels,):
        raise UsageError(
            f"units has shape {tuple(units.shape)}, but the layer has {in_channels} {noun}; give one unit for each"
        )
    highest = int(units.max()) if len(units) else -1
    if highest < 0:
        raise UsageError(f"no one of the {in_channels} {noun} belongs to a unit; give at least one that is not -1")
    if size is not None and highest >= size:
        raise UsageError(f"units goes up to {highest}, but there are only {size} units")
    return highest + 1 if size is None else size


def _padding(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[tuple[int, int], ...]:
    if module.padding == "valid":
        return ((0, 0),) * len(module.kernel_size)
    if module.padding == "same":
        totals = [dilation * (taps - 1) for dilation, taps in zip(module.dilation, module.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((int(amount), int(amount)) for amount in module.padding)
