"""Measuring a latency table in ONNX Runtime: what is timed, how it continues, and that no number comes from nowhere."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.cost import LatencyTable, OperatorTimes, read_latency_table
from secateur.errors import UsageError
from secateur.export import export_onnx
from secateur.export.onnx_operators import Width, exported_operators, marked, marked_number, operator_model
from secateur.export.onnx_profile import kernel_times
from secateur.graph import ChannelGraph, trace
from secateur.measure import QuietTable, TableSettings, drift_note, measure_latency_table
from secateur.measure.latency_fit import fitted
from secateur.measure.network_times import MeasuredNetwork, random_plans
from secateur.measure.operator_times import timed_widths, width_grid

pytest.importorskip("onnxruntime", reason="latency tables are measured in ONNX Runtime")

QUICK = TableSettings(rounds=2, networks=1, held_out=1)


class Net(nn.Module):
    """A plain, a depthwise, a grouped and a pointwise convolution, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.point = nn.Conv2d(32, 48, 1)
        self.fc = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.point(self.depthwise(self.first(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


WEIGHTS = ("first.0.weight", "depthwise.weight", "point.weight", "fc.weight")


@pytest.fixture(scope="module")
def net() -> tuple[Net, ChannelGraph, Tensor]:
    torch.manual_seed(0)
    model, images = Net().eval(), torch.randn(2, 3, 8, 8)
    return model, trace(model, images), images


@pytest.fixture(scope="module")
def exported(net: tuple[Net, ChannelGraph, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(net[0], path, net[2][:1], dynamic_batch=False)
    return path


def test_every_layer_is_found_in_the_exported_file(net: tuple[Net, ChannelGraph, Tensor], exported: Path) -> None:
    found = {one.weight: one for one in exported_operators(exported, net[1])}
    assert tuple(found) == WEIGHTS
    assert [found[name].weight_shape for name in WEIGHTS] == [(32, 3, 3, 3), (32, 1, 3, 3), (48, 32, 1, 1), (5, 48)]
    assert found["first.0.weight"].input_shape == (1, 3, 8, 8)
    assert (found["first.0.weight"].activation, found["point.weight"].activation) == ("Clip", "Relu")
    assert found["depthwise.weight"].activation is None
    assert found["depthwise.weight"].group == 32


def test_every_layer_is_found_again_after_the_runtime_fused_it(
    net: tuple[Net, ChannelGraph, Tensor], exported: Path
) -> None:
    operators = exported_operators(exported, net[1])
    kernels = kernel_times(marked(exported, operators), {"x": net[2][:1].numpy()}, threads=1, rounds=3)
    assert {marked_number(name) for name in kernels} - {None} == {0, 1, 2, 3}
    assert all(len(times) == 3 for times in kernels.values())
    # Activations are computed in the kernels before them, as in what is shipped.
    assert not any(name.startswith(("Relu", "Clip")) for name in kernels)


def test_widths_are_multiples_and_only_of_what_can_be_cut(
    net: tuple[Net, ChannelGraph, Tensor], exported: Path
) -> None:
    grids = {one.weight: width_grid(net[1], one, multiple=8, block=1) for one in exported_operators(exported, net[1])}
    assert (grids["first.0.weight"].out_sizes, grids["first.0.weight"].in_sizes) == ((8, 16, 24, 32), (3,))
    assert (grids["fc.weight"].out_sizes, grids["fc.weight"].in_sizes) == ((5,), (8, 16, 24, 32, 40, 48))
    depthwise = grids["depthwise.weight"]
    assert depthwise.widths == tuple(Width(size, 1, size) for size in (8, 16, 24, 32))
    assert len(grids["point.weight"].widths) == 4 * 6
    blocks = width_grid(net[1], grids["point.weight"].operator, multiple=8, block=16)
    assert (blocks.out_sizes, blocks.in_sizes) == ((8, 16, 32, 48), (8, 16, 32))


def test_each_width_is_computed_by_a_kernel_of_that_width(
    net: tuple[Net, ChannelGraph, Tensor], exported: Path
) -> None:
    for operator in exported_operators(exported, net[1]):
        grid = width_grid(net[1], operator, multiple=16, block=1)
        found = timed_widths(grid, threads=1, rounds=2)
        assert len(found) == len(grid.widths)
        assert all(ms >= 0 for ms in found)
    onnx = pytest.importorskip("onnx")
    point = exported_operators(exported, net[1])[2]
    model, inputs = operator_model(point, [Width(16, 8, 1), Width(48, 32, 1)])
    assert {name: array.shape for name, array in inputs.items()} == {"x8": (1, 8, 8, 8), "x32": (1, 32, 8, 8)}
    shapes = {one.name: tuple(one.dims) for one in onnx.load_from_string(model).graph.initializer}
    assert shapes == {"w0": (16, 8, 1, 1), "w1": (48, 32, 1, 1)}


class Stopping(QuietTable):
    """Stops where it is told, as Ctrl-C does, and notes what was done."""

    def __init__(self, at: str | None = None) -> None:
        self.at, self.done, self.seen = at, 0, list[str]()

    def begins(self, *, steps: int, done: int) -> None:
        self.done = done
        assert steps == 4 + 1 + 1 + 1

    def step(self, what: str) -> None:
        if what == self.at:
            raise KeyboardInterrupt
        self.seen.append(what)


@pytest.fixture(scope="module")
def measured(
    net: tuple[Net, ChannelGraph, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> tuple[LatencyTable, Path, Stopping]:
    """A table whose measuring was stopped and continued."""
    path = tmp_path_factory.mktemp("table") / "latency.json"
    first, second = Stopping("network 1 of 2"), Stopping()
    with pytest.raises(KeyboardInterrupt):
        measure_latency_table(net[0], net[2], path, settings=QUICK, graph=net[1], progress=first)
    assert not path.exists()
    begun = json.loads(Path(f"{path}.partial").read_text())
    with pytest.raises(UsageError, match="begun with rounds = 2, but this one has 3"):
        measure_latency_table(net[0], net[2], path, settings=replace(QUICK, rounds=3), graph=net[1])
    table = measure_latency_table(net[0], net[2], path, settings=QUICK, graph=net[1], progress=second)
    assert second.done == 5  # four layers and the whole network
    assert second.seen == ["network 1 of 2", "network 2 of 2"]
    first_grid = next(iter(begun["grids"].values()))
    assert [ms for row in table.operators[0].ms for ms in row] == first_grid  # not measured again
    return table, path, second


def test_a_stopped_measurement_goes_on(measured: tuple[LatencyTable, Path, Stopping]) -> None:
    table, path, _ = measured
    assert read_latency_table(path) == table
    assert not Path(f"{path}.partial").exists()


def test_the_table_says_what_it_is_of(
    net: tuple[Net, ChannelGraph, Tensor], measured: tuple[LatencyTable, Path, Stopping]
) -> None:
    table, graph = measured[0], net[1]
    table.check(graph, input_shape=(3, 8, 8), threads=1)
    assert tuple(one.weight for one in table.operators) == WEIGHTS
    assert (table.runtime, table.precision, table.batch_size, table.threads) == ("onnxruntime", "fp32", 1, 1)
    assert [one.held_out for one in table.networks] == [False, False, True]
    assert table.networks[0].macs == graph.macs()
    assert table.worst_error is not None
    for one in table.networks:
        assert one.predicted_ms > 0
        assert one.measured_ms > 0
    assert table.latency_ms(graph, graph.sizes) == pytest.approx(table.networks[0].predicted_ms)


def test_random_plans_are_multiples_of_all_depths(net: tuple[Net, ChannelGraph, Tensor]) -> None:
    graph = net[1]
    plans = random_plans(graph, 6, multiple=8, seed=0)
    assert plans == random_plans(graph, 6, multiple=8, seed=0)
    for plan in plans:
        assert all(len(units) % 8 == 0 for units in plan.kept.values())
    assert min(map(graph.macs, plans)) < graph.macs() / 2 < max(map(graph.macs, plans))


def test_a_fit_finds_the_numbers_that_times_were_made_of(net: tuple[Net, ChannelGraph, Tensor]) -> None:
    """Times are made of known numbers here, so the fit must find them, and predict what it has not seen."""
    graph = net[1]
    sizes = {"first.0.weight": ((8, 32), (3,)), "point.weight": ((8, 48), (8, 32))}
    operators = tuple(
        OperatorTimes(
            path=name,
            weight=name,
            out_sizes=outs,
            in_sizes=ins,
            ms=tuple(tuple(o * i / 1e3 for i in ins) for o in outs),
        )
        for name, (outs, ins) in sizes.items()
    )
    empty = LatencyTable(
        model_class=graph.model_class, fingerprint=graph.fingerprint, macs=graph.macs(), input_shape=(3, 8, 8),
        batch_size=1, threads=1, runtime_version="1", machine="made up", secateur="0", multiple=8, operators=operators,
        rest_ms_per_byte=0.0, scale=1.0, overhead_ms=0.0, dense_ms=1.0,
    )  # fmt: skip
    factors, speed = {"first.0.weight": 1.5, "point.weight": 0.5}, (1.0, 1.3, 0.8, 1.0)
    truth = replace(
        empty,
        operators=tuple(replace(one, factor=factors[one.weight]) for one in operators),
        rest_ms_per_byte=2e-6, scale=1.1, overhead_ms=0.2,
    )  # fmt: skip
    plans = [None, *random_plans(graph, 3, multiple=8, seed=1)]
    networks = []
    for plan, slow in zip(plans, speed, strict=True):
        kept = graph.kept_sizes(plan)
        stored = float(graph.costs.storages.values(graph.costs.forms.sizes(kept)).sum())
        inside = {
            one.weight: one.factor * one.alone_ms(*weights_at(graph, one.weight, kept)) for one in truth.operators
        }
        networks.append(
            MeasuredNetwork(
                kept=tuple(kept.tolist()),
                macs=1,
                operators={name: ms * slow for name, ms in inside.items()},
                rest_ms=(0.1 + 2e-6 * stored) * slow,
                whole_ms=truth.latency_ms(graph, kept) * slow,
                dense_ms=truth.latency_ms(graph, graph.sizes) * slow,
            )
        )
    table = fitted(empty, graph, networks[:3], networks[3:])
    assert {one.weight: pytest.approx(one.factor) for one in table.operators} == factors
    assert table.worst_error == pytest.approx(0, abs=1e-6)
    assert table.drift == pytest.approx(1.3 / 0.8 - 1)
    assert "% slower" in str(drift_note(table))
    assert drift_note(replace(table, drift=0.01)) is None


def weights_at(graph: ChannelGraph, weight: str, kept: np.ndarray) -> tuple[int, int]:
    from secateur.cost.weight_sizes import weight_sizes

    sizes = weight_sizes(graph, weight)
    assert sizes is not None
    return sizes.at(kept)


@pytest.mark.parametrize("name", ["batch_size", "threads", "multiple", "rounds", "networks", "held_out"])
def test_settings_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is 0, but must be at least"):
        TableSettings(**{name: 0})
