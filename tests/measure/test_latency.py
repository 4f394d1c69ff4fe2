"""Timing, with a clock of the test's own: numbers by hand, and everything left as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.export import OnnxModel, export_onnx
from secateur.measure import compare_latency, latencies_in_turn, measure_latency


class Clock:
    """Moves only when told, so that no test depends on how fast the machine is."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def work(self, *milliseconds: float) -> Callable[[Tensor], Tensor]:
        """Return a model whose runs take these times in turn, the last for ever."""
        left = list(milliseconds)

        def run(x: Tensor) -> Tensor:
            self.now += round(1e6 * (left.pop(0) if len(left) > 1 else left[0]))
            return x

        return run


X = torch.randn(3, 4)


def test_median_and_spread_by_hand() -> None:
    clock = Clock()
    found = measure_latency(clock.work(*range(1, 102)), X, warmup=0, repeats=101, clock_ns=clock)
    assert (found.median_ms, found.p10_ms, found.p90_ms, found.spread_ms) == pytest.approx((51, 11, 91, 50))
    assert (found.repeats, found.warmup, found.batch_size, found.runtime, found.device) == (101, 0, 3, "torch", "cpu")
    assert found.machine
    assert found.to_record().median_ms == found.median_ms


def test_warm_up_ends_when_timings_stop_changing() -> None:
    clock = Clock()
    slow_start = [100.0] * 5 + [50.0] * 5 + [10.0] * 50
    found = measure_latency(clock.work(*slow_start), X, warmup=50, repeats=20, clock_ns=clock)
    assert found.warmup == 20
    assert found.median_ms == pytest.approx(10)
    clock = Clock()
    ever_faster = [1000 * 0.9**number for number in range(200)]
    assert measure_latency(clock.work(*ever_faster), X, warmup=12, repeats=1, clock_ns=clock).warmup == 12


def test_two_models_are_timed_in_turn() -> None:
    clock, order = Clock(), []

    def noted(name: str, milliseconds: float) -> Callable[[Tensor], Tensor]:
        run = clock.work(milliseconds)
        return lambda x: (order.append(name), run(x))[1]

    found = compare_latency(noted("a", 6), noted("b", 2), X, warmup=0, repeats=4, clock_ns=clock)
    assert "".join(order) == "abababab"
    assert (found.ratio, found.pair_ratio_p10, found.pair_ratio_p90) == pytest.approx((3, 3, 3))


class Spy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.seen: set[tuple[bool, bool, int]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add((self.training or self.norm.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        return self.norm(x)


def test_a_module_runs_in_evaluation_and_inference_mode_with_the_threads_asked_for() -> None:
    model, before = Spy().train(), torch.get_num_threads()
    model.norm.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = measure_latency(model, X, threads=before + 1, warmup=3, repeats=3)
    assert model.seen == {(False, True, before + 1)}
    assert found.threads == before + 1
    assert torch.get_num_threads() == before
    assert (model.training, model.norm.training) == (True, False)
    assert not torch.is_inference_mode_enabled()
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)


def test_everything_is_put_back_when_a_run_fails() -> None:
    model, before = Spy().train(), torch.get_num_threads()
    with pytest.raises(RuntimeError):
        measure_latency(model, torch.randn(2, 9), threads=before + 1)
    assert model.norm.training
    assert torch.get_num_threads() == before


def test_an_onnx_file_is_timed_with_its_own_threads(tmp_path: Path) -> None:
    model, path = nn.Linear(4, 2), tmp_path / "net.onnx"
    export_onnx(model, path, X)
    found = measure_latency(path, X, threads=2, warmup=5, repeats=5)
    assert (found.runtime, found.threads) == ("onnxruntime", 2)
    assert found.median_ms > 0
    assert compare_latency(model, OnnxModel(path, threads=1), X, warmup=0, repeats=3).ratio > 0
    with pytest.raises(UsageError, match="loaded with 1 threads, but 2 are to be measured"):
        measure_latency(OnnxModel(path, threads=1), X, threads=2)


def test_numbers_out_of_range_and_wrong_devices_are_refused() -> None:
    for settings in ({"repeats": 0}, {"warmup": -1}, {"threads": 0}):
        with pytest.raises(UsageError, match="at least"):
            measure_latency(nn.Linear(4, 2), X, **settings)
    with pytest.raises(UsageError, match="the model is on meta, but cpu is to be measured"):
        measure_latency(nn.Linear(4, 2, device="meta"), X)


@pytest.mark.gpu
def test_cuda_is_waited_for() -> None:
    layers = nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(20))).cuda()
    found = measure_latency(layers, torch.randn(4096, 4096), device="cuda", repeats=10)
    # 20 products of 2 × 4096³ operations each: less than 2 ms is impossible at 1.4 Pflop/s.
    assert found.median_ms > 2
    assert found.device == "cuda"


def test_any_number_of_models_take_turns() -> None:
    clock, order = Clock(), []

    def model(name: str, milliseconds: float) -> Callable[[Tensor], Tensor]:
        work = clock.work(milliseconds)

        def run(x: Tensor) -> Tensor:
            order.append(name)
            return work(x)

        return run

    models = [model("a", 1), model("b", 2), model("c", 4)]
    found = latencies_in_turn(models, X, warmup=0, repeats=3, clock_ns=clock)
    assert [entry.median_ms for entry in found] == pytest.approx([1, 2, 4])
    assert order == ["a", "b", "c"] * 3
