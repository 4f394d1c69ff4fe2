"""One weight and the bytes that stand for it; see FORMAT.md."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import ArtifactError
from secateur.sparse.codebook import Codebook
from secateur.sparse.entropy import deflated, inflated
from secateur.sparse.layout import NAMES, Coded, Coding, Kind
from secateur.sparse.relative import CHUNK, Unsigned, best_width, pack, survivors, unpack, with_fillers
from secateur.tensor_file import DTYPES

Width = int | Literal["best"]

_HALF_INFINITY = 0x7C00
_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_UNSIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}


def code(
    weight: Tensor, *, width: Width, half: bool = False, codebook: Codebook | None = None, entropy: bool
) -> tuple[Coded, bytes]:
    """Return how a weight is stored, and its bytes.

    Args:
        weight: of a floating type and one dimension or more.
        width: bits of an index, or the width that gives the fewest bytes.
        half: round values to half precision.
        codebook: store these codes and centroids instead of the weight's own values.
        entropy: compress the streams where that makes them smaller.

    Raises:
        ArtifactError: a value is too large for half precision.
    """
    kind: Kind = "codebook" if codebook is not None else "F16" if half else "own"
    numbers = _bits(
        codebook.codes if codebook is not None else weight.detach().to("cpu", torch.float16) if half else weight
    )
    value_bits = codebook.bits if codebook is not None else 8 * numbers.itemsize
    # A mask multiplied in leaves −0.0 where the weight was negative, which is as pruned as +0.0.
    zeros, found = survivors(numbers, 2**value_bits - 1 if codebook is not None else 2 ** (value_bits - 1) - 1)
    if half and codebook is None and (found & 0x7FFF == _HALF_INFINITY).any():
        _refuse_overflow(weight)
    if width == "best":
        width = best_width(zeros, value_bits, entropy=entropy)
    indices, values, fillers = with_fillers(zeros, found, width)
    del numbers, zeros, found
    index_coding, index_bytes = _stream(indices, width, entropy=entropy, repetitions=True)
    value_coding, value_bytes = _stream(values, value_bits, entropy=entropy, repetitions=kind == "codebook")
    centroids = np.empty(0, "<f4")
    if codebook is not None and values.size:
        centroids = codebook.centroids.detach().cpu().numpy().astype("<f4")
    coded = Coded(
        dtype=NAMES[weight.dtype],
        shape=tuple(weight.shape),
        bits=width,
        entries=values.size,
        fillers=fillers,
        kind=kind,
        centroids=centroids.size,
        indices=(index_coding, len(index_bytes)),
        values=(value_coding, len(value_bytes)),
    )
    return coded, b"".join((index_bytes, value_bytes, centroids.tobytes()))


def decode(coded: Coded, data: NDArray[np.uint8]) -> Tensor:
    """Return the weight that the bytes stand for.

    Args:
        coded: an entry of a header that was checked.
        data: its bytes, as many as the entry says.

    Raises:
        ArtifactError: the bytes break a rule of FORMAT.md.
    """
    index_end = coded.indices[1]
    value_end = index_end + coded.values[1]
    indices = _numbers(data[:index_end], coded.indices[0], coded.entries, coded.bits)
    values = _numbers(data[index_end:value_end], coded.values[0], coded.entries, coded.value_bits)
    widened = _widening(coded, data[value_end:])
    weight = np.zeros(coded.elements, _UNSIGNED[coded.itemsize])
    position, fillers, top = -1, 0, (1 << coded.bits) - 1
    for start in range(0, coded.entries, CHUNK):
        steps = indices[start : start + CHUNK]
        part = values[start : start + CHUNK]
        places = np.cumsum(steps, dtype=np.int64)
        places += np.arange(position + 1, position + 1 + steps.size)
        position = int(places[-1])
        if position >= coded.elements:
            raise ArtifactError(f"indices lead beyond the last of {coded.elements:,} elements; the file is damaged")
        empty = part == 0
        fillers += int(np.count_nonzero(empty))
        if fillers > coded.fillers or (steps[empty] != top).any():
            raise ArtifactError("an entry without a value is no filler; the file is damaged")
        weight[places] = widened(part)
    if fillers != coded.fillers or (coded.entries and values[-1] == 0):
        raise ArtifactError(f"{coded.fillers:,} fillers are promised, but other ones are there; the file is damaged")
    tensor = torch.from_numpy(weight.view(f"<i{coded.itemsize}"))
    return tensor.view(DTYPES[coded.dtype]).reshape(coded.shape)


def _bits(tensor: Tensor) -> Unsigned:
    """Return the elements of a tensor in row-major order as unsigned integers of their bits."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    size = flat.element_size()
    bits: Unsigned = flat.view(_SIGNED[size]).numpy().view(_UNSIGNED[size])
    return bits


def _refuse_overflow(weight: Tensor) -> None:
    """Refuse a weight with a value that only rounding makes infinite."""
    large = weight.detach()[~torch.isinf(weight)].half()
    if bool(torch.isinf(large).any()):
        raise ArtifactError(
            f"a value of magnitude {float(weight[~torch.isinf(weight)].abs().nan_to_num().max()):.3g} is too large for "
            "fp16, whose largest is 65,504; use fp32"
        )


def _stream(numbers: Unsigned, width: int, *, entropy: bool, repetitions: bool) -> tuple[Coding, bytes]:
    packed = pack(numbers, width)
    if entropy and numbers.size:
        compressed = deflated(numbers, repetitions=repetitions)
        if len(compressed) < len(packed):
            return "deflate", compressed
    return "packed", packed


def _numbers(data: NDArray[np.uint8], coding: Coding, count: int, width: int) -> Unsigned:
    whole = 1 << max(0, (width - 1).bit_length() - 3)
    if coding == "deflate":
        numbers = inflated(data, count, _UNSIGNED[whole])
        if width < 8 * whole and count and int(numbers.max()) >> width:
            raise ArtifactError(f"a number of {width} bits is larger than those hold; the file is damaged")
        return numbers
    if width == 8 * whole:
        return data.view(np.uint8).copy().view(_UNSIGNED[whole]) if data.size else np.empty(0, _UNSIGNED[whole])
    return unpack(data, count, width)


def _widening(coded: Coded, codebook: NDArray[np.uint8]) -> Callable[[Unsigned], Unsigned]:
    """Return what makes stored values of the bits of the decoded type.

    Raises:
        ArtifactError: a centroid is not finite.
    """
    dtype = DTYPES[coded.dtype]
    if coded.kind == "own":
        return lambda part: part
    if coded.kind == "F16":
        return lambda part: _bits(torch.from_numpy(part.view("<f2")).to(dtype))
    centroids = np.frombuffer(codebook.tobytes(), "<f4")
    if not np.isfinite(centroids).all():
        raise ArtifactError("a centroid of a codebook is infinite or NaN; the file is damaged")
    table = _bits(torch.from_numpy(np.concatenate([np.zeros(1, "<f4"), centroids])).to(dtype))

    def looked_up(part: Unsigned) -> Unsigned:
        if int(part.max()) > coded.centroids:
            raise ArtifactError(f"a code has none of the {coded.centroids} centroids; the file is damaged")
        found: Unsigned = table[part]
        return found

    return looked_up
