import pickle
from pathlib import Path

import pytest
import torch

from secateur.data import MemorySource, Resizing, StreamingSource, load_data
from secateur.data.shards import ParquetImages, open_shard
from secateur.errors import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")
from image_files import encoded  # noqa: E402 - needs Pillow

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(file: Path, images: list[bytes | None], labels: list[int], *, group: int = 3) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    column = pa.array([None if image is None else {"bytes": image, "path": "a"} for image in images], type=IMAGE)
    pq.write_table(pa.table({"image": column, "label": pa.array(labels)}), file, row_group_size=group)
    return file


def shards(folder: Path, split: str, count: int, *, of: int = 3, grow: int = 0, first: int = 0) -> None:
    """Write ``count`` images to each of ``of`` files; with ``grow`` all differ in size."""
    for number in range(of):
        seeds = range(first + number * count, first + (number + 1) * count)
        images = [encoded(seed, 8 + grow * seed, 8 + 2 * grow * seed) for seed in seeds]
        write(folder / f"{split}-{number:05}-of-{of:05}.parquet", images, [seed % 3 for seed in seeds])


@pytest.mark.parametrize("inner", ["", "data"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_rows_read_by_groups_are_those_held_in_memory(tmp_path: Path, inner: str, workers: int) -> None:
    for split, of in (("train", 3), ("validation", 1), ("test", 2)):
        shards(tmp_path / inner, split, 7, of=of)
    held = load_data(f"parquet:{tmp_path}")
    lazy = load_data(f"parquet:{tmp_path}", memory_limit_bytes=500, workers=workers)
    assert isinstance(held, MemorySource)
    assert isinstance(lazy, StreamingSource)
    assert [held.size("train"), held.size("validation"), held.size("test")] == [21, 7, 14]
    for split in ("train", "validation", "test"):
        pairs = zip(
            held.batches(split, batch_size=4, seed=1),  # type: ignore[arg-type]
            lazy.batches(split, batch_size=4, seed=1),  # type: ignore[arg-type]
            strict=True,
        )
        assert all(a.equal(c) and b.equal(d) for (a, b), (c, d) in pairs)


def test_no_more_than_the_limit_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(tmp_path, "train", 9)
    files = [open_shard(file) for file in sorted(tmp_path.iterdir())]
    assert sum(file.encoded_bytes for file in files) > sum(len(encoded(seed)) for seed in range(27))
    group_bytes = files[0].images(0).nbytes
    monkeypatch.setattr("secateur.data.shards.CACHE_BYTES", 2 * group_bytes + 10)
    images = ParquetImages(files, held=False)
    assert not images._kept
    for row in range(27):
        assert images.encoded(row) == encoded(row)
        assert len(images._kept) <= 2
    assert images.encoded(4) == encoded(4)
    assert len(pickle.dumps(images)) < len(pickle.dumps(ParquetImages(files, held=True)))
    assert pickle.loads(pickle.dumps(images)).encoded(13) == encoded(13)


def test_images_of_all_sizes_and_modes_are_resized(tmp_path: Path) -> None:
    shards(tmp_path, "train", 4, grow=3)
    shards(tmp_path, "test", 2, grow=1)
    write(tmp_path / "train-more.parquet", [encoded(1, 50, 40, "L"), encoded(2, 30, 60, "CMYK", "JPEG")], [0, 1])
    data = load_data(f"parquet:{tmp_path}", augmentation="imagenet:16", workers=0, validation_share=0.0)
    assert isinstance(data, StreamingSource)
    assert torch.cat([x for x, _ in data.batches("train", batch_size=5)]).shape == (14, 3, 16, 16)


def test_large_first_images_are_resized_without_asking(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", [encoded(seed, 100 + seed, 80) for seed in range(4)], [0, 1, 0, 1])
    data = load_data(f"parquet:{tmp_path}")
    assert data.augmentation == Resizing()  # type: ignore[attr-defined]


@pytest.mark.parametrize("secret", [True, False])
def test_validation_is_tested_on_where_test_is_missing_or_secret(tmp_path: Path, secret: bool) -> None:
    shards(tmp_path, "train", 4)
    shards(tmp_path, "val", 2)
    if secret:
        write(tmp_path / "test.parquet", [encoded(1)], [-1])
    data = load_data(f"parquet:{tmp_path}", validation_share=0.25)
    assert [data.size("train"), data.size("validation"), data.size("test")] == [9, 3, 6]


def test_missing_files_are_named(tmp_path: Path) -> None:
    shards(tmp_path, "train", 4)
    with pytest.raises(DataError, match=r"has no test\.parquet, and no validation\.parquet"):
        load_data(f"parquet:{tmp_path}")
    shards(tmp_path, "test", 1)
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match=r"lacks train-00001-of-00003\.parquet, .*fetch all 3 files"):
        load_data(f"parquet:{tmp_path}")


def test_a_bad_row_of_a_file_too_large_for_memory_is_named(tmp_path: Path) -> None:
    images: list[bytes | None] = [encoded(seed) for seed in range(8)]
    write(tmp_path / "test.parquet", images, [0, 1] * 4)
    for bad, message in ((None, "row 5 of .* has no image bytes"), (b"?", "row 5 of .* is not an image")):
        write(tmp_path / "train.parquet", [*images[:5], bad, *images[6:]], [0, 1] * 4)
        for workers in (0, 1):
            data = load_data(f"parquet:{tmp_path}", memory_limit_bytes=100, workers=workers, validation_share=0.0)
            batches = data.batches("train", batch_size=4)
            next(batches)
            with pytest.raises(DataError, match=message):
                next(batches)


def test_a_file_that_is_damaged_after_loading_is_named(tmp_path: Path) -> None:
    shards(tmp_path, "train", 6, of=1)
    shards(tmp_path, "test", 2)
    data = load_data(f"parquet:{tmp_path}", memory_limit_bytes=100, workers=0, validation_share=0.0)
    file = tmp_path / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:300])
    batches = data.batches("train", batch_size=6)
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet is not a readable parquet file"):
        next(batches)
