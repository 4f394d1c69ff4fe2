"""How much each layer alone bears, and how much of each goes so that all bear alike."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from secateur.errors import BudgetError
from secateur.record import Evaluation, WeightScan
from secateur.sparse import Masks
from secateur.training import Task

HALVINGS = 60  # of an interval in [0, 1]: down to the last bit of a share


@dataclass(frozen=True)
class Tolerances:
    """The largest share of each layer that may go for a given loss of accuracy, from scans of single layers.

    Between the shares that were looked at the loss of accuracy is taken to be linear, and never to fall as more goes;
    with the whole layer gone all accuracy is lost.

    Attributes:
        knots: weight → (share gone, loss of accuracy in [0, 1]), both ascending, from (present share, 0) to (1, 1).
        sizes: weight → its number of entries.
    """

    knots: Mapping[str, tuple[tuple[float, float], ...]]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, scans: Sequence[WeightScan], sizes: Mapping[str, int], gone: Mapping[str, float]) -> "Tolerances":
        """Read the scans of all layers.

        Args:
            scans: one of each layer.
            sizes: of the weights.
            gone: share of each weight that was gone before.
        """
        knots: dict[str, tuple[tuple[float, float], ...]] = {}
        for scan in scans:
            worst, found = 0.0, [(gone[scan.layer], 0.0)]
            for share, score in zip(scan.shares, scan.scores, strict=True):
                worst = max(worst, scan.dense - score)
                found.append((share, worst))
            knots[scan.layer] = (*found, (1.0, max(1.0, worst)))
        return cls(knots, sizes)

    def shares(self, tolerance: float, *, strictly: bool = False) -> dict[str, float]:
        """Return the largest share of each layer whose loss is at most ``tolerance``, or below it if ``strictly``."""
        return {name: _crossing(knots, tolerance, strictly=strictly) for name, knots in self.knots.items()}

    def left(self, shares: Mapping[str, float]) -> int:
        """Return how many weights stay; every layer keeps one."""
        return sum(max(1, size - round(shares[name] * size)) for name, size in self.sizes.items())

    def to_budget(self, allowed: int) -> tuple[dict[str, float], float]:
        """Return shares that leave at most ``allowed`` weights, and the loss that every layer alone may have for it.

        Where that loss leaves some layers a range of shares, all go the same part of their range.

        Raises:
            BudgetError: every layer keeps one weight, and these are too many.
        """
        if len(self.sizes) > allowed:
            raise BudgetError(
                f"{allowed:,} weights may stay, but each of {len(self.sizes)} layers keeps one; allow more"
            )
        low, high = 0.0, 1.0
        if self.left(self.shares(0.0)) > allowed:
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                low, high = (low, middle) if self.left(self.shares(middle)) <= allowed else (middle, high)
        else:
            high = 0.0
        least, most = self.shares(high, strictly=True), self.shares(high)
        start, end = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (start + end) / 2
            start, end = (start, middle) if self.left(_between(least, most, middle)) <= allowed else (middle, end)
        return _between(least, most, end), high


def scan_layer(
    task: Task,
    model: nn.Module,
    candidates: Mapping[float, Masks],
    *,
    name: str,
    number: int,
    dense: Evaluation,
) -> WeightScan:
    """Evaluate the model with one layer pruned by each of several masks; it is afterwards as it was.

    Source: Han et al. 2015, arXiv:1506.02626, §4.2 and Figure 6 (there without retraining, one layer at a time).

    Args:
        task: evaluates on the validation split.
        model: with what earlier rounds removed at zero.
        candidates: share of the layer that is gone → masks of the whole model.
        name: of the layer's weight.
        number: of the round.
        dense: of ``model`` as it is.
    """
    parameter = dict(model.named_parameters(remove_duplicate=False))[name]
    before = parameter.detach().clone()
    found: list[tuple[float, Evaluation]] = []
    try:
        for share in sorted(candidates):
            Masks({name: candidates[share][name]}).apply_(model)
            found.append((share, task.evaluate(model)))
            with torch.no_grad():
                parameter.copy_(before)
    finally:
        with torch.no_grad():
            parameter.copy_(before)
    return WeightScan(
        round=number,
        layer=name,
        shares=tuple(share for share, _ in found),
        scores=tuple(result.score for _, result in found),
        losses=tuple(result.loss for _, result in found),
        dense=dense.score,
    )


def _crossing(knots: Sequence[tuple[float, float]], tolerance: float, *, strictly: bool) -> float:
    """Return the largest share whose loss is at most ``tolerance``, or where it first comes to be that."""
    share = knots[0][0]
    for (left, low), (right, high) in itertools.pairwise(knots):
        if high < tolerance or (high == tolerance and not strictly):
            share = right
            continue
        if low < tolerance:
            share = left + (right - left) * (tolerance - low) / (high - low)
        elif low == tolerance and not strictly:
            share = left
        break
    return share


def _between(least: Mapping[str, float], most: Mapping[str, float], part: float) -> dict[str, float]:
    return {name: least[name] + part * (most[name] - least[name]) for name in most}
