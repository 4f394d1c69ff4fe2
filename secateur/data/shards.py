"""Encoded images in parquet files, held in memory or read a row group at a time."""

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.data.encoded import EncodedImages
from secateur.errors import DataError, UsageError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMN = "label"
CACHE_BYTES = 256 * 2**20  # of encoded images that a process keeps of files too large for memory


@dataclass(frozen=True)
class Shard:
    """A parquet file whose columns are as they should be; it is opened anew for whatever is read of it.

    Attributes:
        path: where it lies.
        metadata: its footer, so that opening it again costs nothing.
        image_column: the name of the column with the images.
    """

    path: Path
    metadata: Any
    image_column: str

    @property
    def encoded_bytes(self) -> int:
        """What the images take in memory."""
        columns = (
            self.metadata.row_group(group).column(column)
            for group in range(self.metadata.num_row_groups)
            for column in range(self.metadata.num_columns)
        )
        return sum(
            chunk.total_uncompressed_size
            for chunk in columns
            if chunk.path_in_schema.partition(".")[0] == self.image_column
        )

    def images(self, group: int) -> Any:
        """Return the encoded images of a row group as a pyarrow array, null where there is none."""
        return _bytes_of(self._read(group, self.image_column), str(self.path))

    def labels(self) -> Tensor:
        """Return the class of each row, int64, shape (rows,)."""
        import pyarrow

        groups = [self._read(group, LABEL_COLUMN) for group in range(self.metadata.num_row_groups)]
        kind = self.metadata.schema.to_arrow_schema().field(LABEL_COLUMN).type
        if not pyarrow.types.is_integer(kind):
            raise DataError(f"the label column of {self.path} holds {kind}; it should hold whole numbers from 0")
        column = pyarrow.chunked_array([chunk for group in groups for chunk in group.chunks], type=kind)
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise DataError(f"row {row} of {self.path} has no label; drop unlabelled rows")
        return torch.from_numpy(column.to_numpy().astype(np.int64))

    def class_names(self) -> list[str] | None:
        """Return the class names that Hugging Face's writer leaves in the schema, if they are there."""
        text = (self.metadata.metadata or {}).get(b"huggingface")
        try:
            return [str(name) for name in json.loads(text or b"{}")["info"]["features"][LABEL_COLUMN]["names"]]
        except (TypeError, ValueError, KeyError):
            return None

    def _read(self, group: int, column: str) -> Any:
        import pyarrow
        from pyarrow import parquet

        try:
            # Without threads of pyarrow's own, which would not live on in a forked reading process.
            with parquet.ParquetFile(self.path, metadata=self.metadata, pre_buffer=False) as file:
                return file.read_row_group(group, columns=[column], use_threads=False).column(column)
        except (OSError, pyarrow.ArrowException) as error:
            raise _unreadable(self.path, error) from error


def open_shard(path: Path) -> Shard:
    """Return the parquet file ``path``, of which only the footer is read.

    Raises:
        DataError: it is corrupt or lacks a column.
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("reading parquet needs pyarrow; install it with: pip install 'secateur[vision]'") from error
    try:
        metadata = parquet.read_metadata(path)
        columns = metadata.schema.to_arrow_schema().names
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(path, error) from error
    image_column = next((name for name in IMAGE_COLUMNS if name in columns), None)
    if LABEL_COLUMN not in columns or image_column is None:
        raise DataError(
            f"{path} has the columns {', '.join(columns) or 'none'}; it needs 'label', and 'img' or 'image'"
        )
    return Shard(path, metadata, image_column)


class ParquetImages(EncodedImages):
    """The rows of some parquet files.

    Where they are too many to be held, a row costs the reading of its row group, of which some are kept: files
    whose row groups are small (a hundred images, as Hugging Face writes them) are much faster in random order.
    """

    greys_become_colour = False  # pixels are what was stored, unless images are resized

    def __init__(self, shards: Sequence[Shard], *, held: bool) -> None:
        """Read all labels, and all images too where they are ``held``.

        Raises:
            DataError: a file is corrupt or empty, or a label is missing.
        """
        super().__init__(torch.cat([shard.labels() for shard in shards]))
        first = shards[0].path
        self.name = str(first) if len(shards) == 1 else f"{first.parent}/{first.name} and its siblings"
        if not len(self):
            raise DataError(f"{self.name} holds no rows; it needs at least one image")
        self.class_names = shards[0].class_names()
        self._groups = [(shard, group) for shard in shards for group in range(shard.metadata.num_row_groups)]
        sizes = [shard.metadata.row_group(group).num_rows for shard, group in self._groups]
        self._starts = [0, *accumulate(sizes)][:-1]  # row at which each group begins
        self._kept: OrderedDict[int, Any] = OrderedDict()  # group → images; the last is the latest used
        self._limit_bytes = None if held else CACHE_BYTES
        if held:
            for number in range(len(self._groups)):
                self._images(number)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what can be read again."""
        kept = self._kept if self._limit_bytes is None else OrderedDict()
        return {**self.__dict__, "_kept": kept}

    def describe(self, row: int) -> str:
        """Return the row and its file or files."""
        return f"row {row} of {self.name}"

    def describe_briefly(self, row: int) -> str:
        """Return the row alone."""
        return f"row {row}"

    def encoded(self, row: int) -> bytes:
        """Return the bytes of image ``row``.

        Raises:
            DataError: there are none, or the file cannot be read.
        """
        # Groups without rows begin where the next one does, so the last that begins here is the one.
        number = bisect_right(self._starts, row) - 1
        value = self._images(number)[row - self._starts[number]].as_py()
        if not value:
            raise DataError(f"{self.describe(row)} has no image bytes; store the encoded image, not only its path")
        return bytes(value)

    def _images(self, number: int) -> Any:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        shard, group = self._groups[number]
        images = shard.images(group)
        self._kept[number] = images
        while self._limit_bytes is not None and len(self._kept) > 1 and self._kept_bytes() > self._limit_bytes:
            self._kept.popitem(last=False)
        return images

    def _kept_bytes(self) -> int:
        return sum(images.nbytes for images in self._kept.values())


def _bytes_of(column: Any, name: str) -> Any:
    """Return the encoded images of a column of bytes, or of structs {bytes, path}."""
    import pyarrow

    if pyarrow.types.is_struct(column.type) and "bytes" in [field.name for field in column.type]:
        place = column.type.get_field_index("bytes")
        # flatten() also passes on that a whole struct is null.
        chunks = [chunk.flatten()[place] for chunk in column.chunks]
        column = pyarrow.chunked_array(chunks, type=column.type.field("bytes").type)
    if not (pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type)):
        raise DataError(
            f"the image column of {name} holds {column.type}; it should hold encoded images: bytes, or {{bytes, path}}"
        )
    return column


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a readable parquet file: {' '.join(str(error).split())}")
