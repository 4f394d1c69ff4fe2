"""What goes together when weights are pruned: single weights, kernels, rows, columns, blocks, or n of m.

Every weight is seen as filters × inputs × positions (o, i, k): a linear layer's (out, in) with k = 1, a convolution's
(out, in/groups, positions of the kernel). A transposed convolution's (in, out/groups, …) is turned round first, so that
a row is the filter of one output and a kernel lies between one input and one output everywhere.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from secateur.errors import UsageError
from secateur.names import unknown_name

Kind = Literal["weight", "kernel", "row", "column", "block", "n:m"]

_KINDS = ("weight", "kernel", "row", "column")
_EXAMPLES = (*_KINDS, "block(4,1)", "2:4")


@dataclass(frozen=True)
class Granularity:
    """What goes together.

    Attributes:
        kind: ``weight``; ``kernel``, the slice between one input and one output; ``row``, all that makes one output;
            ``column``, all that reads one input; ``block``, ``rows`` outputs × ``columns`` entries of the flattened
            filter (i · k), smaller at the far edges; or ``n:m``, of each ``m`` consecutive entries of the flattened
            filter at most ``n`` stay, also of a shorter rest at its end.
        rows: of a block.
        columns: of a block.
        n: entries that may stay.
        m: of so many.
    """

    kind: Kind = "weight"
    rows: int = 1
    columns: int = 1
    n: int = 0
    m: int = 0

    @classmethod
    def parse(cls, text: "str | Granularity") -> "Granularity":
        """Read ``weight``, ``kernel``, ``row``, ``column``, ``block(4,1)`` or ``2:4``.

        Raises:
            UsageError: it is none of these, or its numbers make no sense.
        """
        if isinstance(text, Granularity):
            return text
        plain = str(text).replace(" ", "")
        for kind in _KINDS:
            if plain == kind:
                return cls(kind=kind)  # type: ignore[arg-type]
        block = re.fullmatch(r"block\((\d{1,9}),(\d{1,9})\)", plain)
        if block:
            rows, columns = map(int, block.groups())
            if rows < 1 or columns < 1:
                raise UsageError(f"the granularity {text!r} has blocks without weights; give at least block(1,1)")
            return cls(kind="block", rows=rows, columns=columns)
        pattern = re.fullmatch(r"(\d{1,9}):(\d{1,9})", plain)
        if pattern:
            n, m = map(int, pattern.groups())
            if not 1 <= n < m:
                raise UsageError(f"the granularity {text!r} keeps {n} of {m}; n:m needs 1 ≤ n < m, as in 2:4")
            return cls(kind="n:m", n=n, m=m)
        raise UsageError(unknown_name("granularity", str(text), _EXAMPLES))


def as_filters(tensor: Tensor, layer: nn.Module) -> Tensor:
    """Return a layer's weight, or what has its shape, as filters × inputs × positions (o, i, k)."""
    if not isinstance(layer, _ConvTransposeNd):
        return tensor.reshape(tensor.shape[0], tensor.shape[1], math.prod(tensor.shape[2:]))
    inputs, per_group, groups = tensor.shape[0], tensor.shape[1], layer.groups
    parts = tensor.reshape(groups, inputs // groups, per_group, math.prod(tensor.shape[2:]))
    return parts.transpose(1, 2).reshape(groups * per_group, inputs // groups, -1)


def from_filters(filters: Tensor, layer: nn.Module, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Return what :func:`as_filters` made of a tensor of ``shape``, in that shape."""
    if not isinstance(layer, _ConvTransposeNd):
        return filters.reshape(shape)
    groups = layer.groups
    parts = filters.reshape(groups, shape[1], shape[0] // groups, math.prod(shape[2:]))
    return parts.transpose(1, 2).reshape(shape)


@dataclass(frozen=True)
class Grouping:
    """The groups of one weight, in the order of the first weight of each.

    Attributes:
        granularity: what goes together; ``n:m`` makes no groups and counts as single weights here.
        shape: filters, inputs and positions (o, i, k).
        conv_groups: of a grouped convolution, whose filters read other inputs in each group.
    """

    granularity: Granularity
    shape: tuple[int, int, int]
    conv_groups: int = 1

    def sums(self, values: Tensor) -> Tensor:
        """Return the sum over each group of ``values`` (o, i, k), in float64, shape (groups,)."""
        filters, inputs, positions = self.shape
        kind = self.granularity.kind
        if kind == "kernel":
            return values.sum(2, dtype=torch.float64).flatten()
        if kind == "row":
            return values.sum((1, 2), dtype=torch.float64)
        if kind == "column":
            parts = values.reshape(self.conv_groups, -1, inputs, positions)
            return parts.sum((1, 3), dtype=torch.float64).flatten()
        if kind == "block":
            rows, columns = self.granularity.rows, self.granularity.columns
            wide = F.pad(values.reshape(filters, -1), (0, -inputs * positions % columns, 0, -filters % rows))
            parts = wide.reshape(wide.shape[0] // rows, rows, wide.shape[1] // columns, columns)
            return parts.sum((1, 3), dtype=torch.float64).flatten()
        return values.flatten()

    def spread(self, chosen: Tensor) -> Tensor:
        """Return for each weight, shape (o, i, k), what ``chosen`` (groups,) says of its group."""
        filters, inputs, positions = self.shape
        kind = self.granularity.kind
        if kind == "kernel":
            return chosen.reshape(filters, inputs, 1).expand(self.shape)
        if kind == "row":
            return chosen.reshape(filters, 1, 1).expand(self.shape)
        if kind == "column":
            parts = chosen.reshape(self.conv_groups, 1, inputs, 1)
            return parts.expand(-1, filters // self.conv_groups, -1, positions).reshape(self.shape)
        if kind == "block":
            rows, columns = self.granularity.rows, self.granularity.columns
            across = -(-inputs * positions // columns)
            wide = chosen.reshape(-1, across).repeat_interleave(rows, 0)[:filters]
            return wide.repeat_interleave(columns, 1)[:, : inputs * positions].reshape(self.shape)
        return chosen.reshape(self.shape)


def best_of_each(importance: Tensor, live: Tensor, n: int, m: int) -> Tensor:
    """Return which weights stay if of each ``m`` consecutive entries of a filter at most ``n`` do.

    Of entries that are equally important the first stay. The last entries of a filter whose length is no multiple of
    ``m`` are a shorter group of their own, of which up to ``n`` stay as well.

    Args:
        importance: shape (o, i, k), never negative.
        live: which may stay at all, of the same shape.
        n: entries that stay.
        m: of so many.
    """
    flat = importance.masked_fill(~live, -1.0).reshape(importance.shape[0], -1)
    padded = F.pad(flat, (0, -flat.shape[1] % m), value=-1.0)
    parts = padded.reshape(-1, m)
    order = parts.argsort(dim=1, descending=True, stable=True)[:, :n]
    stays = torch.zeros_like(parts, dtype=torch.bool).scatter_(1, order, True)
    return stays.reshape(padded.shape)[:, : flat.shape[1]].reshape(importance.shape) & live
