import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="Pillow is not installed")

from image_files import encoded, photo_tree, picture, save, tree

from secateur.data import MemorySource, Resizing, StreamingSource, data_fingerprint, load_data
from secateur.errors import DataError

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")


def read_all(spec: str, **settings: object) -> None:
    data = load_data(spec, workers=0, validation_share=0.0, **settings)  # type: ignore[arg-type]
    for _ in data.batches("train", batch_size=4):
        pass


def test_a_tree_of_three_splits_is_read_pixel_by_pixel(tmp_path: Path) -> None:
    data = load_data(f"folder:{tree(tmp_path, {'train': 4, 'val': 2, 'test': 3})}")
    assert isinstance(data, MemorySource)
    assert [data.size("train"), data.size("validation"), data.size("test")] == [12, 6, 9]
    assert (data.class_names, data.sample_shape) == (("ant", "bee", "cow"), (3, 8, 8))
    x, y = next(iter(data.batches("validation", batch_size=6)))
    expected = np.stack([np.asarray(picture(100 + 10 * label + number)) for label in range(3) for number in range(2)])
    assert (x * 255).round().to(torch.uint8).equal(torch.from_numpy(expected.transpose(0, 3, 1, 2)))
    assert y.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_without_a_test_folder_validation_is_tested_on(tmp_path: Path, name: str) -> None:
    data = load_data(f"folder:{tree(tmp_path, {'train': 10, name: 2})}", validation_share=0.2)
    assert [data.size("train"), data.size("validation"), data.size("test")] == [24, 6, 6]


def test_classes_directly_in_the_folder_give_a_fixed_test_split(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"": 10}, classes=("train", "car", "bus"))  # "train" is a class here
    first, second = (load_data(f"folder:{folder}", split_seed=seed) for seed in (0, 5))
    assert first.class_names == ("bus", "car", "train")
    assert [first.size("train"), first.size("validation"), first.size("test")] == [24, 3, 3]
    tested = [next(iter(data.batches("test", batch_size=3))) for data in (first, second)]
    assert tested[0][0].equal(tested[1][0])
    assert tested[0][1].tolist() == [0, 1, 2]


def test_hidden_and_other_files_do_not_count_and_subfolders_do(tmp_path: Path) -> None:
    tree(tmp_path, {"train": 3, "test": 1})
    (tmp_path / "train" / "ant" / "._0.png").write_bytes(b"resource fork")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    save(tmp_path / "train" / "ant" / "images" / "deep.PNG", 7)
    assert load_data(f"folder:{tmp_path}", validation_share=0.0).size("train") == 10


def test_photos_of_all_sizes_are_resized_as_imagenet(tmp_path: Path) -> None:
    data = load_data(f"folder:{photo_tree(tmp_path, {'train': 4, 'test': 2})}", workers=0)
    assert isinstance(data, StreamingSource)
    assert data.augmentation == Resizing()
    assert data.sample_shape == (3, 224, 224)
    small = load_data(f"folder:{tmp_path}", augmentation="imagenet:32", workers=0)
    x, _ = next(iter(small.batches("train", batch_size=4, seed=1, augment=True)))
    assert x.shape == (4, 3, 32, 32)


def test_workers_read_what_the_main_process_reads(tmp_path: Path) -> None:
    photo_tree(tmp_path, {"train": 4, "test": 2})
    batches = [
        torch.cat([x for x, _ in data.batches("train", batch_size=3, seed=2, augment=True)])
        for data in (
            load_data(f"folder:{tmp_path}", augmentation="imagenet-mobile:24", workers=workers) for workers in (0, 1, 2)
        )
    ]
    assert batches[0].equal(batches[1])
    assert batches[0].equal(batches[2])


def test_memory_and_stream_agree(tmp_path: Path) -> None:
    tree(tmp_path, {"train": 5, "test": 2})
    memory = load_data(f"folder:{tmp_path}", augmentation="flip")
    stream = load_data(f"folder:{tmp_path}", augmentation="flip", memory_limit_bytes=100, workers=0)
    assert isinstance(stream, StreamingSource)
    pairs = zip(
        memory.batches("train", batch_size=4, seed=3, augment=True),
        stream.batches("train", batch_size=4, seed=3, augment=True),
        strict=True,
    )
    assert all(a.equal(c) and b.equal(d) for (a, b), (c, d) in pairs)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("P", "png"), ("RGBA", "png"), ("1", "png"), ("LA", "png"), ("CMYK", "jpg")]
)
def test_among_colour_images_every_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    tree(tmp_path, {"train": 2, "test": 1})
    added = save(tmp_path / "train" / "cow" / f"z.{suffix}", 5, mode=mode)
    data = load_data(f"folder:{tmp_path}", validation_share=0.0)
    x, _ = list(data.batches("train", batch_size=7))[-1]
    from PIL import Image

    with Image.open(added) as image:
        expected = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)
    assert (x[-1] * 255).round().to(torch.uint8).equal(expected)


def test_a_palette_with_transparency_raises_no_warning(tmp_path: Path) -> None:
    tree(tmp_path, {"train": 2, "test": 1})
    picture(1, mode="P").save(tmp_path / "train" / "cow" / "z.png", transparency=bytes([0, 128, 255]))
    assert load_data(f"folder:{tmp_path}", validation_share=0.0).size("train") == 7


def test_grey_images_stay_grey_and_a_colour_one_among_them_is_named(tmp_path: Path) -> None:
    for number, name in enumerate(("ant", "bee")):
        for split in ("train", "test"):
            save(tmp_path / split / name / "0.png", number, mode="L")
            save(tmp_path / split / name / "1.png", number + 5, mode="L")
    assert load_data(f"folder:{tmp_path}", validation_share=0.0).sample_shape == (1, 8, 8)
    save(tmp_path / "train" / "bee" / "2.png", 3)
    for augmentation in ("none", "imagenet:16"):
        with pytest.raises(DataError, match=r"bee/2\.png is 8×8 colour but .*ant/0\.png is 8×8 grey; .*convert all"):
            read_all(f"folder:{tmp_path}", augmentation=augmentation)


def test_sizes_that_differ_name_both_images_and_the_fix(tmp_path: Path) -> None:
    tree(tmp_path, {"train": 2, "test": 1})
    save(tmp_path / "train" / "bee" / "9.png", 3, 9, 7)
    expected = r"bee/9\.png is 9×7 colour but .*ant/0\.png is 8×8 colour; .*augmentation that resizes, such as imagenet"
    for limit in (100, 2**30):
        with pytest.raises(DataError, match=expected):
            read_all(f"folder:{tmp_path}", memory_limit_bytes=limit)
    assert load_data(f"folder:{tmp_path}", augmentation="imagenet:8").sample_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"bee/1\.png is empty"),
        (b"no image", r"bee/1\.png is not an image that Pillow can read"),
        (encoded(3)[:90], r"bee/1\.png is not an image"),
        (encoded(3, mode="I;16"), r"bee/1\.png is an image of mode I;16; .*8 bits"),
    ],
)
def test_a_bad_image_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    tree(tmp_path, {"train": 2, "test": 1})
    (tmp_path / "train" / "bee" / "1.png").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_data(f"folder:{tmp_path}")
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_a_truncated_photo_is_named_by_a_worker(tmp_path: Path) -> None:
    photo_tree(tmp_path, {"train": 3, "test": 1})
    broken = tmp_path / "train" / "bee" / "1.JPEG"
    broken.write_bytes(broken.read_bytes()[:-700])
    data = load_data(f"folder:{tmp_path}", augmentation="imagenet:16", workers=1, validation_share=0.0)
    with pytest.raises(DataError, match=r"bee/1\.JPEG is not an image that Pillow can read whole: .*truncated"):
        list(data.batches("train", batch_size=4))


def test_layouts_that_are_no_data_set(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            load_data(f"folder:{tmp_path}")
        assert "\n" not in str(caught.value)

    refused("holds no class folders")
    save(tmp_path / "0.png", 1)
    refused("holds images but no class folders; put the images of each class")
    tree(tmp_path, {"test": 1})
    refused("has test but no train folder")
    (tmp_path / "train").mkdir()
    refused(r"no train folder \(the one that is there holds no class folders\)")
    save(tmp_path / "train" / "ant" / "0.png", 1)
    refused("has the class 'bee', which train lacks")
    tree(tmp_path, {"train": 2})
    assert load_data(f"folder:{tmp_path}").num_classes == 3
    (tmp_path / "train" / "dog").mkdir()
    refused("train/dog holds no images")
    (tmp_path / "train" / "dog").rmdir()
    tree(tmp_path, {"val": 1, "valid": 1})
    refused("has both val and valid")
    with pytest.raises(DataError, match="there is no folder"):
        load_data(f"folder:{tmp_path}/elsewhere")


def test_one_class_or_too_few_images_are_refused(tmp_path: Path) -> None:
    tree(tmp_path / "one", {"train": 3, "test": 1}, classes=("cat",))
    with pytest.raises(DataError, match="has one class only, 'cat'"):
        load_data(f"folder:{tmp_path / 'one'}")
    tree(tmp_path / "few", {"": 1})
    with pytest.raises(DataError, match="its 3 images are too few to set a tenth aside"):
        load_data(f"folder:{tmp_path / 'few'}")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    tree(tmp_path, {"train": 2, "test": 1})
    (tmp_path / "train" / "bee").chmod(0)
    with pytest.raises(DataError, match=r"cannot read .*bee: Permission denied"):
        load_data(f"folder:{tmp_path}")
    (tmp_path / "train" / "bee").chmod(0o755)


@pytest.mark.parametrize("nested", ["", "imagenet"])
def test_imagenet_is_tested_on_its_validation_images(tmp_path: Path, nested: str) -> None:
    photo_tree(tmp_path / nested, {"train": 6, "val": 2, "test": 1}, classes=("n01440764", "n01443537"))
    data = load_data("imagenet", root=tmp_path, workers=0, validation_share=0.25)
    assert [data.size("train"), data.size("validation"), data.size("test")] == [9, 3, 4]
    assert data.sample_shape == (3, 224, 224)
    assert data.class_names == ("n01440764", "n01443537")
    assert data.normalization.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("download", [False, True])
def test_missing_imagenet_says_where_it_comes_from(tmp_path: Path, download: bool) -> None:
    with pytest.raises(DataError, match=r"ImageNet is not under .*train/WNID.*image-net\.org"):
        load_data("imagenet", root=tmp_path, download=download)


@pytest.mark.parametrize("place", ["val", "test"])
def test_loose_images_beside_a_train_folder_are_no_test_split(tmp_path: Path, place: str) -> None:
    tree(tmp_path, {"train": 10})
    save(tmp_path / place / "0.png", 5)
    with pytest.raises(
        DataError, match=rf"{place} holds images but no class folders, so nobody knows .* move {place}/"
    ):
        load_data(f"folder:{tmp_path}")
    tree(tmp_path, {"test" if place == "val" else "val": 2})  # now there is one to test on, and images apart
    assert load_data(f"folder:{tmp_path}").size("test") == 6


def test_a_link_back_to_where_it_lies_is_not_followed_and_another_one_is(tmp_path: Path) -> None:
    tree(tmp_path, {"train": 4, "test": 2})
    spec = f"folder:{tmp_path}"
    before = data_fingerprint(spec)
    (tmp_path / "train" / "ant" / "itself").symlink_to(tmp_path / "train" / "ant")
    (tmp_path / "train" / "ant" / "all").symlink_to(tmp_path)
    (tmp_path / "train" / "again").symlink_to(tmp_path / "train")
    (tmp_path / "train" / "ant" / "nothing").symlink_to("nothing")
    data = load_data(spec, validation_share=0.0)
    assert (data.class_names, data.size("train")) == (("ant", "bee", "cow"), 12)
    assert data_fingerprint(spec) == before
    save(tmp_path / "more" / "0.png", 7)
    (tmp_path / "more" / "back").symlink_to(tmp_path / "train" / "ant")  # by way of another folder
    (tmp_path / "train" / "ant" / "more").symlink_to(tmp_path / "more")
    assert load_data(spec, validation_share=0.0).size("train") == 13
