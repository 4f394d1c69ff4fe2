"""The header of a sparse file, checked against itself and its tensors before any of them is read; see FORMAT.md."""

import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from secateur.errors import ArtifactError
from secateur.sparse.entropy import GREATEST_RATIO
from secateur.sparse.relative import WIDEST, packed_bytes
from secateur.tensor_file import (
    DIMENSION_LIMIT,
    DTYPES,
    NAME_LIMIT,
    SIZE_LIMIT,
    Container,
    StoredShape,
    parse_json,
    read_container,
    shown,
)

FORMAT = "secateur-sparse"
VERSION = 1
KEY = "secateur"  # the one key in __metadata__
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Coding = Literal["packed", "deflate"]
Kind = Literal["own", "F16", "codebook"]

NAMES = {dtype: name for name, dtype in DTYPES.items()}
NO_CHECKSUM = "00000000"
CODED_TYPES = ("F64", "F32", "F16", "BF16")
ALWAYS_ALLOWED_BYTES = 256 * 2**20  # a decoded state of this size is read from a file of any size
GREATEST_GROWTH = 1000  # a larger state takes at most so many times the bytes of its file


@dataclass(frozen=True, kw_only=True)
class Coded:
    """How one weight is stored; the attributes are the keys that FORMAT.md describes."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dtype: str
    shape: tuple[int, ...]
    bits: int
    entries: int
    fillers: int
    kind: Kind
    centroids: int
    indices: tuple[Coding, int]
    values: tuple[Coding, int]

    @property
    def elements(self) -> int:
        """Number of elements of the weight."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one decoded element."""
        return DTYPES[self.dtype].itemsize

    @property
    def value_bits(self) -> int:
        """Width of a stored value."""
        if self.kind == "codebook":
            return max(1, self.centroids.bit_length())
        return 16 if self.kind == "F16" else 8 * self.itemsize

    @property
    def codebook_bytes(self) -> int:
        """Length of the codebook behind the two streams."""
        return 4 * self.centroids

    @property
    def stored_bytes(self) -> int:
        """Length of the weight in the file."""
        return self.indices[1] + self.values[1] + self.codebook_bytes


@dataclass(frozen=True, kw_only=True)
class SparseHeader:
    """The value of the ``secateur`` key."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    crc32: str = NO_CHECKSUM  # the first key
    weights: dict[str, Coded]
    aliases: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, JsonValue] = field(default_factory=dict)
    format: str = FORMAT
    version: int = VERSION

    def to_text(self) -> str:
        """Return it as JSON.

        Raises:
            ArtifactError: the provenance holds something that JSON cannot say.
        """
        try:
            return json.dumps(_HEADER.dump_python(self, mode="json"), allow_nan=False, separators=(",", ":"))
        except (ValueError, TypeError) as error:
            raise ArtifactError(
                f"the header cannot be written: {shown(error, 120)}; provenance takes JSON values only"
            ) from error


_HEADER = TypeAdapter(SparseHeader)


def is_sparse(container: Container) -> bool:
    """Say whether a safetensors file calls itself a sparse one; its header may still be refused."""
    try:
        content = json.loads(container.metadata.get(KEY, ""))
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_header(path: Path) -> tuple[Container, SparseHeader]:
    """Return what the header of a sparse file says; no tensor is read.

    Raises:
        ArtifactError: the file is missing, corrupt, hostile, of another kind or version.
    """
    container = read_container(path)
    if KEY not in container.metadata:
        raise ArtifactError(
            f"{path} holds tensors but says nothing of sparse weights (no {KEY!r} in its metadata); "
            "read it as a plain weight file"
        )
    text = container.metadata[KEY]
    if not text.isascii():  # as JSON can always be written; half of a surrogate pair is no text at all
        raise ArtifactError(f"the {KEY!r} metadata of {path} is not ASCII; write the file again")
    content = parse_json(text, f"the {KEY!r} metadata of {path}")
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != FORMAT:
        raise ArtifactError(
            f"{path} has the format {shown(found)!r} instead of {FORMAT!r}; give a file that secateur pack wrote"
        )
    if type(content.get("version")) is not int or content["version"] != VERSION:
        raise ArtifactError(
            f"{path} has format version {shown(content.get('version'))}, but this secateur reads version {VERSION}; "
            "read it with the secateur that wrote it"
        )
    missing = {"crc32", "weights", "aliases", "provenance"} - set(content)
    if missing:
        raise ArtifactError(f"the header of {path} lacks {', '.join(sorted(missing))}; write the file again")
    try:
        header = _HEADER.validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"the header of {path} is malformed: {_first(error)}; write the file again") from error
    _check(header, container, path)
    return container, header


def checksum_start(text: str, crc32: str) -> int:
    """Return the checksum so far: of the header's text, whatever checksum it holds."""
    return zlib.crc32(text.replace(_beginning(crc32), _beginning(NO_CHECKSUM), 1).encode())


def checksum_with(checksum: int, name: str, stored: StoredShape, data: NDArray[np.uint8]) -> int:
    """Return the checksum after one more tensor; they come in the order of their names."""
    sizes = ",".join(map(str, stored.shape))
    what = f"{name}\0{NAMES[stored.dtype]}\0{sizes}\0"
    return zlib.crc32(data.data, zlib.crc32(what.encode(), checksum))


def _beginning(crc32: str) -> str:
    return f'{{"crc32":"{crc32}",'


def decoded_bytes(container: Container, header: SparseHeader) -> int:
    """Return the bytes of the state that a file decodes to."""
    coded = sum(entry.elements * entry.itemsize for entry in header.weights.values())
    return coded + sum(stored.size_bytes for name, stored in container.tensors.items() if name not in header.weights)


def check_size(container: Container, header: SparseHeader, max_bytes: int | None, path: Path) -> None:
    """Refuse a file that would decode to more than is allowed.

    Raises:
        ArtifactError: more than ``max_bytes``, or without it more than FORMAT.md allows.
    """
    size = decoded_bytes(container, header)
    most = max(ALWAYS_ALLOWED_BYTES, GREATEST_GROWTH * container.size_bytes) if max_bytes is None else max_bytes
    if size > most:
        raise ArtifactError(
            f"{path} has {container.size_bytes:,} bytes and would take {size:,} decoded, but at most {most:,} are "
            "allowed; give a larger max_bytes if you trust it"
        )


def stored_shape(container: Container, header: SparseHeader, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return type and shape of a decoded tensor."""
    if name in header.weights:
        return DTYPES[header.weights[name].dtype], header.weights[name].shape
    return container.tensors[name].dtype, container.tensors[name].shape


def _check(header: SparseHeader, container: Container, path: Path) -> None:
    begins = container.metadata[KEY].startswith(_beginning(header.crc32))
    if not begins or not re.fullmatch("[0-9a-f]{8}", header.crc32):
        raise ArtifactError(
            f"the {KEY!r} metadata of {path} does not begin with a checksum of eight digits; write the file again"
        )
    for name, entry in header.weights.items():
        fault = _fault(entry)
        if fault is None and name not in container.tensors:
            fault = "is listed but not stored"
        if fault is None:
            stored = container.tensors[name]
            if stored.dtype != torch.uint8 or stored.shape != (entry.stored_bytes,):
                fault = (
                    f"should be stored as {entry.stored_bytes:,} bytes of U8, but is {stored.dtype} of shape "
                    f"{shown(stored.shape)}"
                )
        if fault is not None:
            raise ArtifactError(f"{path}: weight {shown(name)} {fault}; the file is damaged or was edited")
    for other, name in header.aliases.items():
        printable = 0 < len(other) <= NAME_LIMIT and other.isprintable()
        if not printable or other in container.tensors or name not in container.tensors:
            raise ArtifactError(
                f"{path} gives the tensor {shown(name)} the other name {shown(other)!r}, which is taken or names "
                "nothing; the file was edited"
            )


def _fault(entry: Coded) -> str | None:
    """Return what is wrong with an entry, on its own."""
    if entry.dtype not in CODED_TYPES:
        return f"has the type {shown(entry.dtype)!r}; coded weights are {', '.join(CODED_TYPES)}"
    if not 1 <= len(entry.shape) <= DIMENSION_LIMIT or not all(0 <= size <= SIZE_LIMIT for size in entry.shape):
        return f"has the shape {shown(entry.shape)}; a shape is 1 to {DIMENSION_LIMIT} numbers from 0 to {SIZE_LIMIT}"
    if not 1 <= entry.bits <= WIDEST:
        return f"has indices of {shown(entry.bits)} bits instead of 1 to {WIDEST}"
    if not 0 <= entry.entries <= entry.elements:
        return f"has {shown(entry.entries)} entries for {entry.elements} elements"
    if not 0 <= entry.fillers <= max(0, entry.entries - 1):
        return f"has {shown(entry.fillers)} fillers among {entry.entries} entries"
    fewest, most = (1 if entry.entries else 0, 255) if entry.kind == "codebook" else (0, 0)
    if not fewest <= entry.centroids <= most:
        return f"has a codebook of {shown(entry.centroids)} centroids, which its kind {entry.kind!r} does not have"
    indices = _stream_fault("indices", entry.indices, entry.entries, entry.bits)
    return indices or _stream_fault("values", entry.values, entry.entries, entry.value_bits)


def _stream_fault(what: str, stream: tuple[Coding, int], count: int, width: int) -> str | None:
    coding, size = stream
    if coding == "packed" and size != packed_bytes(count, width):
        return f"stores {count} {what} of {width} bits in {shown(size)} bytes instead of {packed_bytes(count, width)}"
    whole = 1 << max(0, (width - 1).bit_length() - 3)  # bytes of a number of this width: 1, 2, 4 or 8
    if coding == "deflate" and not (size > 0 and 0 < count * whole <= GREATEST_RATIO * size):
        return f"promises {count * whole} bytes of {what} from {shown(size)} compressed ones, which cannot be"
    return None


def _first(error: ValidationError) -> str:
    detail: Mapping[str, Any] = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, detail["loc"])) or "the object"
    return f"{shown(place, 120)}: {shown(detail['msg'], 120)}"
