"""Image classification data in parquet files, in the layout of Hugging Face data sets."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from secateur.data.augment import Augmentation
from secateur.data.memory import LabelledImages, MemorySource
from secateur.data.normalization import NORMALIZATIONS
from secateur.data.options import LoadOptions
from secateur.data.source import Split
from secateur.data.streaming import StreamingSource
from secateur.errors import DataError, UsageError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMN = "label"
MODES = {"L": 1, "RGB": 3}  # Pillow's name of the pixel format → channels


class EncodedImages(Dataset[tuple[Tensor, int]]):
    """PNG or JPEG images held as they were stored, decoded when asked for.

    Attributes:
        labels: class of each image, int64, shape (N,).
        class_names: from the file's Hugging Face metadata, or None.
        shape: (C, H, W) of the first image; all others must have it.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Read all rows of ``files``, which have one schema.

        Raises:
            DataError: a file is corrupt, empty, or lacks a column; a label is missing; the first image is
                unreadable.
        """
        tables = [_read_table(file) for file in files]
        self.name = str(files[0]) if len(files) == 1 else f"{files[0].parent}/{files[0].name} and its siblings"
        self._encoded: list[Any] = [value for table in tables for value in _image_column(table, self.name)]
        if not self._encoded:
            raise DataError(f"{self.name} holds no rows; it needs at least one image")
        self.labels = torch.cat([_label_column(table, self.name) for table in tables])
        self.class_names = _class_names(tables[0])
        self.shape = tuple(self._decode(0).shape)

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self._decode(row).copy()), int(self.labels[row])

    def decoded_bytes(self) -> int:
        """Return what all images take as uint8 pixels."""
        return len(self) * int(np.prod(self.shape))

    def decode(self) -> LabelledImages:
        """Return all images as one tensor.

        Raises:
            DataError: an image cannot be decoded or differs from the first in size or mode; it is named.
        """
        pixels = np.empty((len(self), *self.shape), dtype=np.uint8)
        for row in range(len(self)):
            pixels[row] = self._decode(row)
        return LabelledImages(torch.from_numpy(pixels), self.labels)

    def _decode(self, row: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return image ``row`` as (C, H, W)."""
        pillow = _import_pillow()
        encoded = self._encoded[row]
        if not isinstance(encoded, bytes) or not encoded:
            raise DataError(f"row {row} of {self.name} has no image bytes; store the encoded image, not only its path")
        try:
            with pillow.open(io.BytesIO(encoded)) as image:
                mode, array = image.mode, np.asarray(image)
        # Pillow's decoders also raise SyntaxError, struct.error and its own bomb error on hostile files.
        except Exception as error:
            raise DataError(f"row {row} of {self.name} is not an image that Pillow can read: {error}") from error
        if mode not in MODES:
            raise DataError(
                f"row {row} of {self.name} is an image of mode {mode}; store grey (L) or colour (RGB) with 8 bits"
            )
        pixels = array[np.newaxis] if array.ndim == 2 else array.transpose(2, 0, 1)
        expected = getattr(self, "shape", pixels.shape)
        if pixels.shape != expected:
            raise DataError(
                f"row {row} of {self.name} is {_size(pixels.shape)} but row 0 is {_size(expected)}; "
                f"resize and convert all images alike"
            )
        return pixels


def parquet_source(folder: str, options: LoadOptions) -> MemorySource | StreamingSource:
    """Return the data of ``folder``: ``train*.parquet``, ``test*.parquet``, perhaps ``validation*.parquet``.

    Columns: ``img`` or ``image`` (encoded bytes, or a struct {bytes, path}) and ``label`` (whole numbers from
        0).
    Data whose pixels exceed ``options.memory_limit_bytes`` stay encoded in memory and are decoded by workers.
    Pixels are divided by 255 and not normalised further unless ``options`` says so.

    Raises:
        DataError: a file is missing, corrupt or empty, a column is missing, an image or label cannot be used.
        UsageError: pyarrow or Pillow is not installed.
    """
    splits = {split: EncodedImages(files) for split, files in _files_of(Path(folder)).items()}
    shared: dict[str, Any] = {
        "name": f"parquet:{folder}",
        "class_names": splits["train"].class_names,
        "normalization": options.normalization or NORMALIZATIONS["none"],
        "peak": 255.0,
        "augmentation": _augmentation_for(splits["train"]),
        "validation_share": options.validation_share,
        "split_seed": options.split_seed,
    }
    train, test, validation = splits["train"], splits["test"], splits.get("validation")
    if sum(images.decoded_bytes() for images in splits.values()) > options.memory_limit_bytes:
        return StreamingSource(train=train, test=test, validation=validation, workers=options.workers, **shared)
    return MemorySource(
        train=train.decode(),
        test=test.decode(),
        validation=validation.decode() if validation else None,
        **shared,
    )


def _augmentation_for(images: EncodedImages) -> Augmentation:
    """Augment colour images of 32×32 as CIFAR-10 is, but mirror no digits; leave all others as they are."""
    if images.shape != (3, 32, 32):
        return Augmentation()
    names = images.class_names or []
    return Augmentation(padding=4, flip=not (names and all(name.isdigit() for name in names)))


def _files_of(folder: Path) -> dict[Split, list[Path]]:
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give the one that holds train.parquet and test.parquet")
    names: tuple[Split, ...] = ("train", "validation", "test")
    files = {name: sorted(folder.glob(f"{name}*.parquet")) for name in names}
    for required in ("train", "test"):
        if not files[required]:
            raise DataError(f"{folder} has no {required}.parquet; it should hold train.parquet and test.parquet")
    return {name: found for name, found in files.items() if found}


def _read_table(file: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("reading parquet needs pyarrow; install it with: pip install 'secateur[vision]'") from error
    try:
        columns = parquet.read_schema(file).names
        wanted = [name for name in (*IMAGE_COLUMNS, LABEL_COLUMN) if name in columns]
        table = parquet.read_table(file, columns=wanted)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file} is not a readable parquet file: {' '.join(str(error).split())}") from error
    if LABEL_COLUMN not in columns or not set(IMAGE_COLUMNS) & set(columns):
        raise DataError(
            f"{file} has the columns {', '.join(columns) or 'none'}; it needs 'label', and 'img' or 'image'"
        )
    return table


def _image_column(table: Any, name: str) -> list[Any]:
    """Return the encoded images, or None where a row has none."""
    import pyarrow

    column = next(table.column(key) for key in IMAGE_COLUMNS if key in table.column_names)
    if pyarrow.types.is_struct(column.type) and "bytes" in [field.name for field in column.type]:
        column = pyarrow.chunked_array(
            [chunk.flatten()[column.type.get_field_index("bytes")] for chunk in column.chunks],
            type=column.type.field("bytes").type,
        )
    if not (pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type)):
        raise DataError(
            f"the image column of {name} holds {column.type}; it should hold encoded images: bytes, or {{bytes, path}}"
        )
    return column.to_pylist()  # type: ignore[no-any-return]


def _label_column(table: Any, name: str) -> Tensor:
    import pyarrow

    column = table.column(LABEL_COLUMN)
    if not pyarrow.types.is_integer(column.type):
        raise DataError(f"the label column of {name} holds {column.type}; it should hold whole numbers from 0")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise DataError(f"row {row} of {name} has no label; drop unlabelled rows")
    return torch.from_numpy(column.to_numpy().astype(np.int64))


def _class_names(table: Any) -> list[str] | None:
    """Return the class names that Hugging Face's writer leaves in the schema, if they are there."""
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    try:
        return [str(name) for name in json.loads(metadata or b"{}")["info"]["features"][LABEL_COLUMN]["names"]]
    except (TypeError, ValueError, KeyError):
        return None


def _import_pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError("decoding images needs Pillow; install it with: pip install 'secateur[vision]'") from error
    return Image


def _size(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{width}×{height} {'grey' if channels == 1 else 'colour'}"
