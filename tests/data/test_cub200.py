from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytest.importorskip("PIL", reason="Pillow is not installed")

from image_files import save

from secateur.data import Resizing, load_data
from secateur.errors import DataError

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")

CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")


def write_cub200(root: Path) -> Path:
    """Write 4 images of each of 3 classes; the second image of each class belongs to test."""
    folder = root / "CUB_200_2011"
    images, labels, parts = [], [], []
    for label, name in enumerate(CLASSES, start=1):
        for place in range(4):
            number = len(images) + 1
            file = f"{name}/{name[4:]}_{place:04}.jpg"
            save(folder / "images" / file, number, 40 + 2 * number, 60 - number)
            images.append(f"{number} {file}")
            labels.append(f"{number} {label}")
            parts.append(f"{number} {int(place != 1)}")
    lists = {
        "images.txt": images,
        "image_class_labels.txt": labels,
        "train_test_split.txt": parts,
        "classes.txt": [f"{number} {name}" for number, name in enumerate(CLASSES, start=1)],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_the_lists_say_what_is_what(tmp_path: Path) -> None:
    folder = write_cub200(tmp_path)
    for spec in ("cub200", f"cub200:{tmp_path}", f"cub200:{folder}"):
        data = load_data(spec, root=tmp_path, workers=0, validation_share=1 / 3)
        assert [data.size("train"), data.size("validation"), data.size("test")] == [6, 3, 3]
        assert data.class_names == ("Black_footed_Albatross", "Laysan_Albatross", "Sooty_Albatross")
        assert data.augmentation == Resizing()  # type: ignore[attr-defined]
        assert data.normalization.std == (0.229, 0.224, 0.225)
    small = load_data("cub200", root=tmp_path, workers=0, augmentation="imagenet:32", validation_share=0.0)
    batches = list(small.batches("train", batch_size=4, seed=0, augment=True))
    assert torch.cat([x for x, _ in batches]).shape == (9, 3, 32, 32)
    assert torch.cat([y for _, y in batches]).bincount().tolist() == [3, 3, 3]
    assert torch.cat([y for _, y in small.batches("test", batch_size=2)]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("download", [False, True])
def test_missing_birds_say_where_they_come_from(tmp_path: Path, download: bool) -> None:
    with pytest.raises(DataError, match=r"missing CUB_200_2011/images\.txt, .*get CUB_200_2011\.tgz from https://"):
        load_data("cub200", root=tmp_path, download=download)
    (write_cub200(tmp_path) / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"missing CUB_200_2011/classes\.txt;"):
        load_data("cub200", root=tmp_path, download=download)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images.txt", "", r"images\.txt is empty"),
        ("images.txt", "1 a.jpg\nno number\n", r"line 2 of .*images\.txt is 'no number'"),
        ("classes.txt", "1\n", r"line 1 of .*classes\.txt is '1'"),
        ("train_test_split.txt", "1 1\n2 yes\n", r"train_test_split\.txt says nothing of use about image 2"),
        ("image_class_labels.txt", "1 1\n2 9\n", r"image_class_labels\.txt says nothing of use about image 2"),
        ("train_test_split.txt", "\n".join(f"{n} 1" for n in range(1, 13)), "puts no image into test"),
        ("images.txt", "1 a.jpg\n2 b.jpg\n", r"cannot read .*images/a\.jpg: No such file"),
    ],
)
def test_damaged_lists_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (write_cub200(tmp_path) / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_data("cub200", root=tmp_path)
