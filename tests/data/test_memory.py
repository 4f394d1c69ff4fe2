import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.data import (
    Augmentation,
    DataSource,
    LabelledImages,
    MemorySource,
    Normalization,
    calibration_subset,
)
from secateur.data.augment import PixelStore, draw
from secateur.errors import DataError, UsageError


def images(count: int, *, channels: int = 3, side: int = 6, classes: int = 4, seed: int = 0) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)
    return LabelledImages(pixels, torch.arange(count) % classes)


def source(**changes: object) -> MemorySource:
    settings: dict[str, object] = {
        "name": "made",
        "train": images(50),
        "test": images(11, seed=1),
        "augmentation": Augmentation(padding=2, flip=True),
        "validation_share": 0.2,
    }
    return MemorySource(**{**settings, **changes})  # type: ignore[arg-type]


def collect(data: MemorySource, split: str = "train", **settings: object) -> list[tuple[Tensor, Tensor]]:
    return list(data.batches(split, **{"batch_size": 8, **settings}))  # type: ignore[arg-type]


def test_it_is_a_data_source_with_the_promised_types() -> None:
    data = source()
    assert isinstance(data, DataSource)
    assert (data.num_classes, data.class_names, data.sample_shape) == (4, ("0", "1", "2", "3"), (3, 6, 6))
    assert [data.size("train"), data.size("validation"), data.size("test")] == [40, 10, 11]
    for x, y in collect(data, seed=1, augment=True):
        assert x.dtype == torch.float32
        assert x.is_contiguous()
        assert x.shape[1:] == (3, 6, 6)
        assert y.dtype == torch.int64


def test_unaugmented_batches_are_the_stored_pixels_normalised() -> None:
    normalization = Normalization((0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    test = images(11, seed=1)
    x = torch.cat([x for x, _ in collect(source(normalization=normalization), "test")])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (normalization.mean, normalization.std))
    torch.testing.assert_close(x, (test.pixels / 255 - mean) / std)


def test_splits_do_not_overlap() -> None:
    train = images(50)
    unique = LabelledImages(torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1).repeat(1, 3, 6, 6), train.labels)
    data = source(train=unique, test=images(11))
    seen = {
        split: {round(float(v) * 255) for x, _ in collect(data, split) for v in x[:, 0, 0, 0]}
        for split in ("train", "validation")
    }
    assert seen["train"] | seen["validation"] == set(range(50))
    assert not seen["train"] & seen["validation"]


def test_every_crop_and_flip_is_what_padding_by_hand_gives() -> None:
    pixels = images(9).pixels
    store = PixelStore(pixels, 2, "cpu")
    rows = torch.arange(9)
    draws = draw(Augmentation(padding=2, flip=True), 9, 0, "test")
    crops = store.read(rows, draws)
    padded = F.pad(pixels, (2, 2, 2, 2))
    for row, corner in enumerate(draws.corners.tolist()):
        y, x = divmod(corner, 5)
        assert crops[row].equal(padded[row, :, y : y + 6, x : x + 6])
    assert store.read(rows).equal(pixels)


def test_the_farthest_crop_of_the_last_image_is_read_in_bounds() -> None:
    pixels = images(1, channels=1).pixels
    store = PixelStore(pixels, 3, "cpu")
    draws = draw(Augmentation(padding=3), 1, 0)
    draws.corners.fill_(48)
    assert store.read(torch.tensor([0]), draws).equal(F.pad(pixels, (3, 3, 3, 3))[:, :, 6:, 6:])


def test_crops_and_flips_are_uniform() -> None:
    draws = draw(Augmentation(padding=1, flip=True), 18_000, 5)
    assert draws.flips is not None
    counts = torch.bincount(draws.corners * 2 + draws.flips, minlength=18)
    assert counts.min() > 1000 - 5 * math.sqrt(1000)
    assert counts.max() < 1000 + 5 * math.sqrt(1000)


def test_flipped_samples_are_mirrored_and_the_others_are_not() -> None:
    data = source(augmentation=Augmentation(flip=True), validation_share=0.0)
    plain = dict(zip(range(50), images(50).pixels, strict=True))
    flips = 0
    for x, _ in collect(data, seed=3, augment=True):
        for image in (x * 255).round().to(torch.uint8):
            matches = [row for row, pixels in plain.items() if image.equal(pixels)]
            mirrored = [row for row, pixels in plain.items() if image.equal(pixels.flip(-1))]
            assert len(matches + mirrored) == 1
            flips += len(mirrored)
    assert 10 < flips < 40


@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_starting_later_gives_the_batches_of_an_unbroken_pass(start: int) -> None:
    whole = collect(source(), seed=9, augment=True)
    later = collect(source(), seed=9, augment=True, start=start)
    assert len(later) == len(whole) - start
    for (x, y), (expected_x, expected_y) in zip(later, whole[start:], strict=True):
        assert x.equal(expected_x)
        assert y.equal(expected_y)


def test_global_random_state_is_neither_read_nor_written() -> None:
    before = torch.get_rng_state()
    first = collect(source(), seed=1, augment=True)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(99)
    second = collect(source(), seed=1, augment=True)
    assert all(a[0].equal(b[0]) for a, b in zip(first, second, strict=True))


def test_batches_may_be_changed_in_place_without_harm() -> None:
    data = source(
        train=LabelledImages(images(50).pixels.float() / 255, images(50).labels),
        test=images_float(),
        peak=1.0,
    )
    for x, _ in collect(data, "test"):
        x.zero_()
    assert all(float(x.abs().sum()) > 0 for x, _ in collect(data, "test"))


@pytest.mark.parametrize("batch_size", [1, 3, 8, 16])
def test_a_batch_lies_in_memory_like_a_tensor_of_its_own(batch_size: int) -> None:
    for x, y in collect(source(), batch_size=batch_size, seed=1, augment=True):
        assert x.is_contiguous()
        assert x.data_ptr() % 64 == 0
        assert y.is_contiguous()


def test_batches_are_the_same_however_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"seed": 4, "augment": True, "start": 1}
    together = collect(source(), **settings)
    monkeypatch.setattr("secateur.data.memory.CHUNK_BYTES", 1)
    for (x, y), (other_x, other_y) in zip(together, collect(source(), **settings), strict=True):
        assert x.equal(other_x)
        assert y.equal(other_y)


def test_autograd_knows_that_batches_have_nothing_in_common() -> None:
    weight = torch.ones(3, 6, 6, requires_grad=True)
    (first, _), (second, _) = collect(source(), limit=2)
    loss = (first * weight).sum()
    second.add_(1.0)
    loss.backward()
    torch.testing.assert_close(weight.grad, first.sum(0))


@pytest.mark.parametrize("batch_size", [8, 7])
def test_processes_together_augment_as_one_does(batch_size: int) -> None:
    settings = {"batch_size": batch_size, "seed": 4, "augment": True, "limit": 4}
    shares = [collect(source(), rank=rank, world_size=2, **settings) for rank in (0, 1)]
    for whole, *parts in zip(collect(source(), **settings), *shares, strict=True):
        assert whole[0].equal(torch.cat([x for x, _ in parts]))
        assert whole[1].equal(torch.cat([y for _, y in parts]))


def images_float() -> LabelledImages:
    made = images(11, seed=1)
    return LabelledImages(made.pixels.float() / 255, made.labels)


def test_a_calibration_subset_is_training_data_picked_by_seed_and_recorded() -> None:
    data = source()
    subset = calibration_subset(data, 12, seed=4)
    assert len(set(subset.indices.tolist())) == 12
    assert sum(len(y) for _, y in collect(data, indices=subset.indices)) == 12
    assert subset.as_record() == calibration_subset(data, 12, seed=4).as_record()
    assert subset.as_record() != calibration_subset(data, 12, seed=5).as_record()
    with pytest.raises(UsageError, match="41 calibration samples asked for, but made has 40"):
        calibration_subset(data, 41, seed=0)


def test_augmenting_needs_a_seed_and_a_split_needs_samples() -> None:
    with pytest.raises(UsageError, match="needs a seed"):
        source().batches("train", batch_size=4, augment=True)
    with pytest.raises(DataError, match="validation split of made is empty; load the data with a validation_share"):
        source(validation_share=0.0).batches("validation", batch_size=4)
    with pytest.raises(UsageError, match="did you mean 'validation'"):
        source().size("valid")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            LabelledImages(torch.zeros(4, 3, 6, 6, dtype=torch.uint8), torch.zeros(3, dtype=torch.long)),
            "but 3 labels",
        ),
        (
            LabelledImages(torch.zeros(2, 3, 6, 6, dtype=torch.uint8), torch.tensor([0, -1])),
            "label 1 of made is -1",
        ),
        (
            LabelledImages(torch.zeros(2, 3, 6, 6, dtype=torch.uint8), torch.tensor([0.0, 1.0])),
            "whole number",
        ),
        (
            LabelledImages(torch.zeros(2, 3, 6, 6, dtype=torch.uint8), torch.tensor([0, 0])),
            "needs at least 2",
        ),
        (
            LabelledImages(torch.zeros(2, 3, 6, 6, dtype=torch.uint8), torch.tensor([0, 1])),
            "test label 2 of made is 2",
        ),
        (
            LabelledImages(torch.zeros(0, 3, 6, 6, dtype=torch.uint8), torch.zeros(0, dtype=torch.long)),
            "is empty",
        ),
        (
            LabelledImages(torch.zeros(2, 6, 6, 3, dtype=torch.uint8), torch.tensor([0, 3])),
            "looks like channels last",
        ),
        (
            LabelledImages(torch.zeros(2, 3, 6, 6, dtype=torch.int32), torch.tensor([0, 3])),
            "uint8 or float32",
        ),
        (
            LabelledImages(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 3])),
            "all splits must agree",
        ),
    ],
)
def test_data_that_cannot_be_used_is_refused(train: LabelledImages, message: str) -> None:
    with pytest.raises(DataError, match=message):
        source(train=train)


def test_a_float_image_that_is_not_finite_is_named() -> None:
    pixels = torch.zeros(3, 3, 6, 6)
    pixels[1, 0, 0, 0] = math.nan
    with pytest.raises(DataError, match="train image 1 of made holds NaN"):
        source(train=LabelledImages(pixels, torch.tensor([0, 1, 3])), test=images_float())
