"""Recipes that prune weights: the published sizes, a short run with all of its files, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secateur.cli.app import main
from secateur.cost import Budget
from secateur.data import load_data
from secateur.errors import BudgetError, UsageError
from secateur.measure import evaluate_artifact
from secateur.methods import WeightsAndConnections
from secateur.models import build_model
from secateur.recipe import RunResult, compress, read_recipe
from secateur.recipe.sparse_files import unpack_file
from secateur.sparse import Masks, decode, prunable_weights
from secateur.sparse.prunable import settings_by_name

# Parameters that are left, biases included, and the published figure of Table 1 of arXiv:1506.02626.
GOLDEN = {
    "weights_and_connections_lenet300_mnist": (22_186, 22_000),
    "weights_and_connections_lenet5_mnist": (36_860, 36_000),
    "weights_and_connections_alexnet_imagenet": (6_806_759, 6_700_000),
    "weights_and_connections_vgg16_imagenet": (10_545_809, 10_300_000),
}
DIGITS = (
    *("model.spec=digits-resnet", "data.spec=digits", "data.augmentation=none", "data.train_share=0.5"),
    *("train_epochs=2", "machine.threads=1", 'method.ratios={"*": 0.8}', "method.finetune_epochs=1"),
    *("method.activation_batches=1", "train.learning_rate=0.1"),
)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_shares_leave_the_published_number_of_weights(name: str) -> None:
    recipe = read_recipe(name)
    assert isinstance(recipe.method, WeightsAndConnections)
    with torch.device("meta"):
        model = build_model(recipe.model.spec)
    names = prunable_weights(model)
    parameters = dict(model.named_parameters())
    shares = settings_by_name(recipe.method.ratios, names, "layer", model=model)
    assert set(shares) == set(names), "every layer has a share"
    gone = sum(round(share * parameters[entry].numel()) for entry, share in shares.items())
    left = sum(parameter.numel() for parameter in parameters.values()) - gone
    golden, published = GOLDEN[name]
    assert left == golden
    assert math.isclose(left, published, rel_tol=0.025)


def run(folder: Path, *changes: str) -> RunResult:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    before = torch.get_num_threads()
    result = compress(read_recipe("weights_and_connections_lenet5_mnist-cpu", [*DIGITS, *changes]), folder)
    torch.set_num_threads(before)
    return result


def test_a_short_run_leaves_its_masks_and_a_compact_file_and_says_what_is_left(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the run exports ONNX")
    folder = tmp_path / "run"
    record = run(folder).record
    assert [phase.phase for phase in record.phases] == ["dense", "finetune-linear", "finetune-convolution"]
    masks, state = Masks.load(folder / "masks.safetensors"), load_file(folder / "model.safetensors")
    assert masks.density() == pytest.approx(0.2, abs=0.01)
    for name, mask in masks.items():
        assert not bool(state[name][~mask].any()), name
    decoded = decode(folder / "model.sparse.safetensors")
    torch.testing.assert_close(decoded, state, rtol=0, atol=0)
    found = record.weights
    assert found is not None
    assert found.file is not None
    assert found.file.file_bytes == (folder / "model.sparse.safetensors").stat().st_size
    assert found.file.file_bytes < 0.4 * (folder / "model.safetensors").stat().st_size
    assert found.zeros == masks.size() - masks.kept()
    assert found.speed.startswith("This sparsity")
    tuned, onnx = record.measurements["tuned"], record.measurements["onnx"]
    assert tuned.nonzeros == found.nonzeros == onnx.nonzeros
    assert record.agreement is not None
    assert record.agreement.equal == record.agreement.samples
    assert (folder / "plan.json").exists() == ("plan" in record.files) == bool(found.dead_units)
    report = (folder / "report.md").read_text(encoding="utf-8")
    for text in ("## Weights that are left", "## Pruning and retraining", "## Bytes of the compact file", "non-zeros"):
        assert text in report, text
    pictures = {"weights_histograms_png", "weights_histograms_svg"}  # no layer was scanned, and none reads pixels
    assert {name for name in record.files if name.startswith("weights_")} == pictures
    assert all((folder / record.files[name]).stat().st_size for name in pictures)
    assert "## Weights in pictures" in report
    assert [entry.layer for entry in found.histograms] == list(masks)
    for entry in found.histograms:
        assert sum(entry.left.counts) == masks.kept(entry.layer)
        assert entry.left.reach == pytest.approx(float(state[entry.layer].abs().max()), rel=1e-6)
    exact = report.split("## Exact numbers")[1].split("## ")[0]
    assert f"| {found.parameters:,} |" in exact
    assert f"| {found.nonzeros:,} |" in exact
    assert any("multiplies zeros like any weight" in note for note in record.notes)
    assert "sparse" not in record.measurements, "its bits are those of the model file"
    assert run(folder).was_complete


def test_shared_values_are_trained_stored_and_evaluated_as_the_file_decodes(tmp_path: Path) -> None:
    asked = ("compact.values=codebook", "compact.codebook_bits=3", "compact.codebook_epochs=1", "export=[]")
    folder = tmp_path / "run"
    record = run(folder, *asked).record
    assert record.phases[-1].phase == "codebook"
    masks, exact = Masks.load(folder / "masks.safetensors"), load_file(folder / "model.safetensors")
    decoded = decode(folder / "model.sparse.safetensors")
    for name, mask in masks.items():
        assert len(exact[name][mask].unique()) > 7 or mask.sum() <= 7
        assert len(decoded[name][mask].unique()) <= 7
        assert not bool(decoded[name][~mask].any())
    assert record.weights is not None
    assert record.weights.file is not None
    assert (record.weights.file.values, record.weights.file.codebook_epochs) == ("codebook", 1)
    found = record.measurements["sparse"]
    assert found.size_bytes == (folder / "model.sparse.safetensors").stat().st_size
    assert found.nonzeros == record.weights.nonzeros
    unpack_file(folder / "model.sparse.safetensors", tmp_path / "unpacked.safetensors")
    again = evaluate_artifact(tmp_path / "unpacked.safetensors", load_data("digits"))
    assert found.test is not None
    assert again.samples == found.test.samples
    assert again.top1 == found.test.top1
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "| compact file, decoded |" in report
    assert "shared by the weights of a layer, trained for 1 epoch" in report


def test_rounded_values_are_those_of_the_model_file(tmp_path: Path) -> None:
    record = run(tmp_path / "run", "compact.values=fp16", "compact.bits=best", "export=[]").record
    decoded = decode(tmp_path / "run" / "model.sparse.safetensors")
    exact = load_file(tmp_path / "run" / "model.safetensors")
    for name, value in exact.items():
        expected = value.half().float() if value.dim() >= 2 else value
        assert torch.equal(decoded[name], expected), name
    assert record.measurements["sparse"].test is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["compact.values=fp8"], "fp8"),
        (["compact.bits=17"], "compact.bits is 17"),
        (["compact.values=codebook", "compact.codebook_bits=9"], r"compact\.codebook_bits is 9"),
        (["compact.codebook_bits=4"], r"compact\.codebook_bits is 4, but compact\.values is fp32"),
        (["compact.values=fp16", "compact.codebook_epochs=1"], r"compact\.codebook_epochs is 1"),
        (["compact.codebok_bits=4"], r"did you mean 'compact\.codebook_bits'"),
    ],
)
def test_a_compact_file_that_cannot_be_is_refused_before_anything_is_read(changes: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_recipe("weights_and_connections_lenet300_mnist", changes)


def test_methods_that_prune_no_weights_have_no_compact_file() -> None:
    with pytest.raises(UsageError, match="the method l1 removes channels or blocks"):
        read_recipe("l1-resnet56-b", ["compact.values=fp16"])


def test_the_control_keeps_the_masks_and_not_the_weights(tmp_path: Path) -> None:
    record = run(tmp_path / "run", "control=scratch", "export=[]").record
    assert record.phases[-1].phase == "scratch"
    assert record.weights is not None
    for entry in record.weights.histograms:  # of the weights that are in the file, not of those thrown away
        reach = float(load_file(tmp_path / "run" / "model.safetensors")[entry.layer].abs().max())
        assert entry.left.reach == pytest.approx(reach, rel=1e-6)
    state, masks = load_file(tmp_path / "run" / "model.safetensors"), Masks.load(tmp_path / "run" / "masks.safetensors")
    for name, mask in masks.items():
        assert torch.equal(state[name] != 0, mask), name


def test_thresholds_and_a_budget_cannot_both_decide() -> None:
    recipe = read_recipe("weights_and_connections_lenet300_mnist")
    assert isinstance(recipe.method, WeightsAndConnections)
    method = replace(recipe.method, ratios={}, quality={"fc1": 1.0})
    with pytest.raises(BudgetError, match=r"there are thresholds \(method\.quality\) and a budget"):
        replace(recipe, method=method, budget=Budget(nonzeros=0.1))
    with pytest.raises(UsageError, match=r"did you mean 'method\.quality'"):
        read_recipe("weights_and_connections_lenet300_mnist", ["method.qualty={fc1: 1.0}"])


def test_the_command_prunes_to_non_zeros_and_has_no_plan_to_make(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    common = ["--model", "digits-resnet", "--data", "digits", "--threads", "1"]
    chosen = ["--method", "weights_and_connections", "--setting", "allocation=global", "--nonzeros", "0.1"]
    assert main(["plan", *common, *chosen]) == 2
    assert "cuts nothing by a plan" in capsys.readouterr().err
    assert main(["prune", *common, *chosen, "--macs", "0.5", "--train-epochs", "1", "--out", str(tmp_path)]) == 2
    assert "give nonzeros alone" in capsys.readouterr().err
    out = str(tmp_path / "run")
    assert main(["prune", *common, *chosen, "--train-epochs", "1", "--codebook-bits", "4", "--out", out]) == 2
    assert "has no codebook" in capsys.readouterr().err
    chosen += ["--compact", "codebook", "--compact-bits", "best"]
    assert main(["prune", *common, *chosen, "--train-epochs", "1", "--epochs", "1", "--out", out, "--quiet"]) == 0
    assert "non-zeros" in capsys.readouterr().out
    masks = Masks.load(tmp_path / "run" / "masks.safetensors")
    assert masks.kept() <= 0.1 * masks.size()
