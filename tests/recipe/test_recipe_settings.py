from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from secateur.cost import Budget
from secateur.data import DATA_SETS, DataSource, load_data
from secateur.data.options import LoadOptions
from secateur.data.vision import PUBLISHED_FILES
from secateur.errors import BudgetError, ModelError, UsageError
from secateur.export import inspect
from secateur.methods import L1, Magnitude
from secateur.methods.smallest import read_search
from secateur.models import build_model
from secateur.recipe import (
    DataChoice,
    Machine,
    MaxDrop,
    ModelChoice,
    Recipe,
    RunDirectory,
    SensitivityRecipe,
    budget_from,
    build_subject,
    compress,
    demo_recipe,
    fine_tuning,
    measure_sensitivity,
    parse_shape,
    read_data,
)
from secateur.recipe.differences import first_difference
from secateur.recipe.fingerprints import with_data_fingerprint, with_fingerprint
from secateur.recipe.subject import fingerprinted
from secateur.training import TrainSettings


def recipe() -> Recipe:
    return Recipe(
        model=ModelChoice(spec="digits-resnet", weights="a.safetensors", weights_fingerprint="abc"),
        data=DataChoice(spec="digits"),
        budget=Budget(macs=0.5),
        method=Magnitude(finetune=fine_tuning(distill=True)),
    )


def test_a_budget_is_read_as_users_write_it() -> None:
    given = {"macs": "50%", "params": "60M", "size_bytes": None}
    assert budget_from(given) == Budget(macs=0.5, params=60_000_000)
    with pytest.raises(BudgetError, match="--macs, --params"):
        budget_from({"macs": None})


def test_settings_survive_json_and_say_what_differs_first() -> None:
    values = recipe().to_json()
    assert first_difference(values, values) is None
    other = replace(recipe(), seed=1, budget=Budget(macs=0.25)).to_json()
    assert first_difference(values, other) == ("budget.macs", 0.5, 0.25)
    plain = replace(recipe(), method=Magnitude(finetune=fine_tuning())).to_json()
    assert first_difference(values, plain) == ("method.finetune.distillation.temperature", 4.0, None)


def test_where_it_runs_and_the_name_of_the_weight_file_make_no_other_run() -> None:
    values = recipe().to_json()
    elsewhere = replace(recipe(), machine=Machine(threads=7, device="cuda", workers=0))
    moved = replace(elsewhere, model=replace(recipe().model, weights="b.safetensors"))
    assert first_difference(values, moved.to_json()) is None
    retrained = replace(recipe(), model=replace(recipe().model, weights="b.safetensors", weights_fingerprint="xyz"))
    assert first_difference(values, retrained.to_json()) == ("model.weights", "a.safetensors", "b.safetensors")


def test_changed_data_has_another_fingerprint(tmp_path: Path) -> None:
    choice = DataChoice(spec=f"parquet:{tmp_path}")
    assert with_data_fingerprint(choice).fingerprint is None
    (tmp_path / "train.parquet").write_bytes(b"one")
    (tmp_path / "test.parquet").write_bytes(b"two")
    first = with_data_fingerprint(choice).fingerprint
    assert first == with_data_fingerprint(choice).fingerprint
    (tmp_path / "test.parquet").write_bytes(b"six")
    assert first is not None
    assert first != with_data_fingerprint(choice).fingerprint
    place = RunDirectory(tmp_path / "run")
    place.begin(replace(recipe(), data=replace(choice, fingerprint=first)))
    with pytest.raises(UsageError, match=rf"the data changed .*{first} then, x now"):
        place.enter(replace(recipe(), data=replace(choice, fingerprint="x")))


def test_a_model_needs_weights_or_training() -> None:
    with pytest.raises(UsageError, match="--train-epochs"):
        replace(recipe(), model=ModelChoice(spec="digits-resnet"))
    with pytest.raises(UsageError, match="train_epochs is -1"):
        replace(recipe(), train_epochs=-1)
    with pytest.raises(ModelError, match="no weight file"):
        with_fingerprint(ModelChoice(spec="digits-resnet", weights="absent.pt"))


def test_a_run_directory_belongs_to_one_recipe(tmp_path: Path) -> None:
    place = RunDirectory(tmp_path / "run")
    assert place.enter(recipe()) is None
    assert not place.folder.exists()  # entering writes nothing
    place.begin(recipe())
    assert place.enter(recipe()) is None
    with pytest.raises(UsageError, match=r"seed = 0, but this one has 1; .*--force"):
        place.enter(replace(recipe(), seed=1))
    assert place.enter(replace(recipe(), seed=1), force=True) is None
    place.begin(replace(recipe(), seed=1), force=True)
    assert place.enter(replace(recipe(), seed=1)) is None


def test_what_a_kill_leaves_in_the_middle_of_the_first_write_is_no_other_run(tmp_path: Path) -> None:
    (tmp_path / ".recipe.yaml.x1.part").write_text("half")
    assert RunDirectory(tmp_path).enter(recipe()) is None


def test_starting_over_removes_only_what_a_run_writes(tmp_path: Path) -> None:
    place = RunDirectory(tmp_path)
    place.begin(recipe())
    (place.checkpoint / "phases").mkdir(parents=True)
    (place.checkpoint / "phases" / "dense.safetensors").touch()
    (place.checkpoint / "mine.txt").touch()
    place.path("record").write_text("{}")
    place.clear()
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["checkpoint", "mine.txt"]


def test_a_damaged_record_is_made_again(tmp_path: Path) -> None:
    place = RunDirectory(tmp_path)
    place.begin(recipe())
    place.path("record").write_text("{}")
    assert place.enter(recipe()) is None


def test_an_input_shape() -> None:
    assert parse_shape("3x224x224") == parse_shape("3×224×224") == (3, 224, 224)
    for wrong in ("", "3", "3x32", "3x32x", "3x-1x4", "0x4x4", "axbxc"):
        with pytest.raises(UsageError, match="such as 3x32x32"):
            parse_shape(wrong)


def test_the_data_decides_classes_channels_and_inputs() -> None:
    data = read_data(DataChoice(spec="digits"), Machine())
    subject = build_subject(ModelChoice(spec="resnet20"), data=data)
    assert subject.builder.name == "secateur:resnet20"
    assert subject.builder.arguments == {"num_classes": 10, "in_channels": 1}
    assert subject.example_inputs.shape == (2, 1, 8, 8)
    assert subject.preprocessing is not None
    assert subject.preprocessing.labels == tuple("0123456789")
    assert not subject.model.training


def test_random_weights_follow_the_seed_and_leave_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (
        build_subject(ModelChoice(spec="digits-resnet"), seed=seed).model.state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_the_demo_cuts_to_half() -> None:
    made = demo_recipe(seed=3)
    assert made.budget == Budget(macs=0.5)
    assert (made.seed, made.method.seed) == (3, 3)
    assert made.distills


def test_the_order_of_ratios_makes_another_run(tmp_path: Path) -> None:
    method = L1(ratios={"layer1.*": 0.5, "*": 0.25})
    given = replace(recipe(), budget=None, method=method)
    turned = replace(given, method=replace(method, ratios={"*": 0.25, "layer1.*": 0.5}))
    assert first_difference(given.to_json(), given.to_json()) is None
    place = RunDirectory(tmp_path / "run")
    place.begin(given)
    assert place.enter(given) is None
    with pytest.raises(UsageError, match=r"the order of method\.ratios = layer1\.\*, \*, but this one has \*, layer1"):
        place.enter(turned)


def test_data_that_a_job_fetches_is_fingerprinted_after_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(options: LoadOptions) -> DataSource:
        if options.download:
            for name in PUBLISHED_FILES["mnist"]:
                (options.root / name).parent.mkdir(parents=True, exist_ok=True)
                (options.root / name).write_bytes(b"came over the net")
        return load_data("digits")

    monkeypatch.setitem(DATA_SETS, "mnist", fetched)
    model, choice = ModelChoice(spec="digits-resnet"), DataChoice(spec="mnist", root=str(tmp_path), download=True)
    first = fingerprinted(model, choice, Machine())
    assert first[1].fingerprint is not None
    assert fingerprinted(model, choice, Machine()) == first


def test_a_scan_that_fetches_its_data_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(options: LoadOptions) -> DataSource:
        for name in PUBLISHED_FILES["mnist"]:
            (options.root / name).parent.mkdir(parents=True, exist_ok=True)
            (options.root / name).write_bytes(b"came over the net")
        return load_data("digits")

    monkeypatch.setitem(DATA_SETS, "mnist", fetched)
    save_file(build_model("digits-resnet").state_dict(), tmp_path / "weights.safetensors")
    scan = SensitivityRecipe(
        model=ModelChoice(spec="digits-resnet", weights=str(tmp_path / "weights.safetensors")),
        data=DataChoice(spec="mnist", root=str(tmp_path / "data"), download=True),
        shares=(0.5,),
        groups=("layer1.0.conv1",),
        limit=16,
    )
    first = measure_sensitivity(scan, tmp_path / "scan")
    again = measure_sensitivity(scan, tmp_path / "scan")
    assert again.was_complete
    assert again.sensitivity == first.sensitivity


def test_the_model_file_of_a_control_has_the_settings_that_were_asked_for(tmp_path: Path) -> None:
    asked = Recipe(
        model=ModelChoice(spec="digits-resnet"),
        data=DataChoice(spec="digits", train_share=0.1),
        train_epochs=1,
        budget=Budget(macs=0.5),
        method=Magnitude(finetune_epochs=2, finetune=fine_tuning(distill=True)),
        control="scratch",
        export=(),
        machine=Machine(threads=1),
    )
    done = compress(asked, tmp_path / "run")
    settings = inspect(tmp_path / "run" / "model.safetensors").provenance["method_settings"]
    assert settings == asked.to_json()["method"]
    assert any("control: it learned from the labels alone" in note for note in done.record.notes)
    plain = replace(asked, method=replace(asked.method, finetune=fine_tuning()))
    assert not any("from the labels alone" in note for note in compress(plain, tmp_path / "plain").record.notes)


def test_a_search_that_finds_nothing_leaves_its_curve(tmp_path: Path) -> None:
    asked = Recipe(
        model=ModelChoice(spec="digits-resnet"),
        data=DataChoice(spec="digits"),
        train_epochs=3,
        train=TrainSettings(batch_size=64, learning_rate=0.05),
        max_drop=MaxDrop(points=0, recovery_epochs=0, tolerance=0.5),
        method=Magnitude(finetune_epochs=0, criterion="random"),
        export=(),
        machine=Machine(threads=1),
    )
    with pytest.raises(BudgetError, match=r"no cut stays within 0 points .*tradeoff\.md has what each candidate gave"):
        compress(asked, tmp_path / "run")
    found = read_search(tmp_path / "run" / "search.json")
    assert (found.budget, found.share, found.chosen) == (None, None, None)
    assert [candidate.within for candidate in found.curve] == [False]
    assert "No budget was tried whose top-1" in (tmp_path / "run" / "tradeoff.md").read_text()
