"""Recipes that prune weights: the published sizes, a short run with all of its files, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secateur.cli.app import main
from secateur.cost import Budget
from secateur.errors import BudgetError, UsageError
from secateur.methods import WeightsAndConnections
from secateur.models import build_model
from secateur.recipe import RunResult, compress, read_recipe
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
    assert run(folder).was_complete


def test_the_control_keeps_the_masks_and_not_the_weights(tmp_path: Path) -> None:
    record = run(tmp_path / "run", "control=scratch", "export=[]").record
    assert record.phases[-1].phase == "scratch"
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
    assert main(["prune", *common, *chosen, "--train-epochs", "1", "--epochs", "1", "--out", out, "--quiet"]) == 0
    assert "non-zeros" in capsys.readouterr().out
    masks = Masks.load(tmp_path / "run" / "masks.safetensors")
    assert masks.kept() <= 0.1 * masks.size()
