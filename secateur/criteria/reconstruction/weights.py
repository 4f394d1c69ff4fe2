"""How the units that stay are best weighted to rebuild what all of them gave: least squares on a Gram matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.criteria.reconstruction.selection import NOTHING, check_gram
from secateur.criteria.reconstruction.statistics import Statistics
from secateur.errors import UsageError

CUT_OFF = 1e-7
"""Of the largest eigenvalue: directions with less energy are left as they are. Sums of products of single precision
carry that much noise, which a smaller value would turn into large weights of both signs."""


@dataclass(frozen=True, eq=False)
class Fit:
    """The weights of the units that stay.

    Attributes:
        weights: w, what the input channels of each kept unit are multiplied by, shape (kept,), float64, no unit.
        bias: what is added to each output filter, shape (filters,), float64, in units of the output; None where none
            was asked for.
        error: Σ(y − Σ w·z − bias)² / Σy² over all rows, at least 0.
    """

    weights: Tensor
    bias: Tensor | None
    error: float


def least_squares(statistics: Statistics, kept: Sequence[int], *, free_bias: bool = False) -> Fit:
    """Return the weights with which the units ``kept`` rebuild the output best, in the sense of squared errors.

    What is solved for is the correction w − 1, in the directions that carry energy alone. Of all best weights, those
    nearest to 1 are returned: where nothing is to be gained, as with all units there, w is exactly 1; a unit that
    equals another one shares the load with it; and a singular Gram matrix is as good as any.

    Source: Luo, Wu, Lin 2017, arXiv:1707.06342, §3.3, Eq. 7: w = (XᵀX)⁻¹Xᵀy. Departure: their inverse does not exist
    where units depend on one another.

    Args:
        statistics: of the module that reads the units.
        kept: numbers of the units that stay, in the order of the weights that are returned.
        free_bias: also find what is best added to each output filter. Its best value has a closed form for any w, so
            w is fitted to what is left when the means are taken away.

    Raises:
        UsageError: a unit is out of range or named twice, none stays, or the Gram matrix is not finite.
    """
    fitted = _checked(statistics, kept, free_bias=free_bias)
    index = torch.as_tensor(list(kept), dtype=torch.long)
    gram = fitted.gram.to("cpu", torch.float64)[index][:, index]
    cross = fitted.cross.to("cpu", torch.float64)[index]
    weights = torch.ones(len(index), dtype=torch.float64)
    energy = float(statistics.energy)
    before = _squared_error(gram, cross, float(fitted.energy), weights)
    if before > NOTHING * energy:
        values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
        there = values > CUT_OFF * float(values[-1]) if float(values[-1]) > 0 else torch.zeros_like(values).bool()
        directions = vectors[:, there]
        lacking = directions.mT @ (cross - gram @ weights)
        better = weights + directions @ (lacking / values[there])
        # Rounding may cost what a fit with next to nothing to gain would give.
        if _squared_error(gram, cross, float(fitted.energy), better) < before:
            weights = better
    error = _share(_squared_error(gram, cross, float(fitted.energy), weights), energy)
    return Fit(weights, best_bias(statistics, kept, weights) if free_bias else None, error)


def relative_error(
    statistics: Statistics, kept: Sequence[int], weights: Tensor | None = None, *, free_bias: bool = False
) -> float:
    """Return Σ(y − Σ_{u kept} w_u·z_u)² / Σy² over all rows, at least 0; 0 where y is 0 throughout.

    Args:
        statistics: of the module that reads the units.
        kept: numbers of the units that stay.
        weights: w, shape (kept,); None weights all with 1.
        free_bias: with the best bias of each output filter added.

    Raises:
        UsageError: a unit is out of range or named twice, none stays, the Gram matrix is not finite, or there are not
            as many weights as units.
    """
    fitted = _checked(statistics, kept, free_bias=free_bias)
    index = torch.as_tensor(list(kept), dtype=torch.long)
    chosen = _as_given(weights, len(index))
    gram = fitted.gram.to("cpu", torch.float64)[index][:, index]
    cross = fitted.cross.to("cpu", torch.float64)[index]
    return _share(_squared_error(gram, cross, float(fitted.energy), chosen), float(statistics.energy))


def best_bias(statistics: Statistics, kept: Sequence[int], weights: Tensor | None = None) -> Tensor:
    """Return what each output filter lacks on average: (Σy − Σ_u w_u·Σz_u) / positions, shape (filters,), float64.

    Args:
        statistics: of the module that reads the units.
        kept: numbers of the units that stay.
        weights: w, shape (kept,); None weights all with 1.

    Raises:
        UsageError: as :func:`relative_error`.
    """
    _checked(statistics, kept, free_bias=False)
    index = torch.as_tensor(list(kept), dtype=torch.long)
    chosen = _as_given(weights, len(index))
    given = statistics.sums.to("cpu", torch.float64)[:, index] @ chosen
    return (statistics.target_sums.to("cpu", torch.float64) - given) / max(statistics.positions, 1)


def _as_given(weights: Tensor | None, count: int) -> Tensor:
    if weights is None:
        return torch.ones(count, dtype=torch.float64)
    if weights.shape != (count,):
        raise UsageError(f"{count} units are kept, but weights has shape {tuple(weights.shape)}; give one weight each")
    return weights.detach().to("cpu", torch.float64)


def _checked(statistics: Statistics, kept: Sequence[int], *, free_bias: bool) -> Statistics:
    check_gram(statistics.gram)
    units = len(statistics.gram)
    if not kept:
        raise UsageError(f"none of {units} units is kept, so nothing can be rebuilt; keep at least one")
    wrong = [unit for unit in kept if not 0 <= unit < units]
    if wrong:
        raise UsageError(f"units are numbered 0 to {units - 1}, but unit {wrong[0]} is to be kept")
    if len(set(kept)) < len(kept):
        raise UsageError(f"of {len(kept)} units to keep only {len(set(kept))} differ; name each once")
    return statistics.centred() if free_bias else statistics


def _squared_error(gram: Tensor, cross: Tensor, energy: float, weights: Tensor) -> float:
    return energy - 2 * float(weights @ cross) + float(weights @ gram @ weights)


def _share(error: float, energy: float) -> float:
    """Return an error as a share of the energy; rounding may make a perfect fit slightly better than that."""
    return max(error, 0.0) / energy if energy > 0 else 0.0
