"""All calibrators on vectors with known answers, and on tensors that have no sensible answer but the whole range."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import QuantizationError, UsageError
from secateur.quantization import CALIBRATORS, RangeHistogram, Spec, affine_of, calibrator_named, percentile
from secateur.quantization.calibrators.squared_error import squared_error, squared_errors
from secateur.randomness import generator_for

SYMMETRIC = Spec(signed=True, symmetric=True)
AFFINE = Spec(signed=False, symmetric=False)
ENTROPIES = ["entropy", "entropy-tensorrt2017", "entropy-smoothed"]


def of(*values: Tensor) -> RangeHistogram:
    found = RangeHistogram("layer1.relu")
    for part in values:
        found.update(part)
    return found


def of_counts(counts: NDArray[np.int64]) -> RangeHistogram:
    """Bins of width 1, 2,048 of them: the largest value is the last edge."""
    above = [*counts.tolist(), 0]
    written = {"site": "golden", "lowest": 0.0, "highest": float(len(counts)), "width": 1.0, "above": above}
    return RangeHistogram.from_json({**written, "below": [0] * len(above)})


def decay(height: float, length: float) -> NDArray[np.int64]:
    return np.round(height * np.exp(-np.arange(2048) / length)).astype(np.int64)


def random(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator_for("calibrators", name))


# Agreed with NVIDIA's pytorch-quantization, function by function.
GOLDEN = {
    (1e6, 150): {"entropy": 1664, "percentile-99.9": 1035, "percentile-99.99": 1379, "mse": 1460.5, "max": 2048},
    (1e7, 60): {"entropy": 640, "percentile-99.9": 414, "percentile-99.99": 552, "mse": 592.5, "max": 2048},
}


@pytest.mark.parametrize(("shape", "name"), [(shape, name) for shape, row in GOLDEN.items() for name in row])
def test_golden_vectors(shape: tuple[float, float], name: str) -> None:
    found = CALIBRATORS[name](of_counts(decay(*shape)), SYMMETRIC)
    assert found.range == (0.0, GOLDEN[shape][name])
    assert found.note is None


def test_the_percentile_is_that_of_magnitudes() -> None:
    # 1,000 values, most of them negative: 99 % of |x| reach to 0.99, which 99 % of x would put at 0.
    x = -torch.arange(1000).float() / 1000
    found = percentile(99)(of(x), SYMMETRIC).range
    assert found == (pytest.approx(-0.989, abs=1e-3), 0.0)
    both = percentile(99)(of(torch.cat([x, -x / 10])), SYMMETRIC).range
    assert both[0] == pytest.approx(-0.979, abs=1e-3)  # 2,000 values, 20 of them beyond


def test_an_affine_percentile_looks_at_each_side_of_zero() -> None:
    x = torch.cat([torch.arange(1000) / 1000, -torch.arange(1, 1001) / 10_000])
    low, high = percentile(90)(of(x), AFFINE).range
    assert (low, high) == (pytest.approx(-0.09, abs=1e-3), pytest.approx(0.899, abs=1e-3))
    positive = of(x.relu())
    assert percentile(90)(positive, AFFINE) == percentile(90)(positive, SYMMETRIC)


def test_percentiles_by_name() -> None:
    found = of(random(20_000))
    assert calibrator_named("percentile-99.9")(found, SYMMETRIC) == percentile(99.9)(found, SYMMETRIC)
    assert calibrator_named("percentile-97.5")(found, SYMMETRIC) == percentile(97.5)(found, SYMMETRIC)
    assert calibrator_named("percentile-100")(found, SYMMETRIC) == calibrator_named("max")(found, SYMMETRIC)


@pytest.mark.parametrize("bad", ["percentile-0", "percentile-101", "percentile-nan"])
def test_impossible_percentages_are_refused(bad: str) -> None:
    with pytest.raises(UsageError, match=r"choose one above 0 and at most 100, such as 99\.99"):
        calibrator_named(bad)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown calibrator 'entropie'; did you mean 'entropy'"):
        calibrator_named("entropie")
    with pytest.raises(UsageError, match=r"write a percentage behind it, as in percentile-99\.99"):
        calibrator_named("percentile-most")


@pytest.mark.parametrize("name", CALIBRATORS)
def test_a_site_without_values_is_refused(name: str) -> None:
    with pytest.raises(QuantizationError, match=r"layer1\.relu saw no values.*run calibration images first"):
        CALIBRATORS[name](of(), SYMMETRIC)


SPREADS = {
    "normal": random(30_000),
    "relu": random(30_000).relu(),
    "silu": torch.nn.functional.silu(3 * random(30_000)),
    "heavy tails": random(30_000) / random(30_000, name="below").abs().clamp(min=0.02),
    "one outlier": torch.cat([random(30_000), torch.tensor([300.0])]),
    "far from zero": 5 + random(30_000) / 10,
    "negative": -random(30_000).abs(),
    "image": (torch.arange(3000) % 256) / 255 / 0.225 - 2.1,
}


@pytest.mark.parametrize("spec", [SYMMETRIC, AFFINE], ids=["symmetric", "affine"])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("name", CALIBRATORS)
def test_laws_of_every_calibrator(name: str, spread: str, spec: Spec) -> None:
    if name == "entropy-smoothed" and spread != "far from zero":
        pytest.skip("seconds for each; its search differs from entropy's in one function only")
    x = SPREADS[spread]
    low, high = CALIBRATORS[name](of(x), spec).range
    assert min(float(x.min()), 0) <= low <= 0 <= high <= max(float(x.max()), 0)
    assert low < high
    halves = of(x[: len(x) // 3], x[len(x) // 3 :])
    assert CALIBRATORS[name](halves, spec).range == (low, high)
    # Twice the values have twice the range, exactly: bins are powers of two.
    assert CALIBRATORS[name](of(2 * x), spec).range == (2 * low, 2 * high)
    # What is kept is quantized at all: no integers but one is absurd.
    assert len(affine_of((low, high), spec).quantize(x).unique()) > 2


def softmax(classes: int, sharpness: float) -> Tensor:
    return (sharpness * random(200_000 // classes, classes)).softmax(1)


DEGENERATE = {
    "all zero": (torch.zeros(1000), "every value is 0"),
    "as good as zero": (torch.full((1000,), 1e-8), "every value is 0"),
    "constant": (torch.full((1000,), 3.5), "few different values"),
    "two values": ((torch.arange(1000) % 2).float(), "few different values"),
    "a hundred values": ((torch.arange(5000) % 100).float(), "few different values"),
    "few values that are not zero": (torch.where(torch.arange(90_000) % 900 == 0, random(90_000).abs(), 0.0), "few"),
    "after a softmax over 1,000": (softmax(1000, 3), "as of a softmax"),
    "after a sharp softmax": (softmax(1000, 8), "as of a softmax"),
    "narrow and far from zero": (5 + random(20_000) / 10, "would clip 100% of the values"),
}


@pytest.mark.parametrize("spec", [SYMMETRIC, AFFINE], ids=["symmetric", "affine"])
@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("name", ENTROPIES)
def test_entropy_keeps_all_where_it_has_no_answer(name: str, kind: str, spec: Spec) -> None:
    if name == "entropy-smoothed" and (kind == "narrow and far from zero" or "sharp" in kind):
        pytest.skip("with smoothing the search has an answer for the one, and takes a second for the other")
    x, note = DEGENERATE[kind]
    found = CALIBRATORS[name](of(x), spec)
    assert found.note is not None
    assert note in found.note
    assert found.range == CALIBRATORS["max"](of(x), spec).range == (0.0, float(x.max()))


def test_every_calibrator_says_that_a_site_is_dead() -> None:
    for name, calibrator in CALIBRATORS.items():
        found = calibrator(of(torch.zeros(9)), AFFINE)
        assert (name, found.range, found.note) == (name, (0.0, 0.0), "every value is 0")


def test_a_percentile_of_zeros_keeps_all() -> None:
    x = torch.zeros(100_000)
    x[7] = 5
    found = percentile(99.99)(of(x), AFFINE)
    assert found.range == (0.0, 5.0)
    assert found.note == "99.99 % of the values are 0 beside the largest (5), so all are kept"


def test_a_softmax_over_few_classes_keeps_all() -> None:
    for name in ("entropy", "entropy-smoothed"):
        assert CALIBRATORS[name](of(softmax(10, 8)), AFFINE).range[1] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("spec", [SYMMETRIC, AFFINE, Spec(bits=3, signed=True, symmetric=False)], ids=str)
@pytest.mark.parametrize("spread", ["normal", "relu", "silu", "far from zero", "negative"])
def test_squared_errors_are_those_of_the_mapping(spread: str, spec: Spec) -> None:
    """The sums over bins equal what the mapping does to the centres of the bins."""
    found = of(SPREADS[spread])
    thresholds = np.array([128.5, 700.0, 1999.5, found.reach / found.width])
    summed = squared_errors(found, spec, thresholds)
    centres = (np.arange(len(found.above)) + 0.5) * found.width
    values = torch.from_numpy(np.concatenate([-centres, centres])).float()
    counts = np.concatenate([found.below, found.above])
    low, high = min(found.lowest, 0.0), max(found.highest, 0.0)
    for threshold, error in zip(thresholds, summed, strict=True):
        reach = threshold * found.width
        mapping = affine_of((max(low, -reach), min(high, reach)), spec)
        squares = ((mapping.fake(values) - values).double().numpy() / found.width) ** 2
        assert error == pytest.approx(float((counts * squares).sum()), rel=1e-4)
        assert error == pytest.approx(squared_error(found, spec, float(threshold)), rel=1e-8)


@pytest.mark.parametrize("spec", [SYMMETRIC, AFFINE], ids=str)
@pytest.mark.parametrize("spread", ["normal", "heavy tails", "silu"])
def test_mse_errs_least_on_the_values_themselves(spread: str, spec: Spec) -> None:
    x = SPREADS[spread]

    def error(name: str) -> float:
        fake = affine_of(CALIBRATORS[name](of(x), spec).range, spec).fake(x)
        return float(((fake - x) ** 2).mean())

    best = error("mse")
    for name in ("max", "percentile-99.9", "percentile-99.99", "entropy"):
        assert best <= error(name) * 1.01
    assert math.isfinite(best)
