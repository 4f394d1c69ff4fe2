"""Codebooks: k-means in one dimension, codes, and what fine-tuning needs of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import ArtifactError, UsageError
from secateur.randomness import generator_for
from secateur.sparse import Codebook, cluster
from secateur.sparse.codebook import WEIGHTS_PER_CENTROID


def pruned(count: int, seed: int = 0, density: float = 0.3) -> Tensor:
    draw = generator_for("shared values", seed)
    weight = torch.randn(count, generator=draw)
    return torch.where(torch.rand(count, generator=draw) < density, weight, 0.0)


def test_two_clusters_by_hand() -> None:
    # 16 survivors allow two centroids, which start at the ends and become the means of the two sides.
    weight = torch.tensor([-1.0] * 4 + [-2.0] * 4 + [0.0] * 3 + [3.0] * 4 + [5.0] * 4)
    found = cluster(weight, bits=2)
    torch.testing.assert_close(found.centroids, torch.tensor([-1.5, 4.0]))
    assert found.codes.tolist() == [1] * 8 + [0] * 3 + [2] * 8
    torch.testing.assert_close(found.weight()[[0, 8, 11]], torch.tensor([-1.5, 0.0, 4.0]))


@pytest.mark.parametrize("bits", [1, 2, 4, 5, 8])
def test_each_survivor_has_the_nearest_centroid_and_each_centroid_is_the_mean(bits: int) -> None:
    weight = pruned(20_000)
    found = cluster(weight, bits=bits)
    # Of evenly spaced centroids the outermost may stay without weights; those go.
    assert 0.75 * (2**bits - 1) <= found.centroids.numel() <= 2**bits - 1
    assert found.bits == bits
    kept = weight != 0
    assert torch.equal(found.codes > 0, kept)
    distance = (weight[kept][:, None] - found.centroids).abs()
    own = distance.gather(1, found.codes[kept].long()[:, None] - 1)[:, 0]
    assert (own <= distance.amin(dim=1) + 1e-6).all()
    means = torch.stack([weight[found.codes == code + 1].mean() for code in range(found.centroids.numel())])
    torch.testing.assert_close(
        means, found.centroids, atol=2e-3, rtol=0
    )  # of many iterations, the last few move little


def test_clusters_are_the_same_on_every_run_and_better_than_even_steps() -> None:
    weight = pruned(5000)
    one, two = cluster(weight, bits=4), cluster(weight, bits=4)
    assert torch.equal(one.centroids, two.centroids)
    assert torch.equal(one.codes, two.codes)
    kept = weight[weight != 0]
    even = torch.linspace(float(kept.min()), float(kept.max()), 15)
    even_error = (kept[:, None] - even).abs().amin(dim=1).square().mean()
    assert (one.weight() - weight).square().sum() / kept.numel() < even_error


def test_no_centroid_starts_between_the_signs() -> None:
    # Pruning leaves nothing near zero; all 15 centroids are used.
    weight = torch.randn(20_000, generator=generator_for("gap"))
    weight[weight.abs() < 1.5] = 0
    found = cluster(weight, bits=4)
    assert found.centroids.numel() == 15
    assert found.centroids.abs().min() > 1.5


def test_few_different_values_are_kept_exactly() -> None:
    values = torch.tensor([-0.1, 0.3, 1e-30, 7.0])
    weight = values.repeat(20)
    weight[::3] = 0
    found = cluster(weight, bits=3)
    assert torch.equal(found.weight(), weight)


def test_small_layers_get_small_codebooks() -> None:
    even = torch.linspace(1, 2, 400)
    assert cluster(even, bits=8).centroids.numel() == 400 // WEIGHTS_PER_CENTROID
    assert cluster(even, bits=5).centroids.numel() == 31
    assert cluster(torch.tensor([0.0, 2.0, 4.0]), bits=8).centroids.tolist() == [3.0]


def test_a_layer_without_survivors() -> None:
    found = cluster(torch.zeros(3, 4), bits=5)
    assert found.centroids.numel() == 0
    assert torch.equal(found.weight(), torch.zeros(3, 4))
    assert found.gradients(torch.ones(3, 4)).numel() == 0


def test_the_gradient_of_a_centroid_is_the_sum_over_its_weights() -> None:
    found = cluster(pruned(600).reshape(20, 30), bits=3)
    centroids = found.centroids.clone().requires_grad_()
    weight = torch.cat([torch.zeros(1), centroids])[found.codes.long()]
    target = torch.randn(20, 30, generator=generator_for("target"))
    ((weight - target) ** 3).sum().backward()
    torch.testing.assert_close(found.gradients(3 * (found.weight() - target) ** 2), centroids.grad)


def test_trained_centroids_take_the_place_of_the_old_ones() -> None:
    found = cluster(pruned(600), bits=3)
    moved = found.with_centroids(found.centroids * 2)
    torch.testing.assert_close(moved.weight(), found.weight() * 2)
    assert moved.codes is found.codes
    with pytest.raises(ArtifactError, match="has 7 centroids, but"):
        found.with_centroids(torch.zeros(3))
    with pytest.raises(ArtifactError, match="infinite or NaN"):
        found.with_centroids(torch.full((7,), torch.nan))


@pytest.mark.parametrize(
    ("centroids", "codes"),
    [
        (torch.zeros(256), torch.zeros(3, dtype=torch.uint8)),
        (torch.zeros(2, 2), torch.zeros(3, dtype=torch.uint8)),
        (torch.zeros(2, dtype=torch.float64), torch.zeros(3, dtype=torch.uint8)),
        (torch.zeros(2), torch.tensor([3], dtype=torch.uint8)),
        (torch.zeros(2), torch.zeros(3, dtype=torch.int64)),
    ],
)
def test_codebooks_that_cannot_be(centroids: Tensor, codes: Tensor) -> None:
    with pytest.raises(ArtifactError, match=r"codebook holds|codes are uint8"):
        Codebook(centroids, codes)


def test_weights_and_widths_that_have_no_codebook() -> None:
    with pytest.raises(ArtifactError, match="infinite or NaN"):
        cluster(torch.tensor([1.0, torch.inf]), bits=4)
    for bits in (0, 9):
        with pytest.raises(UsageError, match=f"the codebook has {bits} bits"):
            cluster(torch.ones(3), bits=bits)


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 400),
    bits=st.integers(1, 8),
    scale=st.sampled_from([1e-38, 1, 1e37]),
)
@settings(max_examples=80, deadline=None)
def test_zeros_stay_zero_and_nothing_leaves_the_range(seed: int, count: int, bits: int, scale: float) -> None:
    weight = pruned(count, seed) * scale
    found = cluster(weight, bits=bits).weight()
    assert torch.equal(found[weight == 0], weight[weight == 0].abs())
    if (weight != 0).any():
        assert found.max() <= weight.max().clamp_min(0)
        assert found.min() >= weight.min().clamp_max(0)
