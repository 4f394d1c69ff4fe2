"""A share of the training data: fixed by its seed, and nothing else is touched."""

import pytest
import torch

from secateur.data import TrainShare, load_data
from secateur.errors import UsageError


def rows(source: object, split: str, **more: object) -> torch.Tensor:
    return torch.cat([images for images, _ in source.batches(split, batch_size=64, **more)])  # type: ignore[attr-defined]


def test_a_share_is_a_fixed_subset_and_the_rest_stays_whole() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    whole = load_data("digits")
    part, same, other = TrainShare(whole, 0.1), TrainShare(whole, 0.1), TrainShare(whole, 0.1, seed=1)
    assert part.size("train") == round(0.1 * whole.size("train"))
    assert (part.size("validation"), part.size("test")) == (whole.size("validation"), whole.size("test"))
    everything = {image.numpy().tobytes() for image in rows(whole, "train")}
    chosen = rows(part, "train")
    assert {image.numpy().tobytes() for image in chosen} <= everything
    assert torch.equal(chosen, rows(same, "train"))
    assert not torch.equal(chosen, rows(other, "train"))
    assert torch.equal(rows(part, "test"), rows(whole, "test"))


def test_indices_are_positions_within_the_share() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    part = TrainShare(load_data("digits"), 0.2)
    picked = torch.tensor([3, 0, 3])
    assert torch.equal(rows(part, "train", indices=picked), rows(part, "train")[picked])


def test_a_pass_in_an_order_of_its_own_sees_every_sample_once() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    part = TrainShare(load_data("digits"), 0.2)
    shuffled, stored = rows(part, "train", seed=5), rows(part, "train")
    assert not torch.equal(shuffled, stored)
    assert sorted(map(float, shuffled.flatten(1).double().sum(1))) == pytest.approx(
        sorted(map(float, stored.flatten(1).double().sum(1)))
    )


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1])
def test_shares_out_of_range_are_refused(share: float) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    with pytest.raises(UsageError, match="share of the training data"):
        TrainShare(load_data("digits"), share)
