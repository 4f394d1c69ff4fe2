"""Images and masks move together."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from secateur.data import load_data
from secateur.data.framing import Frame, Framing
from secateur.data.masks import MaskReader
from secateur.data.samples import UnreadableSample
from secateur.data.segmentation import SegmentationSource
from secateur.errors import DataError, UsageError


def coded(height: int = 48, width: int = 36) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an image whose first channel is 10 times its mask; classes in blocks of 12 × 12."""
    rows, columns = torch.arange(height) // 12, torch.arange(width) // 12
    mask = ((rows[:, None] * 3 + columns[None]) % 21).to(torch.uint8)
    return torch.stack([mask * 10, mask * 0 + 7, mask * 0 + 200]), mask


resizes = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")


@resizes
@pytest.mark.parametrize("seed", range(25))
def test_image_and_mask_stay_aligned(seed: int) -> None:
    image, mask = coded()
    pixels, labels = Frame(Framing(size=32), seed, (1.0, 2.0, 3.0))(image, mask, 4)
    assert pixels.shape == (3, 32, 32)
    assert labels.shape == (32, 32)
    inside = labels != 255
    # Where a whole neighbourhood has one class, bilinear resizing leaves the colour that the class was painted in.
    padded = torch.nn.functional.pad(labels.float()[None, None], (2, 2, 2, 2), value=255.0)
    windows = padded.unfold(2, 5, 1).unfold(3, 5, 1).flatten(4)[0, 0]
    even = (windows == windows[..., :1]).all(-1) & inside
    assert int(even.sum()) > 0
    assert torch.equal(pixels[0][even], labels[even] * 10)
    assert bool((pixels[1][inside] == 7).all())
    assert bool((pixels[2][inside] == 200).all())
    # Padding lies below and to the right, in the mean colour.
    assert torch.equal(
        pixels[:, ~inside], torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None].expand(-1, int((~inside).sum()))
    )
    height, width = int(inside[:, 0].sum()), int(inside[0].sum())
    assert bool(inside[:height, :width].all())
    assert int(inside.sum()) == height * width


def test_only_a_mirror_image() -> None:
    image, mask = coded(20, 20)
    framing = Framing(size=24, scales=(1.0, 1.0))
    plain = Frame(framing, None, (0.0, 0.0, 0.0))(image, mask, 0)
    seen = set()
    for seed in range(10):
        pixels, labels = Frame(framing, seed, (0.0, 0.0, 0.0))(image, mask, 0)
        mirrored = not torch.equal(labels, plain[1])
        seen.add(mirrored)
        if mirrored:
            assert torch.equal(labels[:20, :20], mask.flip(-1))
            assert torch.equal(pixels[:, :20, :20], image.flip(-1))
        else:
            assert torch.equal(pixels, plain[0])
    assert seen == {True, False}


@resizes
def test_no_class_appears_that_was_not_there() -> None:
    image = torch.randint(256, (3, 33, 29), dtype=torch.uint8)
    mask = torch.full((33, 29), 20, dtype=torch.uint8)
    mask[:, 10:] = 1
    mask[5:9] = 255
    for seed in range(10):
        _, labels = Frame(Framing(size=40), seed, (0.0, 0.0, 0.0))(image, mask, 0)
        assert set(labels.unique().tolist()) <= {1, 20, 255}


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 5000}, {"scales": (0.0, 1.0)}, {"scales": (2.0, 1.0)}])
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"augmentation .*; give"):
        Framing(**wrong)  # type: ignore[arg-type]


class Pairs(torch.utils.data.Dataset[tuple[object, object]]):
    def __init__(self, *pairs: tuple[object, object]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> tuple[object, object]:
        return self.pairs[row]


IMAGE, MASK = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("image", "mask", "sentence"),
    [
        (IMAGE, MASK[:3], "sample 0 of d is 4×4 pixels, but its mask is 4×3; give both the same size"),
        (IMAGE, MASK + 3, "sample 0 of d has a mask with the value 3, but the 3 classes are 0 … 2, and 255 is for"),
        (IMAGE, MASK - 1, "sample 0 of d has a mask with values from -1 to -1; classes are 0 … 254"),
        (
            IMAGE,
            MASK.float(),
            "sample 0 of d has a mask that is float32 of shape (4, 4); a mask holds one whole number",
        ),
        (IMAGE, torch.zeros(3, 4, 4), "sample 0 of d has a mask that is float32 of shape (3, 4, 4)"),
        (IMAGE.float() / 0, MASK, "sample 0 of d holds NaN or infinity"),
    ],
)
def test_samples_that_do_not_fit(image: torch.Tensor, mask: torch.Tensor, sentence: str) -> None:
    sample = MaskReader(Pairs((image, mask)), "d", seed=None, classes=3)[0]
    assert isinstance(sample, UnreadableSample)
    assert sample.reason.startswith(sentence)


def test_a_source_of_tensors_in_float() -> None:
    pairs = Pairs(*((torch.rand(2, 6, 5), torch.randint(3, (6, 5))) for _ in range(5)))
    data = SegmentationSource(
        name="own", train=pairs, test=pairs, class_names=("a", "b", "c"), framing=Framing(size=8), workers=0
    )
    images, masks = next(data.batches("test", batch_size=5))
    assert images.shape == (5, 2, 8, 8)
    assert masks.shape == (5, 8, 8)
    assert torch.equal(images[0, :, :6, :5], pairs.pairs[0][0])
    assert torch.equal(masks[0, :6, :5], pairs.pairs[0][1])
    with pytest.raises(DataError, match=r"is 5×6 pixels, larger than the frame of 4×4 .*segmentation:32"):
        SegmentationSource(
            name="own", train=pairs, test=pairs, class_names=("a", "b", "c"), framing=Framing(size=4), workers=0
        )
    with pytest.raises(DataError, match=r"own has 1 class; segmentation needs 2 to 255"):
        SegmentationSource(name="own", train=pairs, test=pairs, class_names=("a",), workers=0)
    with pytest.raises(DataError, match="the test split of own is empty"):
        SegmentationSource(name="own", train=pairs, test=Pairs(), class_names=("a", "b"), workers=0)
    with pytest.raises(UsageError, match="augment=True needs a seed"):
        data.batches("train", batch_size=2, augment=True)


USERS_FILE = """
import torch
from secateur.data import Framing, SegmentationSource

def pairs(count):
    return [(torch.rand(3, 6, 7), torch.randint(2, (6, 7))) for _ in range(count)]

def masks():
    return SegmentationSource(
        name="mine", train=pairs(6), test=pairs(2), class_names=("no", "yes"), framing=Framing(size=8), workers=0
    )

def classes():
    return {"train": (torch.rand(4, 1, 4, 4), torch.arange(4) % 2), "test": (torch.rand(2, 1, 4, 4), torch.arange(2))}
"""


def test_a_function_of_the_users_own_returns_a_source_of_masks(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(USERS_FILE)
    data = load_data(f"{file}:masks")
    assert next(data.batches("train", batch_size=2))[1].shape == (2, 8, 8)
    with pytest.raises(UsageError, match="returns a DataSource, which augments by itself; leave the augmentation out"):
        load_data(f"{file}:masks", augmentation="segmentation:8")
    with pytest.raises(UsageError, match="returns images with one class each, and the augmentation moves images"):
        load_data(f"{file}:classes", augmentation="segmentation:8")
