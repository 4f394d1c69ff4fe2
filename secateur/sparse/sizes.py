"""What each weight of a sparse file takes, beside what it takes dense, in compressed rows (CSR) and in a zip."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from secateur.sparse.layout import Coded, Kind, SparseHeader, read_header
from secateur.tensor_file import Container


@dataclass(frozen=True, kw_only=True)
class WeightSize:
    """Bytes of one coded weight.

    Attributes:
        name: of the tensor.
        shape: of the tensor.
        survivors: elements that are not zero.
        fillers: entries that only bridge a gap.
        bits: width of an index before entropy coding.
        kind: of its values: ``own``, ``F16`` or ``codebook``.
        centroids: size of its codebook.
        index_bytes: of the stream of indices, fillers included.
        value_bytes: of the stream of values, fillers included.
        codebook_bytes: of the codebook.
    """

    name: str
    shape: tuple[int, ...]
    survivors: int
    fillers: int
    bits: int
    kind: Kind
    centroids: int
    index_bytes: int
    value_bytes: int
    codebook_bytes: int

    @property
    def elements(self) -> int:
        """Number of elements, zeros included."""
        return torch.Size(self.shape).numel()

    @property
    def total_bytes(self) -> int:
        """Bytes in the file."""
        return self.index_bytes + self.value_bytes + self.codebook_bytes

    @property
    def filler_bytes(self) -> float:
        """Share of the fillers in the bytes of both streams, each entry counted alike."""
        entries = self.survivors + self.fillers
        return (self.index_bytes + self.value_bytes) * self.fillers / entries if entries else 0.0

    @property
    def dense_bytes(self) -> int:
        """Bytes as dense float32."""
        return 4 * self.elements

    @property
    def csr_bytes(self) -> int:
        """Bytes in compressed rows: float32 values, 32-bit columns, 32-bit row starts; rows are the first dimension."""
        return 8 * self.survivors + 4 * (self.shape[0] + 1)


@dataclass(frozen=True, kw_only=True)
class FileSizes:
    """Bytes of a sparse file.

    Attributes:
        weights: the coded ones, by name.
        dense_tensor_bytes: of all tensors that are stored as they are.
        header_bytes: of the header.
        zip_bytes: of each weight dense and deflated, as ``numpy.savez_compressed`` does; empty where nobody asked.
    """

    weights: tuple[WeightSize, ...]
    dense_tensor_bytes: int
    header_bytes: int
    zip_bytes: Mapping[str, int]

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return sum(weight.total_bytes for weight in self.weights) + self.dense_tensor_bytes + self.header_bytes

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors with the coded weights as dense float32."""
        return sum(weight.dense_bytes for weight in self.weights) + self.dense_tensor_bytes

    def with_zip(self, state: Mapping[str, Tensor]) -> "FileSizes":
        """Return it with the sizes that a zip archive of the dense weights would have; takes seconds for large models.

        Args:
            state: the dense tensors, such as :func:`secateur.sparse.decode` returns.
        """
        return replace(self, zip_bytes={weight.name: zipped_bytes(state[weight.name]) for weight in self.weights})


def file_sizes(path: Path | str) -> FileSizes:
    """Return what the parts of a sparse file take; only its header is read.

    Raises:
        ArtifactError: the file is missing, corrupt or hostile.
    """
    return sizes_of(*read_header(Path(path)))


def sizes_of(container: Container, header: SparseHeader) -> FileSizes:
    """Return what the parts of a file with this header take."""
    tensor_bytes = {name: stored.size_bytes for name, stored in container.tensors.items()}
    return FileSizes(
        weights=tuple(_of_weight(name, header.weights[name]) for name in sorted(header.weights)),
        dense_tensor_bytes=sum(size for name, size in tensor_bytes.items() if name not in header.weights),
        header_bytes=container.size_bytes - sum(tensor_bytes.values()),
        zip_bytes={},
    )


def zipped_bytes(tensor: Tensor) -> int:
    """Return the bytes of a dense tensor after DEFLATE at zlib's usual level."""
    return len(zlib.compress(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data))


def _of_weight(name: str, coded: Coded) -> WeightSize:
    return WeightSize(
        name=name,
        shape=coded.shape,
        survivors=coded.entries - coded.fillers,
        fillers=coded.fillers,
        bits=coded.bits,
        kind=coded.kind,
        centroids=coded.centroids,
        index_bytes=coded.indices[1],
        value_bytes=coded.values[1],
        codebook_bytes=coded.codebook_bytes,
    )
