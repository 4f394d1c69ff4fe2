"""Relative indices: how far each survivor lies from the one before (Han et al. 2015, arXiv:1506.02626, §3).

A gap of g is stored as g − 1 in b bits. Where that is too little, fillers of the largest gap and value zero go before
the survivor. The bits of a stream are laid out as FORMAT.md says, the lowest first.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import ArtifactError, UsageError

Unsigned = NDArray[Any]  # of unsigned integers
WIDEST = 16  # bits of an index
CHUNK = 2**18  # numbers at once, a multiple of 8: temporary arrays stay in the cache
SCAN = 2**20  # elements of a weight looked at in one go


def survivors(bits: Unsigned, telling: int) -> tuple[Unsigned, Unsigned]:
    """Find what is not zero.

    Args:
        bits: the elements of a weight in row-major order as unsigned integers, shape (N,).
        telling: the bits that tell an element from zero; all but the sign of a float.

    Returns:
        Of each survivor the number of zeros between it and the one before (gap − 1), and its bits; shapes (S,).
    """
    counts = np.uint32 if bits.size <= 2**32 else np.uint64
    zeros: list[Unsigned] = []
    found: list[Unsigned] = []
    last = -1
    for start in range(0, bits.size, SCAN):
        part = bits[start : start + SCAN]
        places = np.flatnonzero(part & bits.dtype.type(telling))
        if not places.size:
            continue
        found.append(part[places])
        places += start
        zeros.append((np.diff(places, prepend=last) - 1).astype(counts))
        last = int(places[-1])
    if not zeros:
        return np.empty(0, counts), np.empty(0, bits.dtype)
    return np.concatenate(zeros), np.concatenate(found)


def with_fillers(zeros: Unsigned, values: Unsigned, width: int) -> tuple[Unsigned, Unsigned, int]:
    """Return the indices and values of all entries, and how many of them are fillers.

    Args:
        zeros: gap − 1 of each survivor, shape (S,).
        values: one unsigned number per survivor, shape (S,); a filler gets 0.
        width: b, bits of an index.

    Returns:
        Indices and values, shape (S + fillers,), and the number of fillers.
    """
    small = np.uint8 if width <= 8 else np.uint16
    top = (1 << width) - 1
    low = (zeros & zeros.dtype.type(top)).astype(small)
    before = zeros >> zeros.dtype.type(width)
    fillers = int(before.sum())
    if not fillers:
        return low, values, 0
    places = np.cumsum(before, dtype=np.int64)
    places += np.arange(zeros.size)
    indices = np.full(zeros.size + fillers, top, small)
    indices[places] = low
    padded = np.zeros(zeros.size + fillers, values.dtype)
    padded[places] = values
    return indices, padded, fillers


def best_width(zeros: Unsigned, value_bits: float, *, entropy: bool) -> int:
    """Return the width of an index that takes the fewest bytes, the smallest of equal ones.

    Args:
        zeros: gap − 1 of each survivor.
        value_bits: what a value takes on average, a filler's as well.
        entropy: whether streams will be entropy coded; then the entropy of the indices counts and not their width.
    """
    if not zeros.size:
        return 1
    costs = {width: _cost(zeros, width, value_bits, entropy=entropy) for width in range(1, WIDEST + 1)}
    return min(costs, key=lambda width: (costs[width], width))


def _cost(zeros: Unsigned, width: int, value_bits: float, *, entropy: bool) -> float:
    """Return the bits that indices and values take together."""
    fillers = int((zeros >> zeros.dtype.type(width)).sum())
    entries = zeros.size + fillers
    if not entropy:
        return entries * (width + value_bits)
    top = (1 << width) - 1
    low = (zeros & zeros.dtype.type(top)).astype(np.int64)
    counts = np.bincount(low, minlength=top + 1)
    counts[top] += fillers
    # A coded filler costs what tells it from a survivor; the survivors' own values cost the same at every width.
    return _entropy_bits(counts) + _entropy_bits(np.array([zeros.size, fillers]))


def _entropy_bits(counts: NDArray[np.int64]) -> float:
    """Return the bits of a stream with these counts of symbols under an ideal code."""
    seen = counts[counts > 0].astype(np.float64)
    return float((seen * (math.log2(seen.sum()) - np.log2(seen))).sum())


def packed_bytes(count: int, width: int) -> int:
    """Return the length of a packed stream of ``count`` numbers."""
    return (count * width + 7) // 8


def pack(numbers: Unsigned, width: int) -> bytes:
    """Return numbers of ``width`` bits one after the other, the lowest bit first.

    Args:
        numbers: each below 2^width, shape (N,); 8, 16, 32 or 64 bits of width are those of its type.
        width: 1 to 16, or the bits of the type.
    """
    if width == 8 * numbers.itemsize:
        return numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).tobytes()
    pieces = [_pack_chunk(numbers[start : start + CHUNK], width) for start in range(0, numbers.size, CHUNK)]
    return b"".join(pieces)[: packed_bytes(numbers.size, width)]


def _pack_chunk(numbers: Unsigned, width: int) -> bytes:
    rows = -(-numbers.size // 8)
    padded = np.zeros((rows, 8), numbers.dtype)
    padded.reshape(-1)[: numbers.size] = numbers
    if width > 8:
        split = np.unpackbits(padded.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
        return np.packbits(split[:, :width], bitorder="little").tobytes()
    # Eight numbers of b bits are b bytes of one 64-bit word.
    words = np.zeros(rows, "<u8")
    for column in range(8):
        words |= padded[:, column].astype("<u8") << np.uint64(column * width)
    return words.view(np.uint8).reshape(rows, 8)[:, :width].tobytes()


def unpack(data: NDArray[np.uint8], count: int, width: int) -> Unsigned:
    """Return what :func:`pack` wrote.

    Args:
        data: exactly the bytes of the stream.
        count: how many numbers.
        width: 1 to 16.

    Raises:
        ArtifactError: the length is another, or bits behind the last number are not zero.
    """
    if data.size != packed_bytes(count, width):
        raise ArtifactError(f"{count:,} numbers of {width} bits do not take {data.size:,} bytes; the file is damaged")
    if (count * width) % 8 and data[-1] >> ((count * width) % 8):
        raise ArtifactError("bits behind the last number of a stream are not zero; the file is damaged")
    numbers = np.empty(count, np.uint8 if width <= 8 else np.uint16)
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        begin = start * width // 8
        numbers[start : start + size] = _unpack_chunk(data[begin : begin + packed_bytes(size, width)], size, width)
    return numbers


def _unpack_chunk(data: NDArray[np.uint8], count: int, width: int) -> Unsigned:
    rows = -(-count // 8)
    padded = np.zeros(rows * width, np.uint8)
    padded[: data.size] = data
    if width > 8:
        split = np.zeros((rows * 8, 16), np.uint8)
        split[:, :width] = np.unpackbits(padded, bitorder="little").reshape(rows * 8, width)
        return np.packbits(split, axis=1, bitorder="little").view("<u2").reshape(-1)[:count]
    wide = np.zeros((rows, 8), np.uint8)
    wide[:, :width] = padded.reshape(rows, width)
    words = wide.view("<u8").reshape(rows)
    numbers = np.empty((rows, 8), np.uint8)
    mask = np.uint64((1 << width) - 1)
    for column in range(8):
        numbers[:, column] = (words >> np.uint64(column * width)) & mask
    return numbers.reshape(-1)[:count]


def check_width(width: int, what: str) -> None:
    """Refuse a width that no index has.

    Raises:
        UsageError: it is not 1 to 16.
    """
    if type(width) is not int or not 1 <= width <= WIDEST:
        raise UsageError(f"{what} is {width!r}; give 1 to {WIDEST} bits, as a whole number")
