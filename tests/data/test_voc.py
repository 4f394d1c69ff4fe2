"""The VOC reader on a tree of real files: what it reads, how it frames, and what it refuses."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="Pillow is not installed")

from PIL import Image
from voc_tree import SIZES, write_voc

from secateur.data import Framing, SegmentationSource, TrainShare, data_fingerprint, load_data
from secateur.data.voc import CLASS_NAMES
from secateur.errors import DataError, UsageError

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")

LISTS = {"train": 8, "val": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voc")
    write_voc(folder, LISTS)
    return folder


def source(root: Path, augmentation: str | None = "segmentation:64", **more: object) -> SegmentationSource:
    data = load_data(f"voc:{root}", augmentation=augmentation, validation_share=0.25, workers=0, **more)  # type: ignore[arg-type]
    assert isinstance(data, SegmentationSource)
    return data


def test_what_it_is(root: Path) -> None:
    data = source(root)
    assert [data.size(split) for split in ("train", "validation", "test")] == [6, 2, 4]
    assert (data.task, data.num_classes, data.sample_shape) == ("segmentation", 21, (3, 64, 64))
    assert (data.class_names[0], data.class_names[15]) == ("background", "person")
    assert len(CLASS_NAMES) == 21


def test_evaluated_images_are_those_of_the_files_and_padding_is_ignored(root: Path) -> None:
    data = source(root, normalize="none")
    images, masks = next(data.batches("test", batch_size=4))
    assert (images.dtype, images.shape) == (torch.float32, (4, 3, 64, 64))
    assert (masks.dtype, masks.shape) == (torch.int64, (4, 64, 64))
    tree = root / "VOCdevkit/VOC2012"
    for row in range(4):
        name = f"2007_{LISTS['train'] + row:06}"
        with Image.open(tree / "JPEGImages" / f"{name}.jpg") as file:
            pixels = torch.from_numpy(np.array(file)).permute(2, 0, 1)
        with Image.open(tree / "SegmentationClass" / f"{name}.png") as file:
            assert file.mode == "P"
            labels = torch.from_numpy(np.array(file)).long()
        height, width = labels.shape
        assert (height, width) == SIZES[(LISTS["train"] + row) % len(SIZES)]
        assert torch.equal(masks[row, :height, :width], labels)
        torch.testing.assert_close(images[row, :, :height, :width] * 255, pixels.float())
        assert bool((masks[row, height:] == 255).all())
        assert bool((masks[row, :, width:] == 255).all())
        assert bool((images[row, :, height:] == 0).all())
        assert bool((images[row, :, :, width:] == 0).all())
        assert set(labels.unique().tolist()) <= {0, 1, 7, 15, 255}


def test_padding_is_the_mean_colour_which_is_nothing_for_the_network(root: Path) -> None:
    images, masks = next(source(root).batches("test", batch_size=4))
    padded = images[1, :, SIZES[1][0] :]
    assert bool((masks[1, SIZES[1][0] :] == 255).all())
    assert float(padded.abs().max()) < 0.5 / 255 / 0.224  # half a pixel value, divided by the smallest std


def test_the_same_arguments_give_the_same_batches_whoever_reads(root: Path) -> None:
    one, two = source(root), load_data(f"voc:{root}", augmentation="segmentation:64", validation_share=0.25, workers=2)
    asked = {"batch_size": 2, "seed": 7, "augment": True}
    first = list(one.batches("train", **asked))
    for other in (list(two.batches("train", **asked)), list(one.batches("train", **asked))):
        assert all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(first, other, strict=True))
    later = list(one.batches("train", start=1, **asked))
    assert len(later) == 2
    assert torch.equal(later[0][0], first[1][0])
    assert torch.equal(later[1][1], first[2][1])
    other_seed = next(one.batches("train", batch_size=2, seed=8, augment=True))
    assert not torch.equal(other_seed[1], first[0][1])
    parts = [next(one.batches("train", rank=rank, world_size=2, **asked))[1] for rank in range(2)]
    assert torch.equal(torch.cat(parts), first[0][1])


def test_a_share_of_it_is_still_segmentation(root: Path) -> None:
    data = TrainShare(source(root), 0.5)
    assert (data.size("train"), data.size("validation"), data.task) == (3, 2, "segmentation")
    assert next(data.batches("train", batch_size=3))[1].shape == (3, 64, 64)


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_folder_may_be_any_of_those_on_the_way(root: Path, below: str) -> None:
    assert source(root / below).size("test") == 4


def test_a_year_by_its_name_lies_under_the_root(root: Path, tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": 4, "val": 2, "test": 3}, place="VOCdevkit/VOC2007")
    write_voc(tmp_path, {"train": 4, "val": 2}, place="TrainVal/VOCdevkit/VOC2011")
    loaded = {
        name: load_data(name, root=place, augmentation="segmentation:64", workers=0)
        for name, place in (("voc2012", root), ("voc2007", tmp_path), ("voc2011", tmp_path))
    }
    sizes = {name: [data.size(split) for split in ("train", "validation", "test")] for name, data in loaded.items()}
    # The test masks of 2007 were published; then val is the validation split and nothing is taken off train.
    assert sizes == {"voc2012": [7, 1, 4], "voc2007": [4, 2, 3], "voc2011": [4, 0, 2]}
    with pytest.raises(DataError, match=r"2 years; choose one of: voc:.*VOC2007, voc:.*VOC2011"):
        load_data(f"voc:{tmp_path}")


def test_the_fingerprint_is_that_of_lists_images_and_masks(tmp_path: Path) -> None:
    tree = write_voc(tmp_path, {"train": 3, "val": 2})
    before = data_fingerprint(f"voc:{tmp_path}")
    assert before is not None
    assert before == data_fingerprint("voc2012", tmp_path)
    (tree / "ImageSets/Segmentation/train.txt").write_text("2007_000000\n2007_000001\n")
    assert data_fingerprint(f"voc:{tmp_path}") != before
    assert data_fingerprint(f"voc:{tmp_path / 'nowhere'}") is None


def rewrite(tree: Path, listed: str, text: str) -> None:
    (tree / f"ImageSets/Segmentation/{listed}.txt").write_text(text)


def test_blank_lines_of_a_list_name_nothing(tmp_path: Path) -> None:
    tree = write_voc(tmp_path, {"train": 3, "val": 2})
    rewrite(tree, "val", "\n2007_000003\n\n2007_000004\n\n")
    data = load_data(f"voc:{tmp_path}", augmentation="segmentation:64", workers=0)
    whole = load_data(
        f"voc:{write_voc(tmp_path / 'other', {'train': 3, 'val': 2})}", augmentation="segmentation:64", workers=0
    )
    assert data.size("test") == 2
    for (a, b), (c, d) in zip(data.batches("test", batch_size=1), whole.batches("test", batch_size=1), strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_a_missing_tree_is_refused_with_what_to_get(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*nowhere; give the folder that holds VOCdevkit/VOC2012"):
        load_data(f"voc:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match=r"there is no PASCAL VOC in .*; give the folder"):
        load_data(f"voc:{tmp_path}")
    with pytest.raises(DataError, match="there is no PASCAL VOC in"):
        load_data("voc2012", root=tmp_path)
    (tmp_path / "VOCdevkit/VOC2012/JPEGImages").mkdir(parents=True)
    with pytest.raises(DataError, match="is not complete: missing SegmentationClass, ImageSets/Segmentation"):
        load_data(f"voc:{tmp_path}")


def test_a_tree_that_torchvision_would_not_find_is_refused(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": 2, "val": 2}, place="VOCdevkit/VOC2011")
    with pytest.raises(DataError, match="lies elsewhere than in the archive of 2011; move it to a folder TrainVal"):
        load_data(f"voc:{tmp_path / 'VOCdevkit/VOC2011'}")


def test_lists_that_name_nothing_or_too_much_are_refused(tmp_path: Path) -> None:
    tree = write_voc(tmp_path, {"train": 3, "val": 2})
    rewrite(tree, "val", "")
    with pytest.raises(DataError, match=r"val\.txt names no image; a list holds one name per line"):
        load_data(f"voc:{tmp_path}")
    rewrite(tree, "val", "2007_000003\n2007_999999\n")
    with pytest.raises(DataError, match=r"these files are missing: .*2007_999999\.jpg, .*2007_999999\.png"):
        load_data(f"voc:{tmp_path}")
    (tree / "ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*val\.txt: No such file"):
        load_data(f"voc:{tmp_path}")


def test_an_image_and_a_mask_of_different_sizes_are_refused_before_work_starts(tmp_path: Path) -> None:
    tree = write_voc(tmp_path, {"train": 3, "val": 2})
    with Image.open(tree / "SegmentationClass/2007_000004.png") as mask:
        mask.crop((0, 0, 20, 30)).save(tree / "SegmentationClass/2007_000004.png")
    with pytest.raises(DataError, match=r"2007_000004\.jpg is 64×64 pixels, but its mask .*2007_000004\.png is 20×30"):
        load_data(f"voc:{tmp_path}")


def test_a_mask_with_unknown_values_is_named(tmp_path: Path) -> None:
    tree = write_voc(tmp_path, {"train": 3, "val": 2})
    path = tree / "SegmentationClass/2007_000004.png"
    with Image.open(path) as mask:
        values, palette = np.array(mask), mask.getpalette()
    values[5, 5], values[6, 6] = 21, 99
    damaged = Image.fromarray(values)
    damaged.putpalette(palette)
    damaged.save(path)
    data = load_data(f"voc:{tmp_path}", augmentation="segmentation:64", workers=0)
    with pytest.raises(
        DataError, match=r"2007_000004\.jpg has a mask with the value 21, 99, but the 21 classes are 0 … 20, and 255 is"
    ):
        list(data.batches("test", batch_size=2))


def test_a_mask_in_colours_is_refused(tmp_path: Path) -> None:
    tree = write_voc(tmp_path, {"train": 3, "val": 2})
    path = tree / "SegmentationClass/2007_000003.png"
    with Image.open(path) as mask:
        mask.convert("RGB").save(path)
    with pytest.raises(
        DataError, match=r"2007_000003\.jpg has a mask, .*, of mode RGB; masks are PNG files with a pal"
    ):
        load_data(f"voc:{tmp_path}", augmentation="segmentation:64", workers=0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torchvision leaves the file open
def test_damaged_images_are_refused(tmp_path: Path) -> None:
    tree = write_voc(tmp_path, {"train": 3, "val": 2})
    path = tree / "JPEGImages/2007_000004.jpg"
    whole = path.read_bytes()
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2007_000004\.jpg is not an image that Pillow can read"):
        load_data(f"voc:{tmp_path}")
    path.write_bytes(whole[: len(whole) // 2])  # the header is whole, the rest is not
    data = load_data(f"voc:{tmp_path}", augmentation="segmentation:64", workers=0)
    with pytest.raises(DataError, match=r"2007_000004\.jpg cannot be read: .*truncated"):
        list(data.batches("test", batch_size=2))


def test_augmentations_are_for_one_kind_of_data(root: Path) -> None:
    with pytest.raises(UsageError, match="has a mask per image, and the augmentation that was asked for knows images"):
        source(root, "cifar")
    with pytest.raises(
        UsageError, match="segmentation:64 moves images together with their masks, and digits has one cl"
    ):
        load_data("digits", augmentation="segmentation:64")
    with pytest.raises(UsageError, match="did you mean 'segmentation'"):
        load_data("digits", augmentation="segmentatoin")


def test_an_image_larger_than_the_frame_is_refused_with_the_size_that_holds_it(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"side of 64 pixels, but images are put into frames of 48×48; .*segmentation:64"
    ):
        source(root, "segmentation:48")
    assert source(root, None).sample_shape == (3, 512, 512)


def test_a_plain_frame_trains_on_what_it_evaluates(root: Path) -> None:
    data = source(root, "segmentation-plain:64")
    assert data.augmentation == Framing(size=64, scales=(1.0, 1.0), flip=False)
    drawn = next(data.batches("train", batch_size=6, seed=3, augment=True))
    plain = next(data.batches("train", batch_size=6, seed=3))
    assert torch.equal(drawn[0], plain[0])
    assert torch.equal(drawn[1], plain[1])
