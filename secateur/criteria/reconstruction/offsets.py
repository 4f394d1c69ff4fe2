"""The Gram matrix by shifted products of the image with itself: what two taps see depends on their distance alone.

For taps k and k' of a stride-1 kernel P[k,k'] = Σ_p x[p + dk]·x[p + dk']ᵀ, with dilation d, depends on k' − k alone
when p runs over *all* places at which the image is touched. The real output positions are fewer. Per spatial
dimension, the sum over real p is the sum over all p less a few terms of single p before and after them, and a term of
one p is a product of two lines of the image. So P[k,k'] is a sum of products of *parts*, each a choice per dimension:

* ``(0, 0, Δ)``: the whole dimension with itself, shifted by Δ;
* ``(1, a, b)``: line a with line b, counted from the beginning;
* ``(2, a, b)``: line a with line b, counted from the end.

Parts serve many pairs of taps: 13 and 16 along the border do for the 81 pairs of a 3 × 3 kernel with padding 1.
"""

import itertools
import math

import torch
from torch import Tensor

from secateur.criteria.reconstruction.patches import per_filter
from secateur.criteria.reconstruction.read_layer import CHUNK_ELEMENTS, ReadLayer, doubles

Choice = tuple[int, int, int]
Part = tuple[Choice, ...]

WHOLE, FROM_START, FROM_END = 0, 1, 2


class Offsets:
    """Sums over images of products of parts. For stride 1, one group and padding with zeros."""

    def __init__(self, layer: ReadLayer, device: torch.device) -> None:
        self._layer = layer
        self._numbers = {part: number for number, part in enumerate(parts_of(layer))}
        channels = layer.weight.shape[2]
        self._products = doubles(len(self._numbers), channels, channels, device=device)
        self._sums = doubles(channels, *layer.kernel, device=device)
        self._correlation: Tensor | None = None  # with a target, (O, C, places of the kernel)

    @staticmethod
    def leads_to(layer: ReadLayer) -> bool:
        """Whether the route is open to ``layer``."""
        padded = any(map(any, layer.padding))
        return layer.groups == 1 and set(layer.stride) <= {1} and (layer.padding_mode == "zeros" or not padded)

    @staticmethod
    def macs_per_image(layer: ReadLayer, spatial: tuple[int, ...]) -> int:
        """Return how many multiply-adds an image of such a size takes."""
        positions = sum(
            math.prod(
                length + reach if kind == WHOLE else 1
                for (kind, _, _), length, reach in zip(part, spatial, _reaches(layer), strict=True)
            )
            for part in parts_of(layer)
        )
        return positions * layer.weight.shape[2] ** 2

    @staticmethod
    def state_elements(layer: ReadLayer) -> int:
        """Return how many numbers are kept between batches."""
        return len(parts_of(layer)) * layer.weight.shape[2] ** 2

    def add(self, images: Tensor, target: Tensor | None) -> None:
        """Add all positions of ``images``, shape (N, C, *spatial); ``target`` is (N, O, *positions)."""
        at_once = max(1, CHUNK_ELEMENTS // max(1, images[0].numel()))
        for first in range(0, len(images), at_once):
            block = images[first : first + at_once]
            self._add_products(block)
            self._sums += window_sums(self._layer, block)
            if target is not None:
                self._add_correlation(self._layer.padded(block), target[first : first + at_once])

    def gram(self) -> Tensor:
        """Return Σ z_u·z_v, shape (U, U)."""
        layer = self._layer
        weight = layer.weight[0].to(self._products).reshape(*layer.weight.shape[1:3], -1)  # (O, C, places)
        taps = list(itertools.product(*map(range, layer.kernel)))
        gram = torch.zeros_like(self._products[0])
        for number, tap in enumerate(taps):
            for place, other in enumerate(taps[number:], start=number):
                term = (weight[..., number].T @ weight[..., place]).mul_(self._pair(tap, other))
                gram += term if tap == other else term + term.T
        return layer.by_unit(layer.by_unit(gram, 0), 1)

    def sums(self) -> Tensor:
        """Return Σ z_u of each filter, shape (O, U)."""
        return per_filter(self._layer, self._sums.reshape(1, 1, -1))

    def cross(self) -> Tensor:
        """Return Σ z_u·y, shape (U,), with a target given from outside."""
        assert self._correlation is not None
        return per_filter(self._layer, self._correlation.flatten(1)[None]).sum(0)

    def _pair(self, tap: tuple[int, ...], other: tuple[int, ...]) -> Tensor:
        """Return P[tap, other], shape (C, C)."""
        found = torch.zeros_like(self._products[0])
        for sign, part in terms(self._layer, tap, other):
            ordered, turned = _ordered(part)
            product = self._products[self._numbers[ordered]]
            found.add_(product.T if turned else product, alpha=sign)
        return found

    def _add_products(self, images: Tensor) -> None:
        reaches = _reaches(self._layer)
        lines: dict[tuple[int | None, ...], Tensor] = {}  # of the image at chosen lines: laid out in a row per channel
        for part, number in self._numbers.items():
            chosen = [_lines(choice, length) for choice, length in zip(part, images.shape[2:], strict=True)]
            if None in chosen:
                continue  # a line beyond a small image is all zeros
            left, right = (tuple(pair[side] for pair in chosen if pair is not None) for side in (0, 1))
            for wanted in (left, right):
                if wanted not in lines:
                    lines[wanted] = _laid_out(images, wanted, reaches)
            shift, stride = 0, 1
            for (kind, _, step), length, reach in reversed(list(zip(part, images.shape[2:], reaches, strict=True))):
                if kind == WHOLE:
                    shift, stride = shift + step * stride, stride * (length + reach)
            one, two = lines[left], lines[right]
            if shift < 0:
                one, two = one[:, -shift:], two[:, :shift]
            elif shift > 0:
                one, two = one[:, :-shift], two[:, shift:]
            self._products[number] += one @ two.T

    def _add_correlation(self, padded: Tensor, target: Tensor) -> None:
        layer = self._layer
        if self._correlation is None:
            channels = layer.weight.shape[2]
            self._correlation = doubles(layer.filters, channels, layer.taps // channels, device=padded.device)
        wanted = target.transpose(0, 1).flatten(1)  # (O, N·positions)
        for number, tap in enumerate(itertools.product(*map(range, layer.kernel))):
            window = padded
            for dim, (place, dilation, length) in enumerate(zip(tap, layer.dilation, target.shape[2:], strict=True)):
                window = window.narrow(2 + dim, place * dilation, length)
            self._correlation[..., number] += wanted @ window.transpose(0, 1).flatten(1).T


def terms(layer: ReadLayer, tap: tuple[int, ...], other: tuple[int, ...]) -> list[tuple[int, Part]]:
    """Return the parts whose signed sum is P[tap, other] over the real output positions."""
    per_dimension = [_choices(layer, dim, *pair) for dim, pair in enumerate(zip(tap, other, strict=True))]
    return [
        (math.prod(sign for sign, _ in chosen), tuple(choice for _, choice in chosen))
        for chosen in itertools.product(*per_dimension)
    ]


def parts_of(layer: ReadLayer) -> list[Part]:
    """Return every part that is needed, each in one order of its two sides: the other is its transpose."""
    per_dimension = [
        {choice for one in range(taps) for two in range(taps) for _, choice in _choices(layer, dim, one, two)}
        for dim, taps in enumerate(layer.kernel)
    ]
    return sorted({_ordered(part)[0] for part in itertools.product(*per_dimension)})


def window_sums(layer: ReadLayer, images: Tensor) -> Tensor:
    """Return Σ x[c, p + dk] over images and real output positions p, for each channel and tap, shape (C, *K), float64.

    For stride 1 and padding with zeros: each tap sees the image less some lines along its border.
    """
    found = images
    for dim in reversed(range(len(layer.kernel))):
        length = images.shape[2 + dim]
        dilation, (before, after) = layer.dilation[dim], layer.padding[dim]
        reach = dilation * (layer.kernel[dim] - 1)
        axis = 2 + dim
        whole = found.sum(axis, dtype=torch.float64)
        of_taps = []
        for tap in range(layer.kernel[dim]):
            begin = min(length, max(0, dilation * tap - before))
            end = max(begin, min(length, length + dilation * tap + after - reach))
            seen = whole.clone()
            for start, stop in ((0, begin), (end, length)):
                if stop > start:
                    seen -= found.narrow(axis, start, stop - start).sum(axis, dtype=torch.float64)
            of_taps.append(seen)
        # (N, C, dimensions before this, those behind it as taps) gets this one's taps in its place.
        found = torch.stack(of_taps, axis)
    return found.sum(0, dtype=torch.float64)


def _choices(layer: ReadLayer, dim: int, one: int, two: int) -> list[tuple[int, Choice]]:
    """Return what the product of two taps is made of along one dimension, with signs."""
    dilation, (before, after) = layer.dilation[dim], layer.padding[dim]
    reach = dilation * (layer.kernel[dim] - 1)
    found = [(1, (WHOLE, 0, dilation * (two - one)))]
    # Positions from -reach to -before - 1 touch the image, but are no output positions.
    for position in range(-reach, -before):
        a, b = position + dilation * one, position + dilation * two
        if a >= 0 and b >= 0:
            found.append((-1, (FROM_START, a, b)))
    # Neither are those that lie more than `after` behind the last one that leaves no tap outside.
    for behind in range(after + 1, reach + 1):
        a, b = reach - dilation * one - behind, reach - dilation * two - behind
        if a >= 0 and b >= 0:
            found.append((-1, (FROM_END, a, b)))
    return found


def _reaches(layer: ReadLayer) -> list[int]:
    return [dilation * (taps - 1) for dilation, taps in zip(layer.dilation, layer.kernel, strict=True)]


def _ordered(part: Part) -> tuple[Part, bool]:
    """Return the part or its transpose, whichever sorts last, and whether it is the transpose."""
    turned = tuple((kind, 0, -b) if kind == WHOLE else (kind, b, a) for kind, a, b in part)
    return (turned, True) if turned > part else (part, False)


def _lines(choice: Choice, length: int) -> tuple[int | None, int | None] | None:
    """Return the lines on either side, None for a whole dimension; no pair at all if a line lies outside."""
    kind, a, b = choice
    if kind == WHOLE:
        return (None, None) if abs(b) < length else None
    if max(a, b) >= length:
        return None
    return (a, b) if kind == FROM_START else (length - 1 - a, length - 1 - b)


def _laid_out(images: Tensor, lines: tuple[int | None, ...], reaches: list[int]) -> Tensor:
    """Return the image at the given lines, a row per channel, with zeros behind each line that shifts may run into."""
    whole = [dim for dim, line in enumerate(lines) if line is None]
    for dim in reversed(range(len(lines))):
        line = lines[dim]
        if line is not None:
            images = images.select(2 + dim, line)
    sizes = [images.shape[2 + place] + reaches[dim] for place, dim in enumerate(whole)]
    room = images.new_zeros(images.shape[1], images.shape[0], *sizes)
    room[(slice(None), slice(None), *(slice(size) for size in images.shape[2:]))] = images.transpose(0, 1)
    return room.flatten(1)
