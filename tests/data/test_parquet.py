import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.data import Augmentation, MemorySource, StreamingSource, load_data
from secateur.errors import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(row: int, *, side: int = 8, mode: str = "RGB") -> np.ndarray:  # type: ignore[type-arg]
    shape = (side, side, 3) if mode == "RGB" else (side, side)
    return np.random.default_rng(row).integers(0, 256, shape, dtype=np.uint8)


def encoded(row: int, *, side: int = 8, mode: str = "RGB") -> dict[str, object]:
    buffer = io.BytesIO()
    Image.fromarray(picture(row, side=side, mode=mode)).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write(
    folder: Path,
    rows: Sequence[dict[str, object] | None],
    labels: Sequence[object] | None = None,
    *,
    column: str = "img",
    name: str = "train",
) -> Path:
    folder.mkdir(exist_ok=True)
    table = {column: pa.array(rows, type=IMAGE)}
    if labels is None or len(labels):
        table["label"] = pa.array(labels if labels is not None else [row % 3 for row in range(len(rows))])
    pq.write_table(pa.table(table), folder / f"{name}.parquet")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("train", 12), ("test", 6)):
        write(tmp_path, [encoded(row) for row in range(count)], name=name)
    return tmp_path


@pytest.mark.parametrize("column", ["img", "image"])
def test_pixels_and_labels_come_back(folder: Path, column: str) -> None:
    write(folder, [encoded(row) for row in range(12)], column=column)
    data = load_data(f"parquet:{folder}", validation_share=0.0)
    assert isinstance(data, MemorySource)
    x, y = next(iter(data.batches("train", batch_size=12)))
    expected = np.stack([picture(row) for row in range(12)]).transpose(0, 3, 1, 2)
    assert (x * 255).round().to(torch.uint8).equal(torch.from_numpy(expected))
    assert y.tolist() == [row % 3 for row in range(12)]


def test_several_files_and_a_validation_file(folder: Path) -> None:
    (folder / "train.parquet").rename(folder / "train-00000-of-00002.parquet")
    write(folder, [encoded(row) for row in range(5)], name="train-00001-of-00002")
    write(folder, [encoded(row) for row in range(4)], name="validation")
    data = load_data(f"parquet:{folder}", validation_share=0.5)
    assert [data.size("train"), data.size("validation"), data.size("test")] == [17, 4, 6]


def test_grey_images_and_class_names_from_the_metadata(folder: Path) -> None:
    names = b'{"info": {"features": {"label": {"names": ["ant", "bee", "cow"], "_type": "ClassLabel"}}}}'
    for name in ("train", "test"):
        write(folder, [encoded(row, mode="L") for row in range(6)], name=name)
        table = pq.read_table(folder / f"{name}.parquet")
        pq.write_table(table.replace_schema_metadata({b"huggingface": names}), folder / f"{name}.parquet")
    data = load_data(f"parquet:{folder}")
    assert data.sample_shape == (1, 8, 8)
    assert data.class_names == ("ant", "bee", "cow")


def test_data_beyond_the_memory_limit_streams_and_is_the_same(folder: Path) -> None:
    memory = load_data(f"parquet:{folder}")
    stream = load_data(f"parquet:{folder}", memory_limit_bytes=100, workers=0)
    assert isinstance(stream, StreamingSource)
    for split in ("train", "validation", "test"):
        pairs = zip(
            stream.batches(split, batch_size=4, seed=1),
            memory.batches(split, batch_size=4, seed=1),
            strict=True,
        )  # type: ignore[arg-type]
        assert all(a.equal(c) and b.equal(d) for (a, b), (c, d) in pairs)


def test_a_bad_image_in_a_stream_is_the_same_sentence(folder: Path) -> None:
    write(folder, [*GOOD, encoded(3, side=9)])
    data = load_data(f"parquet:{folder}", memory_limit_bytes=100, workers=0, validation_share=0.0)
    with pytest.raises(DataError, match=r"^row 3 of .*train\.parquet is 9×9 colour but row 0 is 8×8 colour"):
        list(data.batches("train", batch_size=4))


def test_colour_images_of_32_are_augmented_as_cifar10(folder: Path) -> None:
    assert load_data(f"parquet:{folder}").augmentation == Augmentation()  # type: ignore[attr-defined]
    for name in ("train", "test"):
        write(folder, [encoded(row, side=32) for row in range(6)], name=name)
    assert load_data(f"parquet:{folder}").augmentation == Augmentation(padding=4, flip=True)  # type: ignore[attr-defined]


GOOD = [encoded(row) for row in range(3)]


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (
            [*GOOD, encoded(3, side=9)],
            None,
            r"row 3 of .*train\.parquet is 9×9 colour but row 0 is 8×8 colour",
        ),
        ([*GOOD, encoded(3, mode="L")], None, "row 3 of .* is 8×8 grey but row 0 is 8×8 colour"),
        ([*GOOD, {"bytes": b"no image", "path": None}], None, "row 3 of .* is not an image"),
        ([*GOOD, {"bytes": GOOD[0]["bytes"][:60], "path": None}], None, "row 3 of .* is not an image"),  # type: ignore[index]
        ([*GOOD, {"bytes": None, "path": "a.png"}], None, "row 3 of .* has no image bytes"),
        ([*GOOD, None], None, "row 3 of .* has no image bytes"),
        (GOOD, [0, 1, None], "row 2 of .* has no label"),
        (GOOD, [0, 1, -1], "train label 2 of .* is -1"),
        (GOOD, ["a", "b", "c"], "label column of .* holds string"),
        (GOOD, [], "it needs 'label'"),
        ([], None, "holds (null|no rows)|label column"),
    ],
)
def test_bad_content_is_one_sentence(
    folder: Path, rows: list[dict[str, object] | None], labels: list[object] | None, message: str
) -> None:
    write(folder, rows, labels)
    with pytest.raises(DataError, match=message):
        load_data(f"parquet:{folder}")


def test_a_test_label_that_training_never_saw_is_refused(folder: Path) -> None:
    write(folder, GOOD, [0, 1, 7], name="test")
    with pytest.raises(DataError, match=r"test label 2 of .* is 7 but 3 classes are found in the training labels"):
        load_data(f"parquet:{folder}")


def test_missing_and_corrupt_files_are_one_sentence(folder: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load_data(f"parquet:{folder}/elsewhere")
    whole = (folder / "train.parquet").read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2]):
        (folder / "train.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"train\.parquet is not a readable parquet file"):
            load_data(f"parquet:{folder}")
    (folder / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"has no train\.parquet"):
        load_data(f"parquet:{folder}")


@pytest.mark.data
@pytest.mark.skipif(
    not (SHARED / "cifar10-lossless").is_dir(), reason="the CIFAR-10 images are not beside the checkout"
)
def test_the_real_lossless_cifar10() -> None:
    data = load_data(f"parquet:{SHARED / 'cifar10-lossless'}", normalize="cifar10")
    assert data.size("train") + data.size("validation") == 5085
    assert data.size("test") == 1017
    assert data.class_names[3] == "cat"
