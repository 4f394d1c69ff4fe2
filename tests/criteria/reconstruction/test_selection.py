"""Greedy searches on a Gram matrix choose what the same searches on the rows choose."""

import pytest
import torch
from torch import Tensor

from secateur.criteria.reconstruction.selection import forward_selection, greedy_removal, removal_order
from secateur.criteria.reconstruction.statistics import Statistics
from secateur.errors import UsageError

UNITS = 9


def rows_of(seed: int, units: int = UNITS, count: int = 60) -> Tensor:
    """Contributions that lean on one another, of very different size."""
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, units, generator=draws, dtype=torch.float64)
    mixed = rows @ torch.randn(units, units, generator=draws, dtype=torch.float64)
    return mixed * torch.rand(units, generator=draws, dtype=torch.float64).exp()


def statistics_of(rows: Tensor, target: Tensor | None = None) -> Statistics:
    """One filter, every row a position."""
    y = rows.sum(1) if target is None else target
    return Statistics(
        gram=rows.mT @ rows,
        cross=rows.mT @ y,
        energy=float(y @ y),
        rows=len(rows),
        sums=rows.sum(0, keepdim=True),
        target_sums=y.sum().reshape(1),
        positions=len(rows),
    )


def removed_by_hand(rows: Tensor, keep: int) -> tuple[int, ...]:
    """ThiNet's Algorithm 1, on the rows themselves."""
    gone: list[int] = []
    while rows.shape[1] - len(gone) > keep:
        left = [unit for unit in range(rows.shape[1]) if unit not in gone]
        gone.append(min(left, key=lambda unit: float(rows[:, [*gone, unit]].sum(1).square().sum())))
    return tuple(unit for unit in range(rows.shape[1]) if unit not in gone)


def pursued_by_hand(rows: Tensor, y: Tensor, keep: int) -> tuple[int, ...]:
    """Orthogonal matching pursuit, on the rows themselves."""
    chosen: list[int] = []
    residual = y
    while len(chosen) < keep:
        left = [unit for unit in range(rows.shape[1]) if unit not in chosen]
        chosen.append(max(left, key=lambda unit: float((rows[:, unit] @ residual) ** 2 / rows[:, unit].square().sum())))
        weights = torch.linalg.lstsq(rows[:, chosen], y[:, None]).solution
        residual = y - (rows[:, chosen] @ weights).squeeze(1)
    return tuple(sorted(chosen))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("keep", [1, 4, UNITS - 1, UNITS])
def test_greedy_removal_on_the_gram_matrix_is_greedy_removal_on_the_rows(seed: int, keep: int) -> None:
    rows = rows_of(seed)
    assert greedy_removal(rows.mT @ rows, keep) == removed_by_hand(rows, keep)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("keep", [1, 4, UNITS - 1, UNITS])
@pytest.mark.parametrize("own", [True, False])
def test_forward_selection_is_orthogonal_matching_pursuit_on_the_rows(seed: int, keep: int, own: bool) -> None:
    rows = rows_of(seed)
    y = rows.sum(1) if own else rows_of(seed + 100).sum(1)
    found = forward_selection(statistics_of(rows, None if own else y), keep)
    assert found == pursued_by_hand(rows, y, keep)


def test_greedy_removal_by_hand() -> None:
    # Alone, unit 2 costs least (1); beside it, unit 0 costs 9 + 1 − 2·3 = 4 in all and unit 1 costs 4 + 1 = 5.
    gram = torch.tensor([[9.0, 0.0, -3.0], [0.0, 4.0, 0.0], [-3.0, 0.0, 1.0]], dtype=torch.float64)
    assert removal_order(gram) == (2, 0, 1)
    assert greedy_removal(gram, 1) == (1,)
    assert greedy_removal(gram, 3) == (0, 1, 2)


def test_of_equal_units_the_lowest_goes_first_and_the_lowest_is_chosen_first() -> None:
    rows = torch.eye(4, dtype=torch.float64)
    assert removal_order(rows) == (0, 1, 2, 3)
    assert forward_selection(statistics_of(rows), 2) == (0, 1)


def test_units_that_give_nothing_are_chosen_last_and_removed_first() -> None:
    rows = rows_of(0)
    rows[:, [0, 3]] = 0
    assert removal_order(rows.mT @ rows)[:2] == (0, 3)
    assert set(forward_selection(statistics_of(rows), UNITS - 2)).isdisjoint({0, 3})
    assert forward_selection(statistics_of(rows), UNITS - 1) == (0, 1, 2, 4, 5, 6, 7, 8)
    assert forward_selection(statistics_of(torch.zeros(5, 3, dtype=torch.float64)), 2) == (0, 1)


def test_a_unit_that_equals_a_chosen_one_is_not_chosen_before_others() -> None:
    """A singular Gram matrix is as good as any."""
    rows = rows_of(3, units=4)
    doubled = torch.cat([rows, rows], 1)
    first = forward_selection(statistics_of(doubled), 4)
    assert sorted(unit % 4 for unit in first) == [0, 1, 2, 3]
    assert forward_selection(statistics_of(doubled), 8) == tuple(range(8))


@pytest.mark.parametrize("keep", [0, 5])
def test_so_many_units_cannot_stay(keep: int) -> None:
    with pytest.raises(UsageError, match=f"{keep} of 4 units cannot be kept; keep between 1 and 4"):
        greedy_removal(torch.eye(4), keep)
    with pytest.raises(UsageError, match=f"{keep} of 4 units cannot be kept; keep between 1 and 4"):
        forward_selection(statistics_of(torch.eye(4, dtype=torch.float64)), keep)


def test_what_is_no_gram_matrix_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\(units, units\), but this is \(2, 3\)"):
        removal_order(torch.ones(2, 3))
    with pytest.raises(UsageError, match="NaN or infinity"):
        greedy_removal(torch.full((2, 2), torch.nan), 1)
