"""Published weights of CIFAR-10 as INT8 files: the file predicts what the simulation predicts."""

from pathlib import Path

import pytest
import torch

from secateur.data import calibration_subset, load_data
from secateur.export.int8 import write_int8
from secateur.models import build_model, load_weights
from secateur.quantization import simulate

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"

CASES = [
    ("resnet20", "resnet20-cifar10-shortcut-a", "mean=0.485,0.456,0.406;std=0.229,0.224,0.225", 19, 306_000),
    ("resnet56-b", "resnet56-cifar10-shortcut-b", "cifar10", 57, 960_000),
]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="the published weights are not beside the checkout")
@pytest.mark.parametrize(("name", "file", "normalize", "convolutions", "size_bytes"), CASES)
def test_the_file_predicts_what_the_simulation_predicts(
    name: str, file: str, normalize: str, convolutions: int, size_bytes: int, tmp_path: Path
) -> None:
    model = build_model(name)
    load_weights(model, SHARED / "weights" / f"{file}.safetensors")
    model.eval()
    data = load_data(f"parquet:{SHARED / 'cifar10-lossless'}", normalize=normalize)
    chosen = calibration_subset(data, 256, seed=0)
    simulation = simulate(model, torch.zeros(2, 3, 32, 32))
    simulation.calibrate(data.batches("train", batch_size=64, indices=chosen.indices))
    simulation.set_ranges("max")
    report = write_int8(simulation, tmp_path / "net.onnx", images=data.batches("test", batch_size=128))
    assert report.parity.images == data.size("test") >= 1000
    assert report.parity.same_predictions >= 0.998
    assert report.parity.sqnr_db > report.parity.rounding_sqnr_db + 10
    assert report.execution.counts(("Conv",)) == (convolutions, convolutions)
    # Shortcut A adds channels of zeros by padding, for which ONNX Runtime has no integer form.
    assert {operator.kind for operator in report.execution.in_float} <= {"Pad"}
    assert report.size_bytes < size_bytes
