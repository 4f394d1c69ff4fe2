"""How the values at one site are spread: counted exactly while images stream by, in a memory that does not grow.

The bins of |x| are as wide as a power of two, such that the largest value seen lies in bin 2,048 to 4,095. A larger
value doubles the width as often as needed, and merges bins in pairs. Multiplying by a power of two is exact, so the
counts depend on the values alone: on no order, no partition into batches, and no share-out over processes.

This differs from NVIDIA's histogram (2,048 bins up to the largest value of the first batch; later batches append bins
of the same width, without bound), whose bins depend on which batch came first and grow with an outlier. Here there are
never fewer bins below the largest value, and never twice as many.

Every value is counted, none is sampled: bin numbers of 16 bits make ``torch.bincount`` fast enough. On one thread an
element takes 1.6 ns (``torch.histc``, which NVIDIA's code uses, 5.8 ns; 64-bit bin numbers 2.0 to 2.5 ns). A sample of
every seventh value would take 1.0 ns, because finding the lowest and highest value and the cost of each call remain,
and moves percentiles by up to 5 % (``benchmarks/calibration.py``, part ``counting``).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from secateur.errors import QuantizationError

BINS = 4096  # on each side of zero
_BITS = 12
_FINEST = -24 - 11  # exponent of the narrowest bins: 2,048 of them reach 2^-24, below which all becomes zero anyway
_CHUNK = 1 << 18  # values at a time, so that what is made of them stays in the cache


class RangeHistogram:
    """Counts of the values at one site, and their exact lowest and highest.

    Attributes:
        site: where the values come from, for messages.
        lowest: the lowest value so far; +∞ before any.
        highest: the highest value so far; −∞ before any.
    """

    def __init__(self, site: str = "a tensor") -> None:
        self.site = site
        self.lowest = math.inf
        self.highest = -math.inf
        self._exponent = _FINEST
        # Place BINS + j counts values in [j, j + 1) widths; place BINS − 1 − j those in (−j − 1, −j], without −0.
        self._counts = torch.zeros(2 * BINS, dtype=torch.int64)

    def update(self, x: Tensor) -> None:
        """Count all values of a tensor of any shape, floating type, memory format and device.

        Raises:
            QuantizationError: there are NaN or infinite values; nothing of ``x`` is counted then.
        """
        if x.numel() == 0:
            return
        flat = _flat(x.detach().float())
        lowest, highest = torch.stack(torch.aminmax(flat)).tolist()
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            kind = "NaN" if math.isnan(lowest) or math.isnan(highest) else "infinite values"
            raise QuantizationError(
                f"{self.site} gives {kind} on a calibration image (shape {tuple(x.shape)}), so that no range fits; "
                "look at the image and at the weights before this place"
            )
        self._see(lowest, highest)
        counts: Tensor | None = None
        for chunk in torch.split(flat, _CHUNK):
            places = chunk.mul(2.0**-self._exponent).to(torch.int16)  # towards zero, exactly
            if lowest < 0:
                # The sign bit, of −0 made 0: half the time of a comparison, which gives bytes.
                places.add_((chunk + 0.0).view(torch.int32).bitwise_right_shift_(31).to(torch.int16))
            found = torch.bincount(places.add_(BINS), minlength=2 * BINS)
            counts = found if counts is None else counts.add_(found)
        if counts is not None:
            self._counts += counts.cpu()

    def merge(self, other: "RangeHistogram") -> None:
        """Count also what another histogram counted; ``other`` stays as it is."""
        if other.count:
            self._see(other.lowest, other.highest)
            self._counts += _widened(other._counts, self._exponent - other._exponent)

    def reduce_(self) -> None:
        """Count what all processes of ``torch.distributed`` counted, in every one of them (see :func:`reduce_all_`)."""
        reduce_all_([self])

    @property
    def count(self) -> int:
        """How many values were counted."""
        return int(self._counts.sum())

    @property
    def reach(self) -> float:
        """The largest |x|; 0 before any value."""
        return max(-self.lowest, self.highest) if self.count else 0.0

    @property
    def width(self) -> float:
        """The width of a bin, in the unit of the values: a power of two."""
        return float(2.0**self._exponent)

    @property
    def below(self) -> NDArray[np.int64]:
        """Counts of x < 0 by |x|: bin j holds widths [j, j + 1); as many bins as reach the largest |x|."""
        return self._counts[:BINS].flip(0)[: self._bins()].numpy()

    @property
    def above(self) -> NDArray[np.int64]:
        """Counts of x ≥ 0, in the bins of :attr:`below`."""
        return self._counts[BINS:][: self._bins()].numpy().copy()

    @property
    def magnitudes(self) -> NDArray[np.int64]:
        """Counts of |x|, in the bins of :attr:`below`."""
        return self.below + self.above

    def state(self) -> dict[str, Tensor]:
        """Return everything but the site as tensors, for a checkpoint."""
        numbers = torch.tensor([self.lowest, self.highest, self._exponent], dtype=torch.float64)
        return {"counts": self._counts.clone(), "numbers": numbers}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], *, site: str = "a tensor") -> Self:
        """Return the histogram of :meth:`state`."""
        found = cls(site)
        found.lowest, found.highest = state["numbers"][:2].tolist()
        found._exponent = int(state["numbers"][2])
        found._counts = state["counts"].clone()
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON: lowest and highest value, width of a bin, and counts on either side of zero."""
        ends = {"lowest": self.lowest, "highest": self.highest} if self.count else {"lowest": None, "highest": None}
        return {
            "site": self.site,
            **ends,
            "width": self.width,
            "below": self.below.tolist(),
            "above": self.above.tolist(),
        }

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Self:
        """Return the histogram of :meth:`to_json`.

        Raises:
            QuantizationError: the counts do not fit the other numbers.
        """
        found = cls(written["site"])
        if written["lowest"] is not None:
            found._see(written["lowest"], written["highest"])
        below, above = (torch.tensor(written[side], dtype=torch.int64) for side in ("below", "above"))
        if found.width != written["width"] or {len(below), len(above)} != {found._bins()}:
            raise QuantizationError(
                f"the histogram of {found.site} has {len(below)} and {len(above)} bins of width {written['width']}, "
                f"but for its range {found._bins()} of width {found.width} were expected; calibrate again"
            )
        found._counts[BINS : BINS + len(above)] = above
        found._counts[BINS - len(below) : BINS] = below.flip(0)
        return found

    def _see(self, lowest: float, highest: float) -> None:
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
        exponent = max(_FINEST, math.frexp(max(-self.lowest, self.highest))[1] - _BITS)
        self._counts = _widened(self._counts, exponent - self._exponent)
        self._exponent = exponent

    def _bins(self) -> int:
        if self.lowest > self.highest:
            return 0
        return int(max(-self.lowest, self.highest) / self.width) + 1


def reduce_all_(histograms: Iterable[RangeHistogram]) -> None:
    """Make each histogram count what all processes counted, as if one had seen all images.

    Every process calls it with the same sites in the same order. Without ``torch.distributed``, or alone, nothing is
    done. Two collectives in all, of 64 KB per site.
    """
    every: Sequence[RangeHistogram] = list(histograms)
    if not every or not distributed.is_available() or not distributed.is_initialized():
        return
    device = torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
    ends = torch.tensor([[-one.lowest, one.highest] for one in every], dtype=torch.float64, device=device)
    distributed.all_reduce(ends, op=distributed.ReduceOp.MAX)
    for one, (negated, highest) in zip(every, ends.tolist(), strict=True):
        if math.isfinite(highest):  # otherwise nobody saw a value
            one._see(-negated, highest)
    counts = torch.stack([one._counts for one in every]).to(device)
    distributed.all_reduce(counts)
    for one, row in zip(every, counts.cpu(), strict=True):
        one._counts = row.clone()


def _flat(x: Tensor) -> Tensor:
    """Return all values in the order of memory, so that channels-last tensors are not copied."""
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    return x.permute(order).reshape(-1)


def _widened(counts: Tensor, doublings: int) -> Tensor:
    """Merge bins in pairs, as many times as told."""
    if doublings == 0:
        return counts
    # Twelve merge all bins of a side into its first; more change nothing.
    size = 1 << min(doublings, _BITS)
    wide = torch.zeros_like(counts)
    bins = BINS // size
    wide[BINS : BINS + bins] = counts[BINS:].view(bins, size).sum(1)
    wide[BINS - bins : BINS] = counts[:BINS].view(bins, size).sum(1)
    return wide
