"""The Gram matrix by the contributions themselves: for layers that read many columns at few positions."""

import torch
from torch import Tensor

from secateur.criteria.reconstruction.patches import COPY_MACS
from secateur.criteria.reconstruction.read_layer import CHUNK_ELEMENTS, ReadLayer, by_group, doubles

ROWS_AT_ONCE = 256


class Contributions:
    """Sums over z, materialised for some rows and filters at a time.

    Takes every layer. Per position O × (taps + U²) multiply-adds; keeps U² numbers, however many columns there are: 512
    units of 49 columns would be 25,088² numbers of products of columns, 5 GB.
    """

    def __init__(self, layer: ReadLayer, device: torch.device) -> None:
        self._layer = layer
        self._places = [
            _Places(layer.units[part], layer.taps)
            for part in torch.arange(len(layer.units), device=layer.units.device).chunk(layer.groups)
        ]
        self._gram = doubles(layer.size, layer.size, device=device)
        self._sums = doubles(layer.filters, layer.size, device=device)
        self._cross = doubles(layer.size, device=device)

    @staticmethod
    def macs_per_position(layer: ReadLayer) -> int:
        """Return how many multiply-adds one output position takes, copies included as if they were some."""
        units = min(layer.size, layer.weight.shape[2])
        return layer.filters * (layer.taps + units * (units + COPY_MACS)) + layer.groups * layer.taps * COPY_MACS

    @staticmethod
    def state_elements(layer: ReadLayer) -> int:
        """Return how many numbers are kept between batches."""
        return layer.size * (layer.size + layer.filters)

    def add(self, images: Tensor, target: Tensor | None) -> None:
        """Add all positions of ``images``, shape (N, C, *spatial); ``target`` is (N, O, *positions)."""
        layer = self._layer
        if target is not None:
            target = by_group(layer, target)
        for rows, part in layer.rows(layer.padded(images)):
            wanted = None
            if target is not None:
                wanted = target[(slice(None), *part)].reshape(layer.groups, rows.shape[1], -1)
            for group in range(layer.groups):
                for first in range(0, rows.shape[1], ROWS_AT_ONCE):
                    some = slice(first, first + ROWS_AT_ONCE)
                    self._add_group(group, rows[group, some], None if wanted is None else wanted[group, some])

    def gram(self) -> Tensor:
        """Return Σ z_u·z_v, shape (U, U)."""
        return self._gram.clone()

    def sums(self) -> Tensor:
        """Return Σ z_u of each filter, shape (O, U)."""
        return self._sums.clone()

    def cross(self) -> Tensor:
        """Return Σ z_u·y, shape (U,), with a target given from outside."""
        return self._cross.clone()

    def _add_group(self, group: int, rows: Tensor, target: Tensor | None) -> None:
        """Add rows, shape (R, taps), of one group of the convolution; ``target`` is (R, O/groups)."""
        places = self._places[group]
        if len(places.units) == 0:
            return
        weight = self._layer.weight[group].flatten(1).to(rows.dtype)  # (O/groups, taps)
        read = places.gather(rows).permute(1, 0, 2)  # (U', R, places)
        per_filter = len(places.units) * max(len(rows), places.table.shape[1])
        filters_at_once = max(1, CHUNK_ELEMENTS // per_filter)
        square = torch.outer(places.units * self._layer.size, torch.ones_like(places.units)) + places.units
        for first in range(0, len(weight), filters_at_once):
            some = slice(first, first + filters_at_once)
            z = read @ places.gather(weight[some]).permute(1, 2, 0)  # (U', R, O')
            of_filters = torch.arange(len(weight), device=rows.device)[some] + group * len(weight)
            self._sums[of_filters[:, None], places.units] += z.sum(1, dtype=torch.float64).T
            if target is not None:
                self._cross[places.units] += (z.flatten(1) @ target[:, some].flatten()).double()
            z = z.flatten(1)
            self._gram.view(-1)[square] += (z @ z.T).double()


class _Places:
    """Which taps of a row belong to which unit: a table of as many columns as the largest unit has taps."""

    def __init__(self, units: Tensor, taps: int) -> None:
        """Make the table; ``units`` are those of the channels that the row holds, -1 for none."""
        per_channel = taps // len(units)
        of_taps = units.repeat_interleave(per_channel)
        order = torch.argsort(of_taps, stable=True)
        order = order[of_taps[order] >= 0]
        self.units, counts = torch.unique_consecutive(of_taps[order], return_counts=True)
        begins = counts.cumsum(0) - counts
        widest = int(counts.max()) if len(counts) else 0
        places = torch.arange(widest, device=units.device).expand(len(counts), -1)
        self._filled: Tensor = places < counts[:, None]
        self.table: Tensor = order[(begins[:, None] + places).clamp(max=max(0, len(order) - 1))]
        self._even = bool(self._filled.all())
        self._in_order = self._even and torch.equal(self.table.flatten(), torch.arange(taps, device=units.device))

    def gather(self, rows: Tensor) -> Tensor:
        """Return ``rows``, shape (R, taps), by unit, shape (R, U', widest), with zeros where a unit has fewer taps."""
        if self._in_order:
            return rows.reshape(len(rows), *self.table.shape)
        found = rows[:, self.table]
        return found if self._even else found * self._filled
