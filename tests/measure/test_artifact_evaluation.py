"""A saved file gives the numbers of the model that was saved, whichever of the two kinds of file it is."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from own_process import run
from torch import nn

import secateur
from secateur.data import DataSource, load_data
from secateur.errors import DataError
from secateur.export import Builder, OnnxModel, export_onnx, preprocessing_of, save
from secateur.measure import compare_predictions, evaluate_artifact
from secateur.training import evaluate


@dataclass
class Saved:
    model: nn.Module
    data: DataSource
    safetensors: Path
    onnx: Path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder, data = tmp_path_factory.mktemp("saved"), load_data("digits")
    torch.manual_seed(0)
    dense = secateur.build_model("digits-resnet", num_classes=data.num_classes)
    x = next(iter(data.batches("test", batch_size=2)))[0]
    graph = secateur.trace(dense, x)
    plan = graph.plan({group.name: range(group.size // 2) for group in graph.groups if group.prunable})
    small = secateur.apply(dense, plan, verify_with=None)
    preprocessing = preprocessing_of(data)
    builder = Builder(name="secateur:digits-resnet", arguments={"num_classes": data.num_classes})
    save(small, folder / "net.safetensors", plan=plan, preprocessing=preprocessing, builder=builder)
    export_onnx(small, folder / "net.onnx", x, preprocessing=preprocessing)
    return Saved(small, data, folder / "net.safetensors", folder / "net.onnx")


def test_both_files_give_the_numbers_of_the_model(saved: Saved) -> None:
    own = evaluate(saved.model, saved.data.batches("test", batch_size=100))
    first = evaluate_artifact(saved.safetensors, saved.data, batch_size=64)
    second = evaluate_artifact(saved.onnx, saved.data, batch_size=100, threads=1)
    for found in (first, second):
        assert (found.top1, found.top5, found.samples) == (own.top1, own.top5, own.samples)
        assert found.loss == pytest.approx(own.loss, rel=1e-6)


def test_a_fresh_process_gives_the_same_numbers(saved: Saved, tmp_path: Path) -> None:
    script = tmp_path / "measures.py"
    script.write_text(
        "import sys, json, dataclasses; from secateur.data import load_data; from secateur.measure import "
        "evaluate_artifact\ndata = load_data('digits')\n"
        "print(json.dumps([dataclasses.asdict(evaluate_artifact(path, data, threads=1)) for path in sys.argv[1:]]))"
    )
    found = json.loads(run(script, saved.safetensors, saved.onnx))
    own = [asdict(evaluate_artifact(path, saved.data, threads=1)) for path in (saved.safetensors, saved.onnx)]
    assert found == own


def test_predictions_agree_on_every_sample(saved: Saved) -> None:
    found = compare_predictions(saved.model, OnnxModel(saved.onnx), saved.data)
    assert found.samples == saved.data.size("test")
    assert found.equal == found.samples
    assert found.share == 1
    assert found.max_difference <= 1e-4 * found.scale


def test_disagreement_is_counted(saved: Saved) -> None:
    def shifted(images: torch.Tensor) -> torch.Tensor:
        return OnnxModel(saved.onnx)(images).roll(1, dims=1)

    found = compare_predictions(saved.model, shifted, saved.data)
    assert found.equal == 0
    assert found.max_difference > 1e-3

    def broken(images: torch.Tensor) -> torch.Tensor:
        return torch.full((len(images), 10), float("nan"))

    assert compare_predictions(saved.model, broken, saved.data).max_difference != found.max_difference
    assert torch.tensor(compare_predictions(broken, saved.model, saved.data).max_difference).isnan()


def test_threads_are_as_before(saved: Saved) -> None:
    before = torch.get_num_threads()
    evaluate_artifact(saved.onnx, saved.data, threads=before + 1)
    assert torch.get_num_threads() == before


def test_data_that_does_not_fit_is_one_sentence(saved: Saved) -> None:
    other = load_data("digits", normalize="none")
    for path in (saved.safetensors, saved.onnx):
        with pytest.raises(
            DataError, match=r"normalised with mean=0\.0;std=1\.0, but .*net\.\w+ was made for mean=0\.3049"
        ):
            evaluate_artifact(path, other)


def test_a_file_without_preprocessing_is_checked_by_shape_and_classes(saved: Saved, tmp_path: Path) -> None:
    few = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    wide = nn.Sequential(nn.Flatten(), nn.Linear(100, 10))
    for model, shape, match in (
        (few, (2, 1, 8, 8), "the model has 3 outputs, but the data has 10 classes"),
        (wide, (2, 1, 10, 10), r"shape \(1, 8, 8\)"),
    ):
        save(model, tmp_path / "net.safetensors")
        export_onnx(model, tmp_path / "net.onnx", torch.randn(shape))
        with pytest.raises(DataError, match=match):
            evaluate_artifact(tmp_path / "net.safetensors", saved.data, model=model)
        with pytest.raises(DataError, match=match):
            evaluate_artifact(tmp_path / "net.onnx", saved.data)
