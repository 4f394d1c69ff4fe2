"""The search by divergence: the definition written out, beside the fast form."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secateur.quantization import CALIBRATORS, Calibrated, RangeHistogram, Spec
from secateur.quantization.calibrators.entropy import FIRST_BIN, divergence, divergences, levels_of

SYMMETRIC = Spec(signed=True, symmetric=True)
AFFINE = Spec(signed=False, symmetric=False)


def decay(height: float, length: float) -> NDArray[np.int64]:
    return np.round(height * np.exp(-np.arange(2048) / length)).astype(np.int64)


def as_published(counts: Sequence[int], edge: int, levels: int) -> float:
    """Loop over bins as NVIDIA's code does: digitise, average over filled bins, expand, normalise, compare."""
    spaces = np.linspace(0, edge, levels + 1)
    level = np.digitize(np.arange(edge), spaces) - 1
    p = [float(count) for count in counts[:edge]]
    q = [0.0] * edge
    for number in range(levels):
        bins = [bin for bin in range(edge) if level[bin] == number and counts[bin] > 0]
        for bin in bins:
            q[bin] = sum(counts[at] for at in bins) / len(bins)
    p[-1] += sum(counts[edge:])
    total_p, total_q = sum(p), sum(q)
    if not total_p or not total_q:
        return math.inf
    parts = [(a / total_p, b / total_q) for a, b in zip(p, q, strict=True) if a > 0]
    return math.inf if any(b == 0 for _, b in parts) else sum(a * math.log(a / b) for a, b in parts)


def calibrated(name: str, counts: NDArray[np.int64]) -> Calibrated:
    above = [*counts.tolist(), 0]
    written = {"site": "x", "lowest": 0.0, "highest": float(len(counts)), "width": 1.0, "above": above}
    return CALIBRATORS[name](RangeHistogram.from_json({**written, "below": [0] * len(above)}), SYMMETRIC)


def chosen(name: str, counts: NDArray[np.int64]) -> float:
    found = calibrated(name, counts)
    assert found.note is None
    return found.range[1]


def test_the_published_example() -> None:
    # Two levels over [1, 0, 2, 3 | 5, 3, 1, 7]: 6 over three filled bins, 16 over four. Q = [2, 0, 2, 2, 4, 4, 4, 4].
    counts = np.array([1, 0, 2, 3, 5, 3, 1, 7])
    q = [2, 0, 2, 2, 4, 4, 4, 4]
    by_hand = sum(p / 22 * math.log(p / of_q) for p, of_q in zip(counts.tolist(), q, strict=True) if p)
    assert divergence(counts, 8, 2) == pytest.approx(by_hand)
    # Beyond the edge: in P's last bin only. Q = [2, 0, 2, 2] of 6; P = [1, 0, 2, 19] of 22.
    by_hand = sum(p / 22 * math.log(p / 22 / (2 / 6)) for p in (1, 2, 19))
    assert divergence(counts, 4, 1) == pytest.approx(by_hand)
    assert divergence(counts, 2, 2) == math.inf  # the bin that gets them was empty, so Q has nothing there


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 50) | st.just(0), min_size=1, max_size=60), st.sampled_from([2, 7, 16, 128]), st.data())
def test_the_definition_is_the_published_loop(counts: list[int], levels: int, data: st.DataObject) -> None:
    edge = data.draw(st.integers(1, len(counts)))
    expected = as_published(counts, edge, levels)
    assert divergence(np.array(counts), edge, levels) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("levels", [8, 64, 128, 191, 256])
@pytest.mark.parametrize("seed", range(4))
def test_all_thresholds_at_once_are_the_definition(seed: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    counts = generator.poisson(np.exp(generator.normal(size=300) * 2 - np.arange(300) / 60))
    fast = divergences(counts, levels)
    slow = [divergence(counts, edge, levels) for edge in range(FIRST_BIN, len(counts) + 1)]
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-12)
    assert np.isinf(fast).any()


@pytest.mark.parametrize(
    ("height", "length", "edge", "least"), [(1e6, 150, 1664, 3.6447e-4), (1e7, 60, 640, 3.4364e-4)]
)
def test_golden_divergences(height: float, length: float, edge: int, least: float) -> None:
    counts = decay(height, length)
    counts[0] = counts[1]
    found = divergences(counts, 128)
    assert np.isfinite(found).all()
    assert FIRST_BIN + int(found.argmin()) == edge
    assert found.min() == pytest.approx(least, rel=1e-4)


def test_a_swollen_zero_bin_changes_nothing() -> None:
    counts = decay(1e6, 150)
    swollen = counts.copy()
    swollen[0] = 10**9
    assert chosen("entropy", swollen) == chosen("entropy", counts) == 1664
    assert chosen("entropy-tensorrt2017", counts) == 1664.5
    assert "would clip" in str(calibrated("entropy-tensorrt2017", swollen).note)  # which the rule is there to prevent


def test_of_equal_thresholds_the_last_is_taken() -> None:
    # Filled up to bin 1500, and the same from there on at every edge: P and Q do not change, only how far they reach.
    counts = np.zeros(2048, dtype=np.int64)
    counts[:1500] = 1000
    edges = np.arange(FIRST_BIN, 2049)
    counts[0] = counts[1]
    found = divergences(counts, 128)
    equal = edges[found <= found.min() + 1e-12]
    assert len(equal) > 500
    assert chosen("entropy", counts) == equal[-1] == 2048
    assert chosen("entropy-tensorrt2017", counts) == equal[0] + 0.5


def test_variants_by_hand() -> None:
    counts = decay(1e6, 150)
    # The middle of the bin after the last that is kept.
    assert chosen("entropy-tensorrt2017", counts) == 1664.5
    assert chosen("entropy-smoothed", counts) == 1664


def test_smoothing_allows_a_threshold_behind_an_empty_bin() -> None:
    counts = np.array([40, 20, 0, 1])
    assert divergence(counts, 3, 2) == math.inf
    smoothed = divergence(counts, 3, 2, smoothing=1e-4)
    # Levels of 40 and 20 on average 30, and of nothing, which gets a ten-thousandth from the two.
    p, q = np.array([40, 20, 1.0]), np.array([30 - 5e-5, 30 - 5e-5, 1e-4])
    assert smoothed == pytest.approx(float((p / 61 * np.log(p / 61 / (q / q.sum()))).sum()))


def test_levels_that_magnitudes_get() -> None:
    one_sided, two_sided = RangeHistogram(), RangeHistogram()
    one_sided.update(torch.tensor([0.0, 3.0]))
    two_sided.update(torch.tensor([-1.0, 3.0]))
    assert levels_of(one_sided, SYMMETRIC) == levels_of(two_sided, SYMMETRIC) == 128
    assert levels_of(one_sided, AFFINE) == 256
    assert levels_of(two_sided, AFFINE) == 192  # three quarters of 256
