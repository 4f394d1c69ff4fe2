"""Recipes that end in INT8: the file that ships, its record, and pruned weights in it."""

from pathlib import Path

import pytest
import torch

from secateur.data import load_data
from secateur.errors import ExportError, UsageError
from secateur.export.int8 import executed, settings_of, stored_weights
from secateur.export.onnx_runtime import OnnxModel
from secateur.graph import trace
from secateur.measure import evaluate_artifact
from secateur.models import build_model
from secateur.recipe import Quantize, compress, read_recipe
from secateur.record import RunRecord, read_record
from secateur.sparse import Masks

pytest.importorskip("onnxruntime", reason="the INT8 file is an ONNX file")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

DIGITS = (
    *("model.spec=digits-resnet", "data.spec=digits", "data.augmentation=none", "data.train_share=0.5"),
    *("train_epochs=3", "train.milestones=[]", "train.schedule=cosine", "train.learning_rate=0.05"),
    *("machine.threads=1", "machine.device=cpu"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    folder = tmp_path_factory.mktemp("runs") / "int8"
    before = torch.get_num_threads()
    record = compress(read_recipe("int8_resnet56-b_cifar10", (*DIGITS, "quantize.images=200")), folder).record
    torch.set_num_threads(before)
    return folder, record


def test_the_recipe_ends_in_an_int8_file_that_is_what_its_record_says(run: tuple[Path, RunRecord]) -> None:
    folder, record = run
    file = folder / record.files["int8"]
    shipped, tuned, dense = (record.measurements[key] for key in ("int8", "tuned", "dense"))
    data = load_data("digits")
    assert shipped.test == evaluate_artifact(file, data)
    assert shipped.validation == evaluate_artifact(file, data, split="validation")
    assert shipped.size_bytes == file.stat().st_size
    assert dense.size_bytes is not None
    assert tuned.size_bytes is not None
    assert shipped.size_bytes < 0.5 * tuned.size_bytes < 0.5 * dense.size_bytes
    assert (shipped.macs, shipped.params) == (tuned.macs, tuned.params)
    for key in ("dense", "tuned", "dense_onnx", "onnx", "int8"):
        one, batch = record.measurements[key].latency, record.measurements[key].batch_latency
        assert one is not None
        assert batch is not None
        assert (one.batch_size, batch.batch_size) == (1, 32)
    assert record.int8 is not None
    assert record.int8.picked
    assert record.int8.in_integers == record.int8.operators
    assert record.int8.masked_weights is None
    assert record.int8.agreement.equal >= 0.99 * record.int8.agreement.samples
    assert not executed(file).in_float
    assert settings_of(OnnxModel(file)) == {
        **{"activation_bits": 8, "weight_bits": 8},
        **{"per_tensor_weights": False, "profile": "cpu"},
    }


def test_the_report_has_the_table_and_the_calibrators(run: tuple[Path, RunRecord]) -> None:
    page = (run[0] / "report.md").read_text(encoding="utf-8")
    for text in (
        "## Float and INT8, on 359 test samples",
        "| dense fp32, torch |",
        "| cut INT8, ONNX Runtime: ships |",
        "| fine-tuned, INT8 |",
        "Calibrators, simulated on the validation split, all from one pass:",
        "* **simulation and file**: the same prediction on",
    ):
        assert text in page


def test_a_finished_run_is_read_back_and_one_without_its_file_is_done_again(run: tuple[Path, RunRecord]) -> None:
    folder, record = run
    recipe = read_recipe(str(folder / "recipe.yaml"))
    again = compress(recipe, folder)
    assert again.was_complete
    assert again.record == record
    before = (folder / "model.int8.onnx").read_bytes()
    (folder / "model.int8.onnx").unlink()
    again = compress(recipe, folder)
    assert not again.was_complete
    assert again.record.int8 == record.int8
    assert (folder / "model.int8.onnx").read_bytes() == before
    assert again.record == read_record(folder / "record.json")


def test_pruned_weights_are_zero_in_the_file_that_ships(tmp_path: Path) -> None:
    changes = (
        *("model.spec=digits-resnet", "data.spec=digits", "data.augmentation=none", "train_epochs=2"),
        *(
            "method.finetune_epochs=1",
            "method.ratios={'*': 0.6}",
            "quantize.calibrate=max",
            "quantize.images=64",
            "machine.threads=1",
        ),
    )
    before = torch.get_num_threads()
    name = "weights_and_connections_lenet5_mnist-cpu"
    record = compress(read_recipe(name, (*changes, "model.num_classes=10")), tmp_path / "run").record
    torch.set_num_threads(before)
    masks = Masks.load(tmp_path / "run" / "masks.safetensors")
    stored = stored_weights(tmp_path / "run" / "model.int8.onnx")
    removed = 0
    for weight in masks:
        if weight in stored:
            gone = ~masks[weight]
            assert not stored[weight][gone].any(), weight
            removed += int(gone.sum())
    assert removed > 0
    assert record.int8 is not None
    assert record.int8.masked_weights == removed
    assert f"all {removed:,} are 0 in the file" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_the_recipe_halves_the_network_in_widths_of_eights() -> None:
    recipe = read_recipe("int8_resnet56-b_cifar10")
    network = build_model(recipe.model.spec).eval()
    graph = trace(network, torch.zeros(2, 3, 32, 32))
    plan = recipe.method.decide(graph, network, recipe.budget)
    assert 0.49 * graph.macs() < graph.macs(plan) <= 0.5 * graph.macs()
    assert set(plan.kept_sizes().values()) <= {8, 16, 24, 32, 40}


def test_settings_of_the_section_are_checked_when_the_recipe_is_read() -> None:
    for change, message in (
        ("quantize.calibrate=entropie", "unknown calibrator 'entropie'"),
        ("quantize.image=3", "did you mean 'quantize.images'"),
        ("quantize.calibrate=max", "leave out --calibrate or --compare"),
        ("quantize.images=0", "images is 0"),
    ):
        with pytest.raises(UsageError, match=message):
            read_recipe("int8_resnet56-b_cifar10", (change,))
    assert read_recipe("int8_resnet56-b_cifar10").quantize == Quantize(compare=True)
    assert read_recipe("l1-resnet56-b").quantize is None


AIRY = """
import torch
from torch import nn



class Airy(nn.Module):
    def forward(self, x):
        return x + torch.special.airy_ai(x.detach()) * 0


def network(num_classes=10):
    layers = (nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes), Airy())
"""


def test_a_model_that_cannot_become_an_int8_file_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(AIRY)
    recipe = read_recipe("int8_resnet56-b_cifar10", (*DIGITS, f"model.spec={code}:network"), allow_code=True)
    with pytest.raises(ExportError, match="airy"):
        compress(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
