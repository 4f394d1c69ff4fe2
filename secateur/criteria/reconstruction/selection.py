"""Which units to keep so that what the next layer gives changes least: two greedy searches on a Gram matrix.

Source: Luo, Wu, Lin 2017, "ThiNet", arXiv:1707.06342, §3.2, and the code of its journal version (TPAMI 2018).
"""

import numpy as np
import torch
from torch import Tensor

from secateur.criteria.reconstruction.statistics import Statistics
from secateur.errors import UsageError

NOTHING = 1e-12
"""Share of the energy of what is rebuilt below which a gain is rounding, so that the lowest index decides."""


def removal_order(gram: Tensor) -> tuple[int, ...]:
    """Return all units in the order in which they go: always the one whose loss hurts least beside those gone.

    With T the units that are gone, the unit j goes next that keeps Σ(Σ_{t∈T} z_t + z_j)² least, which the Gram matrix
    G tells without the rows: up to what is lost already, that is G_jj + 2·Σ_{t∈T} G_jt. Of equals the lowest number
    goes first. Costs O(units²).

    Source: Luo, Wu, Lin 2017, arXiv:1707.06342, §3.2, Algorithm 1, which stops after as many as are to go.

    Args:
        gram: G_uv = Σ z_u·z_v over all rows, shape (units, units), in squared units of the layer's output.

    Raises:
        UsageError: ``gram`` is not square, or not finite.
    """
    check_gram(gram)
    return _first_to_go(gram, len(gram))


def greedy_removal(gram: Tensor, keep: int) -> tuple[int, ...]:
    """Return the ``keep`` units that stay when the others go one by one in the order of :func:`removal_order`.

    Args:
        gram: see there.
        keep: how many units stay, in [1, units].

    Returns:
        Numbers of units, sorted.

    Raises:
        UsageError: ``gram`` is not square or not finite, or so many units cannot stay.
    """
    check_gram(gram)
    check_keep(keep, len(gram))
    gone = set(_first_to_go(gram, len(gram) - keep))
    return tuple(unit for unit in range(len(gram)) if unit not in gone)


def _first_to_go(gram: Tensor, count: int) -> tuple[int, ...]:
    # A step takes NumPy microseconds, and torch's calls ten times as long.
    twice = 2 * gram.detach().to("cpu", torch.float64).numpy()
    cost = twice.diagonal() / 2
    order: list[int] = []
    for _ in range(count):
        unit = int(cost.argmin())
        order.append(unit)
        cost += twice[unit]
        cost[unit] = np.inf
    return tuple(order)


def forward_selection(statistics: Statistics, keep: int) -> tuple[int, ...]:
    """Return ``keep`` units chosen one by one to rebuild the layer's output, all of them fitted anew at each step.

    The residual r begins as the output y itself. The unit j is added that would explain most of it, (z_j·r)²/(z_j·z_j);
    then the weights of all chosen are found again by least squares, and r is what they leave: orthogonal matching
    pursuit. Where nothing is left to gain, the lowest numbers follow, those that give nothing at all last.

    The rows are never needed. Each chosen unit adds one direction, orthogonal to those before, of which the products
    with all z and with y are kept: a Cholesky decomposition of the Gram matrix in the order of the choice. Costs
    O(units·keep²) time and O(units·keep) memory.

    Source: the code of ThiNet's journal version (Luo et al., TPAMI 2018), ``compress_model.py``. Departure: its rows
    are a sample and its fit a pseudo-inverse of their normal matrix; the statistics may come from either.

    Args:
        statistics: of the module that reads the units.
        keep: how many units stay, in [1, units].

    Returns:
        Numbers of units, sorted.

    Raises:
        UsageError: the Gram matrix is not square or not finite, or so many units cannot stay.
    """
    check_gram(statistics.gram)
    gram = statistics.gram.detach().to("cpu", torch.float64)
    units = len(gram)
    check_keep(keep, units)
    own = gram.diagonal().clone()
    with_residual = statistics.cross.detach().to("cpu", torch.float64).clone()  # z_j·r
    directions = torch.zeros(keep, units, dtype=torch.float64)  # z_j·q of each direction q chosen so far
    silent = own <= 0
    gone = torch.zeros(units, dtype=torch.bool)
    least = NOTHING * float(statistics.energy)
    chosen: list[int] = []
    for step in range(keep):
        gain = torch.where(silent, -1.0, with_residual.square() / torch.where(silent, 1.0, own))
        gain[~silent & (gain <= least)] = 0.0
        gain[gone] = -torch.inf
        unit = int(gain.argmax())
        chosen.append(unit)
        gone[unit] = True
        before = directions[:step]
        product = gram[unit] - before[:, unit] @ before
        if product[unit] > NOTHING * own[unit]:  # else it is a mixture of those that are there
            direction = product / product[unit].sqrt()
            with_residual -= direction * (with_residual[unit] / product[unit].sqrt())
            directions[step] = direction
    return tuple(sorted(chosen))


def check_gram(gram: Tensor) -> None:
    """Refuse what is no Gram matrix.

    Raises:
        UsageError: it is not square, or not finite.
    """
    if gram.dim() != 2 or gram.shape[0] != gram.shape[1]:
        raise UsageError(f"a Gram matrix of units is (units, units), but this is {tuple(gram.shape)}")
    if not bool(torch.isfinite(gram).all()):
        raise UsageError("a Gram matrix of units holds NaN or infinity; look for NaN in the model's weights and images")


def check_keep(keep: int, units: int) -> None:
    """Refuse a number of units that cannot stay.

    Raises:
        UsageError: it is not in [1, units].
    """
    if not 1 <= keep <= units:
        raise UsageError(f"{keep} of {units} units cannot be kept; keep between 1 and {units}")
