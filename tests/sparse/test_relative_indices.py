"""Relative indices and the bits that they are packed into."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import ArtifactError
from secateur.sparse.relative import CHUNK, SCAN, best_width, pack, packed_bytes, survivors, unpack, with_fillers

ALL = 2**32 - 1


def entries(places: list[int], width: int) -> tuple[list[int], list[int]]:
    """Return indices and values of survivors at these places, each with its place + 1 as its value."""
    bits = np.zeros(places[-1] + 3, np.uint32)
    bits[places] = np.array(places) + 1
    zeros, values = survivors(bits, ALL)
    indices, padded, fillers = with_fillers(zeros, values, width)
    assert fillers == len(indices) - len(places)
    return indices.tolist(), padded.tolist()


def test_the_example_of_the_format() -> None:
    assert entries([1, 5, 10], 2) == ([1, 3, 3, 0], [2, 6, 0, 11])


@pytest.mark.parametrize("width", range(1, 17))
def test_gaps_about_the_largest(width: int) -> None:
    most = 2**width
    for gap, expected in (
        (most - 1, ([most - 2], [])),
        (most, ([most - 1], [])),
        (most + 1, ([most - 1, 0], [0])),
        (2 * most, ([most - 1, most - 1], [0])),
        (2 * most + 1, ([most - 1, most - 1, 0], [0, 0])),
    ):
        if gap < 1:
            continue
        indices, fillers = expected
        # Behind another survivor at place 1, and as the first one.
        assert entries([1, 1 + gap], width)[0][-len(indices) :] == indices
        assert entries([1, 1 + gap], width)[1] == [2, *fillers, 2 + gap]
        assert entries([gap - 1], width) == (indices, [*fillers, gap])


def test_the_first_element_and_none() -> None:
    bits = np.array([7, 0, 0], np.uint32)
    zeros, values = survivors(bits, ALL)
    assert (zeros.tolist(), values.tolist()) == ([0], [7])
    zeros, values = survivors(np.zeros(5, np.uint32), ALL)
    indices, padded, fillers = with_fillers(zeros, values, 5)
    assert indices.size == padded.size == fillers == 0


def test_gaps_run_on_across_the_parts_that_are_looked_at() -> None:
    bits = np.zeros(2 * SCAN + 10, np.uint8)
    bits[[3, SCAN - 1, SCAN, 2 * SCAN + 9]] = 1
    zeros, values = survivors(bits, 255)
    assert zeros.tolist() == [3, SCAN - 5, 0, SCAN + 8]
    assert values.tolist() == [1] * 4


def bit_string(numbers: np.ndarray, width: int) -> bytes:
    """Pack by the words of the format, one bit at a time."""
    data = bytearray(packed_bytes(len(numbers), width))
    for number, value in enumerate(numbers.tolist()):
        for bit in range(width):
            place = number * width + bit
            data[place // 8] |= (value >> bit & 1) << place % 8
    return bytes(data)


@pytest.mark.parametrize("width", range(1, 17))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 61])
def test_packed_bits_are_those_of_the_format(width: int, count: int) -> None:
    dtype = np.uint8 if width <= 8 else np.uint16
    numbers = np.random.default_rng(width * 100 + count).integers(0, 2**width, count).astype(dtype)
    data = pack(numbers, width)
    assert data == bit_string(numbers, width)
    assert unpack(np.frombuffer(data, np.uint8), count, width).tolist() == numbers.tolist()


@pytest.mark.parametrize("width", [3, 5, 8, 13])
def test_packing_runs_on_across_chunks(width: int) -> None:
    dtype = np.uint8 if width <= 8 else np.uint16
    numbers = np.random.default_rng(width).integers(0, 2**width, 2 * CHUNK + 5).astype(dtype)
    data = np.frombuffer(pack(numbers, width), np.uint8)
    assert data.size == packed_bytes(numbers.size, width)
    assert np.array_equal(unpack(data, numbers.size, width), numbers)
    # A later chunk starts at a byte of its own: the second is packed as if alone.
    assert pack(numbers[CHUNK : CHUNK + 16], width) == data[CHUNK * width // 8 :][: 2 * width].tobytes()


def test_streams_of_another_length_or_with_padding_are_refused() -> None:
    data = np.frombuffer(pack(np.array([1, 2, 3], np.uint8), 5), np.uint8)
    with pytest.raises(ArtifactError, match="4 numbers of 5 bits do not take 2 bytes"):
        unpack(data, 4, 5)
    padded = data.copy()
    padded[-1] |= 0x80
    with pytest.raises(ArtifactError, match="bits behind the last number"):
        unpack(padded, 3, 5)


@given(
    places=st.lists(st.integers(0, 3000), min_size=1, max_size=60, unique=True).map(sorted),
    width=st.integers(1, 16),
)
@settings(max_examples=150, deadline=None)
def test_places_come_back_and_the_cost_is_what_is_stored(places: list[int], width: int) -> None:
    bits = np.zeros(places[-1] + 1, np.uint16)
    bits[places] = 1
    zeros, values = survivors(bits, 1)
    indices, padded, _ = with_fillers(zeros, values, width)
    found = np.cumsum(indices.astype(np.int64) + 1) - 1
    assert found[padded > 0].tolist() == places
    assert (indices[padded == 0] == 2**width - 1).all()
    sizes = {w: with_fillers(zeros, values, w)[0].size * (w + 32) for w in range(1, 17)}
    assert sizes[best_width(zeros, 32, entropy=False)] == min(sizes.values())


def test_the_best_width_of_a_dense_weight_is_one_bit() -> None:
    assert best_width(np.zeros(100, np.uint32), 32, entropy=False) == 1
    assert best_width(np.zeros(0, np.uint32), 32, entropy=True) == 1
