"""Streaming histograms: exact counts, whatever the order, the batches and the processes."""

import json
import math
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from own_process import start
from torch import Tensor

from secateur.errors import QuantizationError
from secateur.quantization import RangeHistogram, reduce_all_
from secateur.quantization.histogram import BINS
from secateur.randomness import generator_for

LISTS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40)
SCRIPT = Path(__file__).with_name("histogram_run.py")


def of(*batches: Tensor) -> RangeHistogram:
    found = RangeHistogram("conv1")
    for batch in batches:
        found.update(batch)
    return found


def normal(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator_for("histogram", name))


def assert_same(one: RangeHistogram, other: RangeHistogram) -> None:
    assert (one.lowest, one.highest, one.width) == (other.lowest, other.highest, other.width)
    for mine, others in ((one.below, other.below), (one.above, other.above)):
        np.testing.assert_array_equal(mine, others)


def test_by_hand() -> None:
    # The largest value lies in [4, 8), so the bins are 8 / 4096 wide.
    width = 8 / 4096
    values = [0.0, -0.0, width, width * 1.5, -width, -width / 2, 4.0, -5.0]
    found = of(torch.tensor(values))
    assert (found.width, found.lowest, found.highest, found.reach, found.count) == (width, -5.0, 4.0, 5.0, 8)
    assert len(found.above) == len(found.below) == 5 / width + 1
    assert {int(bin): int(found.above[bin]) for bin in np.flatnonzero(found.above)} == {0: 2, 1: 2, 2048: 1}
    assert {int(bin): int(found.below[bin]) for bin in np.flatnonzero(found.below)} == {0: 1, 1: 1, 2560: 1}
    np.testing.assert_array_equal(found.magnitudes, found.above + found.below)


@settings(max_examples=60, deadline=None)
@given(LISTS)
def test_every_value_is_in_its_bin(values: list[float]) -> None:
    x = torch.tensor(values)
    found = of(x)
    assert (found.lowest, found.highest, found.count) == (float(x.min()), float(x.max()), len(values))
    exact = x.double().numpy()
    edges = np.arange(len(found.above) + 1) * found.width
    for side, counts in ((exact[exact >= 0], found.above), (-exact[exact < 0], found.below)):
        places = np.searchsorted(edges, side, side="right") - 1
        np.testing.assert_array_equal(np.bincount(places, minlength=len(counts)), counts)


@settings(max_examples=50, deadline=None)
@given(LISTS, st.data())
def test_any_partition_in_any_order_counts_the_same(values: list[float], data: st.DataObject) -> None:
    order = data.draw(st.permutations(values))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    parts = [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(values)], strict=True)]
    assert_same(of(*(torch.tensor(part) for part in parts)), of(torch.tensor(values)))


@settings(max_examples=50, deadline=None)
@given(st.lists(LISTS, min_size=1, max_size=4))
def test_merged_histograms_are_that_of_all_values(shares: Sequence[list[float]]) -> None:
    merged = RangeHistogram("conv1")
    for share in shares:
        merged.merge(of(torch.tensor(share)))
    merged.merge(RangeHistogram("conv1"))  # of a process that had no image
    assert_same(merged, of(torch.tensor([value for share in shares for value in share])))


def test_widening_by_much_keeps_every_count() -> None:
    small = normal(5000).abs() * 1e-3
    found = of(small, torch.tensor([1e-1]), torch.tensor([1e9]))
    assert_same(found, of(torch.cat([torch.tensor([1e9]), small, torch.tensor([1e-1])])))
    assert (found.above[0], found.count) == (5001, 5002)


def test_more_than_one_chunk_in_other_memory_formats() -> None:
    x = normal(3, 64, 40, 40)
    expected = of(x)
    assert expected.count == x.numel()
    assert_same(of(x.to(memory_format=torch.channels_last)), expected)
    assert_same(of(x.transpose(1, 3)), expected)
    assert_same(of(x.double()), expected)
    assert_same(of(x[:, :, ::2], x[:, :, 1::2]), expected)
    assert_same(of(x.half()), of(x.half().float()))
    assert_same(of(x.requires_grad_()), expected)


def test_memory_and_bins_do_not_grow() -> None:
    x = normal(4096)
    found = RangeHistogram("conv1")
    for batch in range(200):
        found.update(x * 1.1**batch)
        state = found.state()
        assert sum(tensor.numel() * tensor.element_size() for tensor in state.values()) < 70_000
        assert BINS // 2 <= found.reach / found.width < BINS
    assert found.count == 200 * 4096


@pytest.mark.parametrize(("bad", "kind"), [(math.nan, "NaN"), (math.inf, "infinite"), (-math.inf, "infinite")])
def test_what_is_not_a_number_is_refused_and_not_counted(bad: float, kind: str) -> None:
    found = of(torch.ones(3))
    with pytest.raises(QuantizationError, match=f"conv1 gives {kind}.*shape \\(2,\\)"):
        found.update(torch.tensor([1.0, bad]))
    assert_same(found, of(torch.ones(3)))


def test_nothing_and_zeros() -> None:
    empty = of(torch.zeros(0, 3))
    assert (empty.count, empty.reach, len(empty.above), len(empty.magnitudes)) == (0, 0.0, 0, 0)
    zeros = of(torch.zeros(4))
    assert (zeros.count, zeros.reach, zeros.above.tolist(), zeros.below.tolist()) == (4, 0.0, [4], [0])
    reduce_all_([empty, zeros])  # alone, nothing is done
    assert (empty.count, zeros.count) == (0, 4)


@pytest.mark.parametrize("batches", [[], [torch.zeros(2)], [normal(999), 5 * normal(99)], [normal(9).abs()]])
def test_state_and_json_give_it_back(batches: list[Tensor]) -> None:
    found = of(*batches)
    assert_same(RangeHistogram.from_state(found.state(), site="conv1"), found)
    read = RangeHistogram.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert_same(read, found)
    assert read.site == "conv1"
    for one in (read, found):
        one.update(torch.tensor([77.0]))
    assert_same(read, found)


def test_json_whose_counts_do_not_fit_is_refused() -> None:
    written = of(normal(99)).to_json()
    with pytest.raises(QuantizationError, match=r"conv1 has 5 and .* bins of width .*; calibrate again"):
        RangeHistogram.from_json({**written, "below": [0] * 5})


def test_two_processes_count_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [start(SCRIPT, tmp_path / f"{rank}.json", RANK=rank, LOCAL_RANK=rank, **shared) for rank in (0, 1)]
    processes.append(start(SCRIPT, tmp_path / "alone.json"))
    for process in processes:
        process.end()
    first, second, alone = ((tmp_path / f"{name}.json").read_text() for name in ("0", "1", "alone"))
    assert first == second == alone
    assert [len(site["above"]) > 0 for site in json.loads(alone)] == [True, True, False]
