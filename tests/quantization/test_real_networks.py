"""Published weights of CIFAR-10 in integers: what 256 calibration images and the largest value cost."""

from pathlib import Path

import pytest
import torch

from secateur.data import calibration_subset, load_data
from secateur.models import build_model, load_weights
from secateur.quantization import simulate

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

CASES = [
    ("resnet20", "resnet20-cifar10-shortcut-a", "mean=0.485,0.456,0.406;std=0.229,0.224,0.225"),
    ("resnet56-b", "resnet56-cifar10-shortcut-b", "cifar10"),
]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="the published weights are not beside the checkout")
@pytest.mark.parametrize(("name", "file", "normalize"), CASES)
def test_max_on_256_images_costs_less_than_half_a_point(name: str, file: str, normalize: str) -> None:
    model = build_model(name)
    load_weights(model, SHARED / "weights" / f"{file}.safetensors")
    model.eval()
    data = load_data(f"parquet:{SHARED / 'cifar10-lossless'}", normalize=normalize)
    chosen = calibration_subset(data, 256, seed=0)
    simulation = simulate(model, torch.zeros(2, 3, 32, 32))
    assert simulation.placement.float_operators == ()
    assert simulation.calibrate(data.batches("train", batch_size=64, indices=chosen.indices)) == 256
    assert simulation.set_ranges("max") == {}
    right = {"float": 0, "int8": 0, "agree": 0}
    with torch.no_grad():
        for inputs, labels in data.batches("test", batch_size=128):
            exact, rounded = model(inputs).argmax(1), simulation.module(inputs).argmax(1)
            right["float"] += int((exact == labels).sum())
            right["int8"] += int((rounded == labels).sum())
            right["agree"] += int((exact == rounded).sum())
    size = data.size("test")
    assert right["float"] - right["int8"] <= 0.005 * size, right
    assert right["agree"] >= 0.985 * size, right
