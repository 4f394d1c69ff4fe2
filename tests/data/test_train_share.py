"""A share of the training data: fixed by its seed, and nothing else is touched."""

from collections.abc import Iterator

import pytest
import torch

from secateur.data import NORMALIZATIONS, LabelledImages, MemorySource, Resizing, TrainShare, load_data
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


def test_each_class_has_its_proportion_and_none_is_left_without() -> None:
    counts = (200, 40, 4)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    images = LabelledImages(torch.arange(244, dtype=torch.float32).reshape(244, 1, 1, 1).expand(-1, -1, 2, 2), labels)
    whole = MemorySource(name="made", train=images, test=images, validation_share=0.0)
    for share, expected in ((0.25, (50, 10, 1)), (0.05, (10, 2, 1)), (0.001, (2, 1, 1)), (1.0, counts)):
        part = TrainShare(whole, share)
        chosen = torch.cat([y for _, y in part.batches("train", batch_size=64)])
        assert tuple(chosen.bincount(minlength=3).tolist()) == expected


class Unlabelled:
    """A user's own source: the protocol and no more."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self.name, self.num_classes, self.class_names = "own", 2, ("a", "b")
        self.sample_shape, self.normalization = (1, 2, 2), NORMALIZATIONS["none"]

    def size(self, split: str) -> int:
        return self._samples

    def batches(self, split: str, **settings: object) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        chosen = settings["indices"]
        assert isinstance(chosen, torch.Tensor)
        yield chosen.reshape(-1, 1, 1, 1).float(), chosen % 2


def test_a_source_without_labels_gives_a_share_of_all() -> None:
    part = TrainShare(Unlabelled(40), 0.25)  # type: ignore[arg-type]
    assert part.size("train") == 10
    assert part.augmentation is None
    assert TrainShare(Unlabelled(40), 0.001).size("train") == 2  # type: ignore[arg-type]


def test_what_is_done_to_images_is_still_known() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    whole = load_data("digits", augmentation="imagenet:16")
    assert isinstance(whole.augmentation, Resizing)  # type: ignore[attr-defined]
    assert TrainShare(whole, 0.2).augmentation is whole.augmentation  # type: ignore[attr-defined]
