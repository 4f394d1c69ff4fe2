import math
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from secateur.data import AUGMENTATIONS, RESIZING_AUGMENTATIONS, Resizing, StreamingSource, augmentation_named
from secateur.data.augment import Augmentation
from secateur.data.augmentation_sets import suited_augmentation
from secateur.data.resizing import View, central_square, random_crop
from secateur.errors import DataError, UsageError

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")


class Photos(Dataset[tuple[Tensor, int]]):
    """Images of which no two have the same size."""

    def __init__(self, count: int, channels: int = 3) -> None:
        self.targets = [row % 3 for row in range(count)]
        self.channels = channels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(row)
        shape = (self.channels, 30 + 2 * row, 50 - row)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8), self.targets[row]


def source(augmentation: Resizing, workers: int = 0, **changes: object) -> StreamingSource:
    settings = {"name": "photos", "train": Photos(24), "test": Photos(6), **changes}
    return StreamingSource(**settings, augmentation=augmentation, workers=workers)  # type: ignore[arg-type]


def collect(data: StreamingSource, split: str = "train", **settings: object) -> list[Tensor]:
    return [x for x, _ in data.batches(split, **{"batch_size": 5, **settings})]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RESIZING_AUGMENTATIONS)
def test_the_number_of_workers_changes_no_batch(name: str) -> None:
    made = augmentation_named(f"{name}:16")
    assert isinstance(made, Resizing)
    for settings in ({"seed": 4, "augment": True}, {"seed": 4}, {}):
        alone = collect(source(made), **settings)
        for workers in (1, 2):
            others = collect(source(made, workers), **settings)
            assert len(alone) == len(others)
            assert all(a.equal(b) for a, b in zip(alone, others, strict=True))


def test_draws_belong_to_the_sample_and_the_seed_and_not_to_the_order() -> None:
    data = source(Resizing(size=16, jitter=0.4), validation_share=0.0)
    by_row = View(data.augmentation, seed=9)  # type: ignore[arg-type]
    expected = torch.stack([by_row(Photos(24)[row][0], row) for row in (3, 20, 3)]) / 255
    indices = torch.tensor([3, 20, 3])
    found = collect(data, seed=9, augment=True, indices=indices)[0]
    assert sorted(map(float, found.sum((1, 2, 3)))) == pytest.approx(sorted(map(float, expected.sum((1, 2, 3)))))
    assert not collect(data, seed=10, augment=True)[0].equal(collect(data, seed=9, augment=True)[0])
    whole = collect(data, seed=9, augment=True)
    assert all(a.equal(b) for a, b in zip(collect(data, seed=9, augment=True, start=2), whole[2:], strict=True))


def test_all_images_get_the_size_whether_augmented_or_not() -> None:
    data = source(Resizing(size=20))
    assert data.sample_shape == (3, 20, 20)
    for x in (*collect(data, seed=1, augment=True), *collect(data, "test"), *collect(data, "validation")):
        assert x.shape[1:] == (3, 20, 20)
        assert x.is_contiguous()


def test_evaluation_cuts_the_central_square_by_hand() -> None:
    # 256 pixels are what a shorter side is resized to, so this image is only cropped: 16 rows and 44 columns fall off.
    pixels = torch.randint(0, 256, (3, 256, 312), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert central_square(pixels, Resizing()).equal(pixels[:, 16:240, 44:268])
    assert [Resizing(size=size).evaluation_side for size in (224, 160, 192, 299)] == [256, 183, 219, 342]
    tall = torch.zeros(1, 700, 70, dtype=torch.uint8)
    assert central_square(tall, Resizing(size=56)).shape == (1, 56, 56)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (64, 64), (500, 333)])
def test_crops_lie_within_the_image_and_have_the_area_and_aspect_they_should(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(300):
        top, left, crop_height, crop_width = random_crop(height, width, 0.25, generator)
        assert 0 <= top <= height - crop_height
        assert 0 <= left <= width - crop_width
        shares.append(crop_height * crop_width / (height * width))
        assert 0.70 < crop_width / crop_height < 1.40  # 3/4 … 4/3, rounded to pixels
    assert min(shares) > 0.23
    assert min(shares) < 0.30
    assert max(shares) > 0.80


@pytest.mark.parametrize(("height", "width"), [(2, 1000), (1000, 2), (1, 1)])
def test_a_long_and_narrow_image_is_cropped_in_its_centre(height: int, width: int) -> None:
    top, left, crop_height, crop_width = random_crop(height, width, 0.9, torch.Generator().manual_seed(0))
    assert (top, left) == ((height - crop_height) // 2, (width - crop_width) // 2)
    assert 0.5 <= crop_width / crop_height <= 1.5


def test_jitter_keeps_the_mean_in_its_bounds_and_the_flip_is_fair() -> None:
    grey = torch.full((3, 32, 32), 100, dtype=torch.uint8)
    means = [float(View(Resizing(size=8, jitter=0.4), seed=1)(grey, row).float().mean()) for row in range(60)]
    assert 59 <= min(means) < 75
    assert 125 < max(means) <= 141
    ramp = torch.arange(32, dtype=torch.uint8).expand(1, 32, 32)
    views = [View(Resizing(size=8, smallest_share=1.0), seed=2)(ramp, row)[0, 0] for row in range(60)]
    mirrored = sum(int(view[0] > view[-1]) for view in views)
    assert abs(mirrored - 30) < 4 * math.sqrt(60 * 0.25)


def test_global_random_state_is_neither_read_nor_written() -> None:
    before = torch.get_rng_state()
    first = collect(source(Resizing(size=8, jitter=0.4)), seed=1, augment=True)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(123)
    assert first[0].equal(collect(source(Resizing(size=8, jitter=0.4)), seed=1, augment=True)[0])


def test_an_image_with_another_number_of_channels_is_named() -> None:
    class Mixed(Photos):
        def __getitem__(self, row: int) -> tuple[Tensor, int]:
            pixels, label = super().__getitem__(row)
            return (pixels[:1], label) if row == 5 else (pixels, label)

    with pytest.raises(DataError, match=r"sample 5 of photos \(train\) is torch.uint8 \(1, 8, 8\).*convert them"):
        collect(source(Resizing(size=8), train=Mixed(24), validation_share=0.0))


def test_sets_by_name() -> None:
    assert augmentation_named("cifar") == AUGMENTATIONS["cifar"] == Augmentation(padding=4, flip=True)
    assert augmentation_named("none") == Augmentation()
    assert augmentation_named("imagenet") == Resizing(size=224, smallest_share=0.08, jitter=0.0, flip=True)
    assert augmentation_named("imagenet-mobile:160") == Resizing(size=160, smallest_share=0.25, jitter=0.4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cifr", "unknown augmentation 'cifr'; did you mean 'cifar'"),
        ("imagnet:160", "did you mean 'imagenet'"),
        ("cifar:32", "'cifar' keeps the size of images and takes none"),
        ("imagenet:", "'' is not a number of pixels"),
        ("imagenet:big", "'big' is not a number of pixels"),
        ("imagenet:-3", "'-3' is not a number of pixels"),
        ("imagenet:0", "resizes to 0 pixels; give a size from 1 to 4096"),
        ("imagenet:99999", "99999 pixels; give a size from 1 to 4096"),
    ],
)
def test_a_wrong_name_or_size_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        augmentation_named(text)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="smallest_share is 0"):
        Resizing(smallest_share=0)
    with pytest.raises(UsageError, match="jitter is 2"):
        Resizing(jitter=2)


def test_what_suits_images_depends_on_the_first() -> None:
    assert suited_augmentation((3, 97, 20), None) == Resizing()
    assert suited_augmentation((3, 96, 96), None) == Augmentation()
    assert suited_augmentation((1, 32, 32), None) == Augmentation()
    assert suited_augmentation((3, 32, 32), ["cat", "dog"]) == Augmentation(padding=4, flip=True)
    assert suited_augmentation((3, 32, 32), ["0", "1"]) == Augmentation(padding=4)
