"""Short runs of ThiNet's recipes on data of seconds, and a run that begins with the weights of another network."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur.cli import choices, method_choices
from secateur.cli.method_options import MethodOptions
from secateur.cli.options import BudgetOptions, ModelOptions
from secateur.errors import BudgetError, UsageError
from secateur.models import NETWORKS, build_model
from secateur.recipe import compress, read_recipe
from secateur.recipe.differences import first_difference
from secateur.recipe.settings import ModelChoice
from secateur.record import RunRecord

DIGITS = (
    *("model.spec=digits-resnet", "data.spec=digits", "data.augmentation=none", "data.train_share=0.5"),
    *("train_epochs=2", "export=[]", "machine.threads=1", "method.images=64"),
)


def run(name: str, folder: Path, *changes: str) -> RunRecord:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    before = torch.get_num_threads()
    record = compress(read_recipe(name, changes), folder).record
    torch.set_num_threads(before)
    assert record.proof is not None
    assert record.proof.verdict == "exact"
    return record


def test_the_short_recipe_for_a_budget_runs_through_all_layers(tmp_path: Path) -> None:
    record = run("thinet_resnet56-b_cifar10-cpu", tmp_path / "run", *DIGITS, "method.finetune_epochs=1")
    names = [phase.phase for phase in record.phases]
    assert names == ["dense", *(f"recover-{number}" for number in range(1, 6)), "finetune"]
    dense, tuned = record.measurements["dense"], record.measurements["tuned"]
    assert dense.macs is not None
    assert tuned.macs is not None
    assert tuned.macs <= 0.5 * dense.macs
    assert (tmp_path / "run" / "steps.json").is_file()
    assert any("a budget decides" in note for note in record.notes)


def test_the_short_recipe_for_shares_runs_with_them(tmp_path: Path) -> None:
    keep = 'method.keep={"layer1.*": 0.25}'
    record = run("thinet_lenet5_mnist-cpu", tmp_path / "run", *DIGITS, keep, "method.finetune_epochs=0")
    assert [phase.phase for phase in record.phases] == ["dense", "recover-1"]
    kept = load_file(tmp_path / "run" / "model.safetensors")
    assert kept["layer1.0.conv1.weight"].shape[0] == 4


def test_a_network_with_a_new_head_begins_with_the_weights_of_the_other_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "digits-resnet", replace(NETWORKS["digits-resnet"], head="linear"))
    torch.manual_seed(0)
    save_file(build_model("digits-resnet", num_classes=7).state_dict(), tmp_path / "seven.safetensors")
    changes = (*DIGITS, f"model.weights={tmp_path / 'seven.safetensors'}", "model.new_head=true")
    keep = ('method.keep={"layer1.*": 0.5}', "method.layer_epochs=0", "method.finetune_epochs=0")
    record = run("thinet_lenet5_mnist-cpu", tmp_path / "run", *changes, *keep)
    assert record.phases[0].phase == "dense"
    assert any("all layers but linear, which begins with random ones" in note for note in record.notes)
    control = run(
        "thinet_lenet5_mnist-cpu", tmp_path / "c", *changes, *keep[:2], "method.finetune_epochs=1", "control=scratch"
    )
    assert control.phases[-1].phase != "finetune"


def test_a_new_head_needs_weights_and_training() -> None:
    with pytest.raises(UsageError, match=r"new_head is for weights .* and there are none"):
        ModelChoice(spec="vgg16-gap", new_head=True)
    with pytest.raises(UsageError, match="nobody says which layers of resnet20 are its head"):
        ModelChoice(spec="resnet20", weights="w.pth", new_head=True)
    with pytest.raises(UsageError, match=r"the last layer is new \(new_head\) and nothing trains it"):
        read_recipe("thinet_vgg16-gap_cub200", ["train_epochs=0"])
    with pytest.raises(UsageError, match="which would train them anew"):
        read_recipe("thinet_vgg16-gap_cub200", ["model.new_head=false"])


def test_the_command_passes_a_new_head_on() -> None:
    options = ModelOptions(model="vgg16-gap", weights="vgg16.pth", new_head=True)
    assert choices.model_choice(options) == ModelChoice(spec="vgg16-gap", weights="vgg16.pth", new_head=True)


def test_shares_to_keep_stand_in_for_a_budget_and_not_beside_one() -> None:
    options = MethodOptions(method="thinet", setting=["keep={layer1.*: 0.5}"])
    assert choices.budget(BudgetOptions(), options) is None
    with pytest.raises(BudgetError, match=r"there are shares to keep \(method.keep\) and a budget"):
        read_recipe("thinet_lenet5_mnist-cpu", ["budget.macs=0.5"])
    with pytest.raises(BudgetError, match=r"there are shares to keep \(method.keep\) and an accuracy"):
        read_recipe("thinet_lenet5_mnist-cpu", ["max_drop.points=1"])


def test_options_of_the_command_reach_thinet() -> None:
    options = MethodOptions(method="thinet", layer_epochs=2, lock=["layer1.*"], setting=["variant=thinet_tpami"])
    method = method_choices.method(options, seed=3)
    assert (method.layer_epochs, method.skip, method.variant, method.seed) == (2, ("layer1.*",), "thinet_tpami", 3)  # type: ignore[union-attr]
    none = method_choices.method(MethodOptions(method="thinet", layer_epochs=0), seed=3)
    assert none.layer_epochs == 0  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="--layer-epochs 2 is for training between cuts"):
        method_choices.method(MethodOptions(method="l1", layer_epochs=2), seed=3)


def test_the_order_of_shares_to_keep_decides() -> None:
    one = read_recipe("thinet_tiny_imagenet").to_json()
    other = read_recipe("thinet_tiny_imagenet", ['method.keep={"features.*": 0.25, features.28: 0.5}']).to_json()
    assert first_difference(one, one) is None
    difference = first_difference(one, other)
    assert difference is not None
    assert difference[0] == "the order of method.keep"
