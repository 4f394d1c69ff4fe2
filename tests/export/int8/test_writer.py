"""The INT8 file computes what the simulation computes, in integers, or it is not kept."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from int8_networks import NETWORKS, images, network, simulation
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from secateur.errors import DataError, ExportError, QuantizationError
from secateur.export import OnnxModel, Preprocessing
from secateur.export.int8 import writer as writing
from secateur.export.int8.executed import CONVOLUTIONS, executed
from secateur.export.int8.patterns import fit_for_integers
from secateur.export.int8.processor import has_vnni
from secateur.export.int8.writer import settings_of, write_int8
from secateur.quantization import simulate

PREPROCESSING = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3), size=(16, 16), channels=3)

UNNEEDED = {"neck": {"Resize"}}  # moves that stay in float without keeping a convolution there


@pytest.mark.parametrize("name", NETWORKS)
def test_every_operator_runs_in_integers_and_agrees_with_the_simulation(name: str, tmp_path: Path) -> None:
    found = simulation(name)
    report = write_int8(found, tmp_path / "net.onnx", images=[images(100, seed=3), (images(28, seed=4), None)])
    done, total = report.execution.counts(CONVOLUTIONS)
    assert done == total > 0, report.execution.lines()
    assert {operator.kind for operator in report.execution.in_float} <= UNNEEDED.get(name, set())
    assert report.parity.images == 128
    assert report.parity.sqnr_db > report.parity.rounding_sqnr_db + 5
    assert report.parity.same_predictions >= 0.98
    assert report.notes == ()
    assert report.size_bytes == (tmp_path / "net.onnx").stat().st_size
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]


def test_results_are_those_of_the_simulation_at_any_batch_size(tmp_path: Path) -> None:
    found = simulation("neck")
    write_int8(found, tmp_path / "net.onnx")
    runnable = OnnxModel(tmp_path / "net.onnx")
    assert runnable.output_names == ("boxes", "classes")
    assert runnable.input_shapes == ((None, 3, 16, 16),)
    for batch in (1, 3, 7):
        x = images(batch, seed=5)
        with torch.no_grad():
            wanted = found.module(x)
        for given, exact in zip(runnable.run(x), wanted.values(), strict=True):
            assert given.shape == exact.shape
            assert float((given - exact).square().mean() / exact.square().mean()) < 1e-3


def constants(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in onnx.load(str(path)).graph.initializer}


def test_weights_are_int8_and_biases_int32_as_the_simulation_rounds_them(tmp_path: Path) -> None:
    found, path = simulation("residual"), tmp_path / "net.onnx"
    write_int8(found, path)
    held = constants(path)
    for site, parameter in found.placement.weights.items():
        wanted = found.sites[site].affine.quantize(found.module.get_parameter(parameter).detach())
        assert held[f"{site}.integers"].data_type == TensorProto.INT8
        np.testing.assert_array_equal(numpy_helper.to_array(held[f"{site}.integers"]), wanted.numpy())
        assert int(wanted.min()) >= -127
    for site, parameter in found.placement.biases.items():
        wanted = found.bias_sites[site].quantize(found.module.get_parameter(parameter).detach())
        assert held[f"{site}.integers"].data_type == TensorProto.INT32
        np.testing.assert_array_equal(numpy_helper.to_array(held[f"{site}.integers"]), wanted.numpy())
    floats = sum(len(tensor.raw_data) for tensor in held.values() if tensor.data_type == TensorProto.FLOAT)
    assert floats < 8 * 2**10  # steps: no weight is stored in float as well


def test_operators_are_named_after_modules_and_nothing_tells_of_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    report = write_int8(simulation("residual"), path, preprocessing=PREPROCESSING)
    modules = {(operator.kind, operator.module) for operator in report.execution.operators}
    assert {("Conv", "stem.0"), ("Conv", "second.0"), ("Gemm", "head.2"), ("Add", "second.0")} <= modules
    graph = onnx.load(str(path)).graph
    names = [node.name for node in graph.node]
    assert "second.0/Conv" in names
    assert len(set(names)) == len(names)
    runnable = OnnxModel(path)
    assert runnable.preprocessing == PREPROCESSING
    assert runnable.metadata["secateur.format"] == "secateur-onnx"
    assert settings_of(runnable) == {
        "profile": "cpu",
        "weight_bits": 8,
        "activation_bits": 8,
        "per_tensor_weights": False,
    }
    content = path.read_bytes()
    for trace in (str(Path.cwd()), str(Path(torch.__file__).parent), str(Path.home()), "int8_networks.py"):
        assert trace.encode() not in content


def test_writing_prints_nothing_and_leaves_the_simulation_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = simulation("inverted")
    found.module.train()
    before = {name: tensor.clone() for name, tensor in found.module.state_dict().items()}
    modes = {name: site.mode for name, site in found.sites.items()}
    code = found.module.code
    write_int8(found, tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == 0
    assert found.module.training
    assert found.module.code == code
    assert {name: site.mode for name, site in found.sites.items()} == modes
    torch.testing.assert_close(found.module.state_dict(), before, rtol=0, atol=0)


def test_one_layer_in_float_is_float_in_the_file_and_the_rest_stays(tmp_path: Path) -> None:
    found = simulation("residual")
    found.float_operators(["first.0"])
    report = write_int8(found, tmp_path / "net.onnx", images=[images(64, seed=3)])
    (operator,) = report.execution.in_float
    assert str(operator) == "Conv first.0 runs in float: its weight is not quantized, which keeps it there"
    assert report.parity.sqnr_db > report.parity.rounding_sqnr_db
    assert report.notes == (f"1 of 3 convolutions run in float in {report.execution.runtime}",)
    held = constants(tmp_path / "net.onnx")
    assert held["first.0.weight"].data_type == TensorProto.FLOAT


def test_steps_per_tensor_and_fewer_bits_of_weights(tmp_path: Path) -> None:
    found = simulation("residual", per_tensor_weights=True, weight_bits=4)
    report = write_int8(found, tmp_path / "net.onnx", images=[images(64, seed=3)])
    assert report.execution.in_float == ()
    assert report.notes == ("weights of 4 bits are stored as int8: the file is as large and fast as at 8 bits",)
    integers = numpy_helper.to_array(constants(tmp_path / "net.onnx")["second.0.weight.integers"])
    assert (int(integers.min()), int(integers.max())) in {(-7, 7), (-7, 6), (-6, 7)}


def test_the_file_for_tensorrt_runs_in_onnx_runtime_and_says_that_it_is_slower(tmp_path: Path) -> None:
    report = write_int8(simulation("residual", profile="tensorrt"), tmp_path / "net.onnx", images=[images(64, seed=3)])
    assert report.parity.sqnr_db > report.parity.rounding_sqnr_db - 3
    assert any("TensorRT" in note and "slower" in note for note in report.notes)
    for tensor in constants(tmp_path / "net.onnx").values():
        if tensor.name.endswith("zero_point"):
            assert tensor.data_type == TensorProto.INT8
            assert not numpy_helper.to_array(tensor).any()


def test_seven_bit_weights_for_processors_without_dot_products(tmp_path: Path) -> None:
    report = write_int8(simulation("residual", profile="cpu-no-vnni"), tmp_path / "net.onnx")
    assert report.execution.in_float == ()
    held = constants(tmp_path / "net.onnx")
    assert abs(numpy_helper.to_array(held["stem.0.weight.integers"])).max() == 63


def test_activations_of_fewer_bits_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="activations of 4 bits cannot be written"):
        write_int8(simulation("residual", activation_bits=4), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_round_yet_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="set_ranges first"):
        write_int8(simulate(network("residual"), images(2)), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(graph: Any) -> None:
        step = next(tensor for tensor in graph.initializer if tensor.name == "first.0.output.step")
        step.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(step) * 40, step.name))

    monkeypatch.setattr(writing, "fit_for_integers", breaks)
    with pytest.raises(ExportError, match=r"dB from the simulation \(limit .* it was removed"):
        write_int8(simulation("residual"), tmp_path / "net.onnx", images=[images(64, seed=3)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_changed_for_the_runtime_changes_no_number(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, changed = onnx.ModelProto(), tmp_path / "net.onnx"

    def kept(graph: Any) -> None:
        plain.graph.CopyFrom(graph)
        fit_for_integers(graph)

    monkeypatch.setattr(writing, "fit_for_integers", kept)
    found = simulation(name)
    found.float_operators([next(iter(found.operators))])
    write_int8(found, changed)
    whole = onnx.load(str(changed))
    plain.opset_import.extend(whole.opset_import)
    plain.ir_version = whole.ir_version
    del plain.graph.value_info[:]
    results = [as_written(model, images(3, seed=6).numpy()) for model in (plain, whole)]
    for first, second in zip(*results, strict=True):
        # A mean and a pool over the same places add in another order.
        assert float(np.square(first - second).mean()) <= 1e-4 * float(np.square(first).mean())


def as_written(model: Any, x: Any) -> list[Any]:
    """Run a model operator by operator, in float between the pairs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


def test_no_images_and_no_numbers(tmp_path: Path) -> None:
    found = simulation("residual")
    with pytest.raises(DataError, match="no images"):
        write_int8(found, tmp_path / "net.onnx", images=[])
    with pytest.raises(DataError, match="NaN or infinite"):
        write_int8(found, tmp_path / "net.onnx", images=[torch.full((1, 3, 16, 16), float("nan"))])
    assert list(tmp_path.iterdir()) == []


class Odd(nn.Module):
    """Has an operator that ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0(self.conv(x))


def test_an_operator_that_onnx_lacks_is_one_sentence(tmp_path: Path) -> None:
    found = simulate(Odd().eval(), images(2))
    found.calibrate([images(4)])
    found.set_ranges("max")
    with pytest.raises(ExportError, match="cannot be translated to ONNX"):
        write_int8(found, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_execution_read_from_the_report_is_that_of_the_file(tmp_path: Path) -> None:
    report = write_int8(simulation("branches"), tmp_path / "net.onnx")
    assert report.to_json()["execution"] == executed(tmp_path / "net.onnx").to_json()


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni", True),
        ("flags\t\t: fpu avx2 avx_vnni", True),
        ("flags\t\t: fpu avx2", False),
        ("Features\t: fp asimd asimddp", True),
        ("model name\t: something", None),
    ],
)
def test_the_processor_tells_whether_it_has_dot_products(line: str, has: bool | None, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{line}\n", encoding="utf-8")
    assert has_vnni(path) is has
    assert has_vnni(tmp_path / "absent") is None
