"""The Gram matrix by materialised rows: right for every layer, in time proportional to the square of its taps."""

import torch
from torch import Tensor

from secateur.criteria.reconstruction.read_layer import CHUNK_ELEMENTS, ReadLayer, by_group, doubles

COPY_MACS = 32  # multiply-adds in the time in which one number is copied, roughly


class Patches:
    """Sums over rows, one per position: P = Σ row·rowᵀ of all taps, from which G = P ∘ WᵀW.

    Takes any stride, groups and padding mode. Per position groups × taps² multiply-adds, and as many numbers of state.
    """

    def __init__(self, layer: ReadLayer, device: torch.device) -> None:
        self._layer = layer
        self._products = doubles(layer.groups, layer.taps, layer.taps, device=device)
        self._sums = doubles(layer.groups, layer.taps, device=device)
        self._correlation: Tensor | None = None  # with a target, (groups, O/groups, taps)

    @staticmethod
    def macs_per_position(layer: ReadLayer) -> int:
        """Return how many multiply-adds one output position takes, copies included as if they were some."""
        return layer.groups * layer.taps * (layer.taps + COPY_MACS)

    @staticmethod
    def state_elements(layer: ReadLayer) -> int:
        """Return how many numbers are kept between batches."""
        return layer.groups * layer.taps * layer.taps

    def add(self, images: Tensor, target: Tensor | None) -> None:
        """Add all positions of ``images``, shape (N, C, *spatial); ``target`` is (N, O, *positions)."""
        layer = self._layer
        if target is not None:
            target = by_group(layer, target)
        for rows, part in layer.rows(layer.padded(images)):
            self._products += rows.mT @ rows
            self._sums += rows.sum(1, dtype=torch.float64)
            if target is not None:
                wanted = target[(slice(None), *part)].reshape(layer.groups, rows.shape[1], -1)
                found = (wanted.mT @ rows).double()
                self._correlation = found if self._correlation is None else self._correlation.add_(found)

    def gram(self) -> Tensor:
        """Return Σ z_u·z_v, shape (U, U)."""
        layer = self._layer
        channels = layer.weight.shape[2]
        gram = self._sums.new_zeros(layer.size, layer.size)
        for group, products in enumerate(self._products):
            weight = layer.weight[group].flatten(1).to(products)  # (O/groups, taps)
            width = layer.taps // channels
            of_group = products.new_empty(channels, channels)
            # In blocks, for taps² numbers once more are too many; below the diagonal by symmetry.
            at_once = max(1, CHUNK_ELEMENTS // (4 * width * layer.taps))
            for first in range(0, channels, at_once):
                taps, rest = slice(first * width, (first + at_once) * width), slice(first * width, None)
                block = products[taps, rest] * (weight[:, taps].T @ weight[:, rest])
                block = block.reshape(-1, width, channels - first, width).sum((1, 3))
                of_group[first : first + at_once, first:] = block
                of_group[first:, first : first + at_once] = block.T
            _add_group(gram, of_group, layer.units[group * channels : (group + 1) * channels])
        return gram

    def sums(self) -> Tensor:
        """Return Σ z_u of each filter, shape (O, U)."""
        return per_filter(self._layer, self._sums[:, None])

    def cross(self) -> Tensor:
        """Return Σ z_u·y, shape (U,), with a target given from outside."""
        assert self._correlation is not None
        return per_filter(self._layer, self._correlation).sum(0)


def per_filter(layer: ReadLayer, of_taps: Tensor) -> Tensor:
    """Return Σ_k W[o,c,k]·of_taps[o,c,k] of each filter, summed over the channels of each unit, shape (O, U).

    Args:
        layer: the layer.
        of_taps: float64, shape (groups, O/groups or 1, taps).
    """
    channels = layer.weight.shape[2]
    found = of_taps.new_zeros(layer.filters, layer.size)
    filters = layer.weight.shape[1]
    for group in range(layer.groups):
        units = layer.units[group * channels : (group + 1) * channels]
        kept = units >= 0
        of_group = layer.weight[group].reshape(filters, -1).to(of_taps) * of_taps[group]
        of_channels = of_group.reshape(filters, channels, -1).sum(2)
        rows = found[group * filters : (group + 1) * filters]
        rows.index_add_(1, units[kept], of_channels[:, kept])
    return found


def _add_group(gram: Tensor, of_channels: Tensor, units: Tensor) -> None:
    """Add the Gram matrix of a group's channels, shape (C, C), at the units of the channels."""
    kept = (units >= 0).nonzero().squeeze(1)
    units = units[kept]
    by_row = gram.new_zeros(gram.shape[0], len(kept)).index_add_(0, units, of_channels[kept][:, kept])
    gram.index_add_(1, units, by_row)
