"""Every criterion's function, worked by hand on two or three channels."""

import pytest
import torch

from secateur.criteria import (
    CRITERIA,
    Criterion,
    activation_taylor,
    apoz,
    fisher,
    gate_taylor,
    geometric_median_distance,
    l1_norm,
    l2_norm,
    lamp,
    mean_activation,
    scale_size,
    weight_taylor,
)
from secateur.errors import UsageError

# Two samples, two channels, two positions.
ACTIVATIONS = torch.tensor([[[1.0, 3.0], [0.0, 2.0]], [[0.0, 0.0], [4.0, -2.0]]])
GRADIENTS = torch.tensor([[[2.0, -1.0], [5.0, 1.0]], [[7.0, 7.0], [0.5, 2.0]]])


def test_norms_by_hand() -> None:
    slices = torch.tensor([[3.0, -4.0], [0.0, 0.5]])
    torch.testing.assert_close(l1_norm(slices), torch.tensor([7.0, 0.5]))
    torch.testing.assert_close(l2_norm(slices), torch.tensor([5.0, 0.5]))
    torch.testing.assert_close(scale_size(torch.tensor([[-0.5], [2.0]])), torch.tensor([0.5, 2.0]))


def test_geometric_median_by_hand() -> None:
    slices = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])  # distances 5, 3 and 4
    expected = torch.tensor([8.0, 9.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(geometric_median_distance(slices), expected)


def test_equal_filters_are_the_nearest_to_the_others_however_large_they_are() -> None:
    """The smallest norm does not decide: the filter in the middle goes, and equal filters score alike."""
    slices = torch.tensor([[10.0, 0.0], [10.0, 0.0], [0.1, 0.0], [30.0, 0.0]])
    scores = geometric_median_distance(slices)
    assert scores[0] == scores[1] == scores.min()
    assert l1_norm(slices).argmin() == 2


def test_lamp_by_hand() -> None:
    slices = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 0.0]])  # squared norms 4, 1, 4, 0
    expected = torch.tensor([4 / 8, 1 / 9, 4 / 4, 0.0], dtype=torch.float64)
    torch.testing.assert_close(lamp(slices), expected)
    assert torch.equal(lamp(torch.zeros(3, 2)), torch.zeros(3, dtype=torch.float64))


def test_lamp_does_not_see_the_scale_of_a_layer_but_keeps_its_order() -> None:
    slices = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lamp(slices), lamp(1000 * slices))
    assert torch.equal(lamp(slices).argsort(), l2_norm(slices).argsort())
    assert lamp(slices).max() == 1


def test_taylor_of_gates_and_weights_by_hand() -> None:
    values, gradients = torch.tensor([[2.0, -1.0], [3.0, 1.0]]), torch.tensor([[-3.0, 1.0], [1.0, 2.0]])
    torch.testing.assert_close(gate_taylor(values, gradients), torch.tensor([7.0, 5.0]))
    torch.testing.assert_close(weight_taylor(values, gradients), torch.tensor([49.0, 25.0]))


def test_taylor_of_activations_by_hand() -> None:
    # Products: sample 1 (2, −3) and (0, 2); sample 2 (0, 0) and (2, −4). Means −½, 1; 0, −1. Sums −1, 2; 0, −2.
    torch.testing.assert_close(activation_taylor(ACTIVATIONS, GRADIENTS), torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(fisher(ACTIVATIONS, GRADIENTS), torch.tensor([0.25, 2.0]))


def test_samples_do_not_cancel_but_positions_do() -> None:
    ones = torch.ones(2, 1, 2)
    assert activation_taylor(ones, torch.tensor([[[1.0, 1.0]], [[-1.0, -1.0]]])) == 1
    assert activation_taylor(ones, torch.tensor([[[1.0, -1.0]], [[-1.0, 1.0]]])) == 0


def test_activations_by_hand() -> None:
    torch.testing.assert_close(apoz(ACTIVATIONS), torch.tensor([0.5, 0.75]).double())
    torch.testing.assert_close(mean_activation(ACTIVATIONS), torch.tensor([1.0, 2.0]))


def test_a_channel_that_is_always_zero_is_the_first_to_go() -> None:
    dead = torch.zeros(3, 1, 4)
    alive = torch.rand(3, 1, 4) + 0.1
    both, slopes = torch.cat([dead, alive], 1), torch.full((3, 2, 4), 0.5)
    for values in (apoz(both), mean_activation(both), activation_taylor(both, slopes), fisher(both, slopes)):
        assert values[0] == 0 < values[1]


@pytest.mark.parametrize("function", [l1_norm, l2_norm, lamp, geometric_median_distance, scale_size])
def test_functions_of_slices_refuse_what_is_not_one_row_per_channel(function) -> None:
    with pytest.raises(UsageError, match=r"shape \(2,\)"):
        function(torch.zeros(2))


def test_gradients_must_be_those_of_the_values() -> None:
    with pytest.raises(UsageError, match=r"\(2, 1\).*\(2, 2\)"):
        gate_taylor(torch.zeros(2, 1), torch.zeros(2, 2))
    with pytest.raises(UsageError, match=r"\(2, 2, 2\).*\(2, 2, 1\)"):
        fisher(ACTIVATIONS, GRADIENTS[:, :, :1])
    with pytest.raises(UsageError, match=r"samples, channels, positions"):
        apoz(torch.zeros(2, 2))


def test_every_criterion_says_where_it_comes_from_and_what_it_needs() -> None:
    for name, criterion in CRITERIA.items():
        assert criterion.name == name
        assert "arXiv:" in criterion.source
    assert {name for name, criterion in CRITERIA.items() if not criterion.needs_data} == {
        "l1", "l2", "random", "fpgm", "lamp", "bn_scale",
    }  # fmt: skip
    assert CRITERIA["gate_taylor"].combine == "sum"  # Eq. 9


def test_criteria_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'gradients'"):
        Criterion("own", l1_norm, "own", needs="gradient")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="give slices"):
        Criterion("own", None, "own", needs="gradients")
