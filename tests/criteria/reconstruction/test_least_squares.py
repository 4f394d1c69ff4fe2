"""Weights of the units that stay: least squares, exact where nothing is lost, and safe where units repeat."""

import pytest
import torch
from torch import Tensor

from secateur.criteria.reconstruction.statistics import Statistics
from secateur.criteria.reconstruction.weights import best_bias, least_squares, relative_error
from secateur.errors import UsageError

FILTERS, POSITIONS, UNITS = 3, 40, 6


def contributions(seed: int = 0, units: int = UNITS) -> Tensor:
    """Shape (filters, positions, units), with means that differ from filter to filter."""
    draws = torch.Generator().manual_seed(seed)
    z = torch.randn(FILTERS, POSITIONS, units, generator=draws, dtype=torch.float64)
    return z + 2 * torch.randn(FILTERS, 1, units, generator=draws, dtype=torch.float64)


def statistics_of(z: Tensor, target: Tensor | None = None) -> Statistics:
    y = z.sum(2) if target is None else target
    rows = z.flatten(0, 1)
    return Statistics(
        gram=rows.mT @ rows,
        cross=rows.mT @ y.flatten(),
        energy=float(y.square().sum()),
        rows=len(rows),
        sums=z.sum(1),
        target_sums=y.sum(1),
        positions=z.shape[1],
    )


def direct(z: Tensor, y: Tensor, kept: list[int], *, bias: bool) -> tuple[Tensor, Tensor]:
    """Solve for weights, and one constant per filter, on the rows themselves."""
    rows = z.flatten(0, 1)[:, kept]
    ones = torch.eye(FILTERS, dtype=torch.float64).repeat_interleave(POSITIONS, 0)
    solution = torch.linalg.lstsq(torch.cat([rows, ones], 1) if bias else rows, y.flatten()[:, None]).solution[:, 0]
    return solution[: len(kept)], solution[len(kept) :]


@pytest.mark.parametrize("own", [True, False])
def test_weights_are_those_of_the_rows(own: bool) -> None:
    z, kept = contributions(), [0, 2, 5]
    y = z.sum(2) if own else contributions(7).sum(2)
    fit = least_squares(statistics_of(z, y), kept)
    expected, _ = direct(z, y, kept, bias=False)
    torch.testing.assert_close(fit.weights, expected)
    assert fit.bias is None
    assert fit.error == pytest.approx(float((y - z[..., kept] @ expected).square().sum() / y.square().sum()))
    assert fit.error == pytest.approx(relative_error(statistics_of(z, y), kept, expected))


def test_weights_beside_a_free_bias_are_those_of_the_rows() -> None:
    z, kept = contributions(), [1, 2, 3]
    y = contributions(7).sum(2)
    fit = least_squares(statistics_of(z, y), kept, free_bias=True)
    weights, bias = direct(z, y, kept, bias=True)
    torch.testing.assert_close(fit.weights, weights)
    torch.testing.assert_close(fit.bias, bias)
    left = y - z[..., kept] @ weights - bias[:, None]
    assert fit.error == pytest.approx(float(left.square().sum() / y.square().sum()))
    torch.testing.assert_close(left.mean(1), torch.zeros(FILTERS, dtype=torch.float64))


def test_a_bias_alone_gives_each_filter_the_mean_it_had() -> None:
    z, kept = contributions(), [1, 2]
    bias = best_bias(statistics_of(z), kept)
    torch.testing.assert_close((z[..., kept].sum(2) + bias[:, None]).mean(1), z.sum(2).mean(1))
    rebuilt = z[..., kept].sum(2) + bias[:, None]
    expected = float((z.sum(2) - rebuilt).square().sum() / z.sum(2).square().sum())
    assert relative_error(statistics_of(z), kept, free_bias=True) == pytest.approx(expected)


@pytest.mark.parametrize("free_bias", [False, True])
def test_all_units_have_weights_of_exactly_one(free_bias: bool) -> None:
    fit = least_squares(statistics_of(contributions()), range(UNITS), free_bias=free_bias)
    assert torch.equal(fit.weights, torch.ones(UNITS, dtype=torch.float64))
    assert fit.error == pytest.approx(0, abs=1e-13)
    if fit.bias is not None:
        torch.testing.assert_close(fit.bias, torch.zeros(FILTERS, dtype=torch.float64))


def test_units_that_span_the_others_lose_nothing() -> None:
    z = contributions(units=3)
    repeated = torch.cat([z, 2 * z, -z], 2)  # y = 2·z: any three that differ span it
    fit = least_squares(statistics_of(repeated), [0, 4, 8])
    assert fit.error == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(fit.weights, torch.tensor([2.0, 1.0, -2.0], dtype=torch.float64))


def test_units_that_repeat_share_what_is_to_be_gained() -> None:
    """The Gram matrix is singular; of all best weights, those nearest to 1 are taken."""
    z = contributions(units=2)
    repeated = torch.cat([z, z, z], 2)
    fit = least_squares(statistics_of(repeated), [0, 2, 4, 1])
    assert fit.error == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(fit.weights, torch.tensor([1.0, 1.0, 1.0, 3.0], dtype=torch.float64))


def test_units_that_give_nothing_keep_their_weight() -> None:
    z = contributions()
    z[..., [1, 4]] = 0
    fit = least_squares(statistics_of(z), [0, 1, 4, 5])
    assert fit.weights[[1, 2]].tolist() == [1, 1]
    silent = least_squares(statistics_of(torch.zeros(FILTERS, POSITIONS, 2, dtype=torch.float64)), [1])
    assert silent.weights.tolist() == [1]
    assert silent.error == 0


@pytest.mark.parametrize("free_bias", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_fit_never_costs_anything(seed: int, free_bias: bool) -> None:
    z = contributions(seed)
    statistics = statistics_of(z, z.sum(2) + 0.1 * contributions(seed + 50).sum(2))
    for count in range(1, UNITS + 1):
        fit = least_squares(statistics, range(count), free_bias=free_bias)
        assert fit.error <= relative_error(statistics, range(count), free_bias=free_bias) + 1e-12
        assert fit.error <= relative_error(statistics, range(count)) + 1e-12


def test_what_cannot_be_fitted_is_refused() -> None:
    statistics = statistics_of(contributions())
    with pytest.raises(UsageError, match="none of 6 units is kept"):
        least_squares(statistics, [])
    with pytest.raises(UsageError, match="numbered 0 to 5, but unit 6"):
        least_squares(statistics, [0, 6])
    with pytest.raises(UsageError, match="of 2 units to keep only 1 differ"):
        relative_error(statistics, [1, 1])
    with pytest.raises(UsageError, match=r"2 units are kept, but weights has shape \(3,\)"):
        relative_error(statistics, [0, 1], torch.ones(3))
