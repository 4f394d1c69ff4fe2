"""``quantize`` on a model in memory: what is read when, what is left, and laws of the file."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.data import DataSource, load_data
from secateur.data.source import Split
from secateur.errors import ArtifactError, DataError, ExportError, UsageError
from secateur.export import OnnxModel
from secateur.export.int8 import stored_weights
from secateur.quantization import simulate
from secateur.recipe import Quantize, QuantizeResult, quantize
from secateur.recipe.quantizing.calibrating import calibrate
from secateur.recipe.quantizing.ready import get_ready
from secateur.recipe.quantizing.shipping import Files, ship
from secateur.recipe.quantizing.stages import QuietStages
from secateur.record import read_record
from secateur.sparse import Masks

pytest.importorskip("onnxruntime", reason="the INT8 file is an ONNX file")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

QUICK = Quantize(calibrate="max", images=64, batch=2)


class Reading:
    """A data source that notes which split is read, and how many of its images; it may stop at a split."""

    def __init__(self, source: DataSource, *, interrupted_at: Split | None = None) -> None:
        self._source, self._interrupted_at = source, interrupted_at
        self.reads: list[tuple[Split, int]] = []
        self.name, self.num_classes, self.class_names = source.name, source.num_classes, source.class_names
        self.sample_shape, self.normalization = source.sample_shape, source.normalization

    def size(self, split: Split) -> int:
        return self._source.size(split)

    def batches(self, split: Split, *, batch_size: int, **more: Any) -> Iterator[tuple[Tensor, Tensor]]:
        if split == self._interrupted_at:
            raise KeyboardInterrupt
        for images, labels in self._source.batches(split, batch_size=batch_size, **more):
            self.reads.append((split, len(images)))
            yield images, labels

    def read(self, split: Split) -> int:
        return sum(count for name, count in self.reads if name == split)


class Small(nn.Module):
    """A convolution, a residual branch with a depthwise convolution, a mean, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.branch = nn.Sequential(depthwise, nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16))
        self.linear = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.branch(x))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def data() -> DataSource:
    return load_data("digits")


@pytest.fixture(scope="module")
def model(data: DataSource) -> nn.Module:
    """A small network, trained for a moment."""
    torch.manual_seed(0)
    network = Small()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(6):
        for images, labels in data.batches("train", batch_size=64, seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return network


@pytest.fixture(scope="module")
def compared(
    model: nn.Module, data: DataSource, tmp_path_factory: pytest.TempPathFactory
) -> tuple[QuantizeResult, Reading]:
    reading = Reading(data)
    settings = Quantize(compare=True, images=64, batch=2)
    return quantize(model, reading, tmp_path_factory.mktemp("int8") / "digits", settings=settings), reading


def test_all_calibrators_come_from_one_pass(
    compared: tuple[QuantizeResult, Reading], model: nn.Module, data: DataSource, tmp_path: Path
) -> None:
    one = Reading(data)
    quantize(model, one, tmp_path / "one", settings=QUICK)
    # Two samples to capture, one pass, and the same images again to compare simulation and file on.
    assert one.read("train") == compared[1].read("train") == 2 + 64 + 64


def test_no_test_image_is_read_before_the_calibrator_is_picked(compared: tuple[QuantizeResult, Reading]) -> None:
    result, reading = compared
    splits = [split for split, _count in reading.reads]
    picked_after = len([split for split in splits[: splits.index("test")] if split == "validation"])
    batches = -(-reading.size("validation") // 128)
    assert result.record.int8 is not None
    assert picked_after == batches * len(result.record.int8.trials)


def test_the_model_stays_as_it_was(model: nn.Module, data: DataSource, tmp_path: Path) -> None:
    network = copy.deepcopy(model).train()
    before = copy.deepcopy(network.state_dict())
    result = quantize(network, data, tmp_path / "int8", settings=QUICK)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert result.record == read_record(result.folder / "record.json")


def test_the_saved_simulation_predicts_what_the_file_predicts(
    compared: tuple[QuantizeResult, Reading], model: nn.Module, data: DataSource
) -> None:
    result, _reading = compared
    images, _labels = next(iter(data.batches("test", batch_size=64)))
    simulation = simulate(model, images[:2])
    simulation.load(result.folder / "simulation.safetensors")
    assert simulation.rounds
    with torch.no_grad():
        wanted = simulation.module(images)
    found = OnnxModel(result.file)(images)
    assert float((wanted - found).abs().max()) < 0.05 * float(wanted.abs().max())
    assert torch.equal(wanted.argmax(1), found.argmax(1))


def test_an_interruption_leaves_nothing_and_an_earlier_result_stays(
    model: nn.Module, data: DataSource, tmp_path: Path
) -> None:
    out = tmp_path / "int8"
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        with pytest.raises(KeyboardInterrupt):
            quantize(model, Reading(data, interrupted_at=split), out, settings=QUICK)
        assert list(tmp_path.iterdir()) == []
    quantize(model, data, out, settings=QUICK)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        quantize(model, Reading(data, interrupted_at="test"), out, settings=QUICK, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]
    with pytest.raises(UsageError, match="holds an INT8 file already; choose another folder, or pass force=True"):
        quantize(model, data, out, settings=QUICK)


def masked(model: nn.Module) -> tuple[nn.Module, Masks]:
    """Return a copy with two thirds of each convolution's and the last layer's weights removed, and what stays."""
    small = copy.deepcopy(model)
    names = [name for name, value in small.named_parameters() if value.dim() > 1]
    generator = torch.Generator().manual_seed(3)
    masks = Masks({name: torch.rand(small.get_parameter(name).shape, generator=generator) < 1 / 3 for name in names})
    masks.apply_(small)
    return small, masks


@pytest.mark.parametrize("target", ["cpu", "cpu-no-vnni", "tensorrt"])
@pytest.mark.parametrize("per_tensor", [False, True])
def test_weights_that_masks_removed_are_zero_in_the_file(
    model: nn.Module, data: DataSource, target: str, per_tensor: bool, tmp_path: Path
) -> None:
    small, masks = masked(model)
    settings = replace(QUICK, target=target, per_tensor_weights=per_tensor)
    ready = get_ready(small, data, settings)
    calibrated = calibrate(ready, QuietStages())
    files = Files(tmp_path / "int8.onnx", tmp_path / "simulation.safetensors")
    shipped = ship(ready, calibrated, files, QuietStages(), timed={}, threads=1, masks=masks)
    stored = stored_weights(files.int8)
    assert set(stored) == set(masks)  # batch norm was folded into each, and all of them are integers
    for name, integers in stored.items():
        assert not integers[~masks[name]].any(), name
        assert integers[masks[name]].any(), name
    assert shipped.record.masked_weights == masks.size() - masks.kept()
    others = Masks({name: ~masks[name] for name in masks})
    with pytest.raises(ArtifactError, match=r"that were pruned are not 0 in int8\.onnx"):
        ship(ready, calibrated, files, QuietStages(), timed={}, threads=1, masks=others)


def test_fewer_images_than_asked_for_are_all_taken_and_it_is_said(model: nn.Module, data: DataSource) -> None:
    ready = get_ready(model, data, replace(QUICK, images=5000))
    assert len(ready.subset.indices) == data.size("train")
    assert ready.notes == (f"digits has {data.size('train'):,} training images, so that all of them calibrate",)


def test_colour_images_that_nobody_normalised_are_doubted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(40, 3, 8, 8), torch.arange(40) % 4
    code = tmp_path / "mine.py"
    torch.save((images, labels), tmp_path / "images.pt")
    code.write_text(
        "import torch\ndef data():\n"
        f"    images, labels = torch.load({str(tmp_path / 'images.pt')!r})\n"
        "    return {'train': (images, labels), 'test': (images, labels)}\n"
    )
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    for normalize, doubted in (("none", True), ("imagenet", False)):
        ready = get_ready(network, load_data(f"{code}:data", normalize=normalize), QUICK)
        assert bool(calibrate(ready, QuietStages()).notes) == doubted


def test_openvino_runs_the_file_where_it_is_installed_and_is_refused_first_where_not(
    model: nn.Module, data: DataSource, tmp_path: Path
) -> None:
    asked = replace(QUICK, openvino=True)
    if find_spec("openvino") is None:
        with pytest.raises(ExportError, match="openvino is not installed"):
            quantize(model, data, tmp_path / "int8", settings=asked)
        assert list(tmp_path.iterdir()) == []
        return
    record = quantize(model, data, tmp_path / "int8", settings=asked).record
    there, file = record.measurements["openvino"], record.measurements["int8"]
    assert there.test is not None
    assert file.test is not None
    assert abs(there.test.score - file.test.score) < 0.02
    assert there.latency is not None
    assert there.latency.runtime == "openvino"
    assert record.int8 is not None
    assert "f32 where it is not in integers" in str(record.int8.openvino)


def test_without_validation_images_there_is_no_comparison(model: nn.Module, data: DataSource) -> None:
    alone = load_data("digits", validation_share=0.0)
    if alone.size("validation"):
        pytest.skip("the digits bring a validation split")
    with pytest.raises(DataError, match="--compare picks on the validation split, which is empty in digits"):
        get_ready(model, alone, Quantize(compare=True))
    assert get_ready(model, alone, QUICK).simulation.sites
