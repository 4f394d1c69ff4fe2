"""The safetensors container: its header, checked before anything is allocated for a tensor."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from secateur.errors import ArtifactError

HEADER_LIMIT_BYTES = 16 * 2**20
TENSOR_LIMIT = 100_000
NAME_LIMIT = 512  # characters
DIMENSION_LIMIT = 8
SIZE_LIMIT = 2**48  # of one dimension

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
}


@dataclass(frozen=True)
class StoredShape:
    """Type and shape of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Container:
    """What the header of a safetensors file says.

    Attributes:
        tensors: name → type and shape.
        metadata: the strings in ``__metadata__``.
        size_bytes: of the whole file.
        begins: name → byte of the file at which the tensor's data begins.
    """

    tensors: dict[str, StoredShape]
    metadata: dict[str, str]
    size_bytes: int
    begins: dict[str, int]


def read_container(path: Path) -> Container:
    """Read and check the header of a safetensors file; no tensor is read.

    Raises:
        ArtifactError: the file is missing, unreadable, truncated, over a limit, or breaks the format.
    """
    size_bytes, text = _header_text(path)
    content = parse_json(text, f"the header of {path}")
    if not isinstance(content, dict):
        raise ArtifactError(
            f"the header of {path} is a JSON {type(content).__name__} instead of an object; write it again"
        )
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ArtifactError(f"the __metadata__ of {path} is not an object of strings; write the file again")
    if len(content) > TENSOR_LIMIT:
        raise ArtifactError(
            f"{path} lists {len(content):,} tensors, but at most {TENSOR_LIMIT:,} are allowed; it is not a model"
        )
    spans = {name: _entry(name, entry, path) for name, entry in content.items()}
    data_begin = 8 + len(text)
    _check_spans({name: span for name, (_, span) in spans.items()}, size_bytes - data_begin, path)
    begins = {name: data_begin + begin for name, (_, (begin, _)) in spans.items()}
    return Container({name: stored for name, (stored, _) in spans.items()}, metadata, size_bytes, begins)


def parse_json(text: bytes | str, what: str) -> Any:
    """Return what ``text`` says, refusing repeated keys and numbers that JSON does not have.

    Raises:
        ArtifactError: it is not JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is repeated")
        return found

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not a number")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{what} is not JSON ({shown(error, 80)}); the file is damaged or of another kind"
        ) from error


def shown(value: object, limit: int = 60) -> str:
    """Return ``value`` on one printable line of at most ``limit`` characters, for messages about foreign files."""
    text = " ".join(str(value).split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _header_text(path: Path) -> tuple[int, bytes]:
    """Return the size of the file and the bytes of its header."""
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder; give the .safetensors file in it")
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}; give the path of a .safetensors file")
    try:
        with path.open("rb") as file:
            # Regular files only, so the size is that of the data.
            size_bytes = path.stat().st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length < 2 or length > min(size_bytes - 8, HEADER_LIMIT_BYTES):
                raise ArtifactError(_no_header(path, start, size_bytes))
            text = file.read(length)
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error.strerror or error}; check the file and its permissions"
        ) from error
    if len(text) < length:
        raise ArtifactError(f"{path} ends within its header ({len(text)} of {length} bytes); copy it again")
    return size_bytes, text


def _no_header(path: Path, start: bytes, size_bytes: int) -> str:
    """Return why the first bytes of a file are not the length of a header."""
    length = int.from_bytes(start, "little")
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        return f"{path} is a pickle or zip archive, which is never read; save the model with secateur.save"
    if len(start) == 8 and 2 <= length <= size_bytes - 8:
        return (
            f"the header of {path} has {length:,} bytes, but at most {HEADER_LIMIT_BYTES:,} are allowed; "
            "it is not a model saved by secateur"
        )
    return (
        f"{path} has {size_bytes} bytes, which does not fit the header length {length} at its start; "
        "it is truncated or not a safetensors file"
    )


def _entry(name: str, entry: Any, path: Path) -> tuple[StoredShape, tuple[int, int]]:
    if not name or len(name) > NAME_LIMIT or not name.isprintable():
        raise ArtifactError(
            f"{path} names a tensor {shown(name)!r} of {len(name)} characters; "
            f"names have 1 to {NAME_LIMIT} printable ones"
        )
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ArtifactError(
            f"{path}: tensor {shown(name)} needs exactly dtype, shape and data_offsets; write the file again"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ArtifactError(
            f"{path}: tensor {shown(name)} has the unknown type {shown(dtype)!r}; known are {', '.join(DTYPES)}"
        )
    if not _are_sizes(shape, DIMENSION_LIMIT):
        raise ArtifactError(
            f"{path}: tensor {shown(name)} has the shape {shown(shape)}; a shape is up to {DIMENSION_LIMIT} whole "
            f"numbers from 0 to {SIZE_LIMIT}"
        )
    if not _are_sizes(offsets, 2) or len(offsets) != 2:
        raise ArtifactError(
            f"{path}: tensor {shown(name)} has the data_offsets {shown(offsets)} instead of [begin, end]"
        )
    stored = StoredShape(DTYPES[dtype], tuple(shape))
    begin, end = offsets
    if end - begin != stored.size_bytes:
        raise ArtifactError(
            f"{path}: tensor {shown(name)} of {dtype} {tuple(shape)} has {stored.size_bytes} bytes, "
            f"but its data_offsets span {end - begin}; the file is damaged"
        )
    return stored, (begin, end)


def _are_sizes(values: Any, most: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= most
        and all(type(value) is int and 0 <= value <= SIZE_LIMIT for value in values)
    )


def _check_spans(spans: dict[str, tuple[int, int]], data_bytes: int, path: Path) -> None:
    """Refuse data that overlaps, leaves gaps, or does not end with the file."""
    position = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != position:
            kind = "overlaps other data" if begin < position else "leaves a gap before it"
            raise ArtifactError(
                f"{path}: tensor {shown(name)} begins at byte {begin} instead of {position} and {kind}; it is damaged"
            )
        position = end
    if position != data_bytes:
        raise ArtifactError(
            f"{path} should hold {position} bytes of tensors but holds {data_bytes}; "
            f"{'it is truncated, copy it again' if data_bytes < position else 'it has bytes that no tensor owns'}"
        )
