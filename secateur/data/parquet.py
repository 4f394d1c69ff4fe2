"""Image classification data in parquet files, in the layout of Hugging Face data sets."""

import re
from pathlib import Path

import torch

from secateur.data.encoded import EncodedImages, encoded_source
from secateur.data.memory import MemorySource
from secateur.data.normalization import NORMALIZATIONS
from secateur.data.options import LoadOptions
from secateur.data.shards import ParquetImages, Shard, open_shard
from secateur.data.source import Split
from secateur.data.streaming import StreamingSource
from secateur.errors import DataError

PATTERNS: dict[Split, str] = {"train": "train*.parquet", "validation": "val*.parquet", "test": "test*.parquet"}
_NUMBERED = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})\.parquet$")


def parquet_source(folder: str, options: LoadOptions) -> MemorySource | StreamingSource:
    """Return the data of ``folder``: ``train*.parquet``, ``test*.parquet``, perhaps ``val*.parquet``.

    The files lie in ``folder`` or in its subfolder ``data``; a split may be in several, in the order of their names.
    Where there is no test split, or all its labels are −1 because its answers are kept secret, the validation split
    is what is tested on, and validation is taken off train, as is usual for ImageNet.

    Columns: ``img`` or ``image`` (encoded bytes, or a struct {bytes, path}) and ``label`` (whole numbers from 0).
    Files with more than ``options.memory_limit_bytes`` of encoded images are read a row group at a time.
    Pixels are divided by 255 and not normalised further unless ``options`` says so.

    Raises:
        DataError: a file is missing, corrupt or empty, a column is missing, an image or label cannot be used.
        UsageError: pyarrow or Pillow is not installed.
    """
    shards = {split: [open_shard(file) for file in files] for split, files in parquet_files(Path(folder)).items()}
    if "test" in shards and "validation" in shards and _unlabelled(shards["test"]):
        del shards["test"]
    if "test" not in shards:
        shards["test"] = shards.pop("validation")
    encoded_bytes = sum(shard.encoded_bytes for found in shards.values() for shard in found)
    held = encoded_bytes <= options.memory_limit_bytes
    images = {split: ParquetImages(found, held=held) for split, found in shards.items()}
    splits: dict[Split, EncodedImages] = {**images}
    return encoded_source(
        f"parquet:{folder}",
        splits,
        class_names=images["train"].class_names,
        normalization=NORMALIZATIONS["none"],
        options=options,
    )


def parquet_files(folder: Path) -> dict[Split, list[Path]]:
    """Return the files of each split that is there, in the order in which their rows count.

    Raises:
        DataError: the folder, a split or one of several numbered files is missing.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give the one that holds train.parquet and test.parquet")
    nested = folder / "data"
    if not any(folder.glob("*.parquet")) and any(nested.glob("*.parquet")):
        folder = nested
    files = {split: sorted(folder.glob(pattern)) for split, pattern in PATTERNS.items()}
    if not files["train"]:
        raise DataError(f"{folder} has no train.parquet; it should hold train.parquet and test.parquet")
    if not files["test"] and not files["validation"]:
        raise DataError(
            f"{folder} has no test.parquet, and no validation.parquet to test on; it should hold train.parquet and "
            "test.parquet"
        )
    for found in files.values():
        _require_all_numbers(found)
    return {split: found for split, found in files.items() if found}


def _require_all_numbers(files: list[Path]) -> None:
    """Refuse ``name-00000-of-00003.parquet`` without its siblings: part of a download."""
    matches = [match for file in files if (match := _NUMBERED.match(file.name))]
    present = {file.name for file in files}
    for match in matches:
        count, digits = int(match["count"]), len(match["number"])
        for number in range(min(count, 10**6)):
            name = f"{match['stem']}-{number:0{digits}}-of-{match['count']}.parquet"
            if name not in present:
                raise DataError(
                    f"{files[0].parent} lacks {name}, though {match.string} is there; fetch all {count} files"
                )
        if count == len(matches):
            return


def _unlabelled(shards: list[Shard]) -> bool:
    labels = torch.cat([shard.labels() for shard in shards])
    return bool(len(labels)) and bool((labels == -1).all())
