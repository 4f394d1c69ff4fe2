"""Recipes as files: what reads, and the one sentence that refuses what does not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from secateur.cost import Budget
from secateur.errors import BudgetError, SecateurError, UsageError
from secateur.methods import L1, METHODS, Magnitude
from secateur.recipe import Recipe, demo_recipe, read_recipe, recipe_from, recipe_schema, recipe_text, recipe_yaml
from secateur.training import Distillation

RECIPE = """\
# A recipe with something at every level.
secateur: 1
title: "a test"
model:
  spec: digits-resnet
data:
  spec: digits
train_epochs: 2
train:
  learning_rate: 0.1
  weight_decay: 1e-4
method:
  name: l1
  residual: inner
  ratios:
    "layer1.*": 0.5
    "*.conv1": 0.25
  finetune:
    learning_rate: 0.01
    distillation:
      temperature: 2.0
machine:
  threads: 1
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    return file


def wrong(path: Path, text: str) -> str:
    """Return the sentence that refuses ``text``."""
    path.write_text(text, encoding="utf-8")
    return refusal(path)


def refusal(path: Path | str, *overrides: str) -> str:
    with pytest.raises(SecateurError) as refused:
        read_recipe(str(path), overrides)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert "pydantic" not in sentence
    return sentence


def test_a_recipe_reads(path: Path) -> None:
    recipe = read_recipe(str(path))
    assert recipe.title == "a test"
    assert recipe.train.weight_decay == 1e-4  # which YAML takes for a text
    assert isinstance(recipe.method, L1)
    # In the order of the file, since the first pattern that fits decides.
    assert list(recipe.method.ratios.items()) == [("layer1.*", 0.5), ("*.conv1", 0.25)]
    assert recipe.method.finetune is not None
    assert recipe.method.finetune.distillation == Distillation(temperature=2.0)
    assert recipe.budget is None
    assert recipe.machine.threads == 1


def test_without_a_method_it_is_magnitude(path: Path) -> None:
    path.write_text("model: {spec: resnet20}\ndata: {spec: digits}\nbudget: {macs: 0.5}\ntrain_epochs: 1\n")
    recipe = read_recipe(str(path))
    assert isinstance(recipe.method, Magnitude)
    assert recipe.budget == Budget(macs=0.5)


@pytest.mark.parametrize(
    ("override", "key", "meant"),
    [
        ("budgett=1", "budgett", "budget"),
        ("train_epoch=1", "train_epoch", "train_epochs"),
        ("model.spek=1", "model.spek", "model.spec"),
        ("data.train_shares=1", "data.train_shares", "data.train_share"),
        ("train.lerning_rate=1", "train.lerning_rate", "train.learning_rate"),
        ("train.distillation.temprature=1", "train.distillation.temprature", "train.distillation.temperature"),
        ("budget.mac=0.4", "budget.mac", "budget.macs"),
        ("max_drop.point=1", "max_drop.point", "max_drop.points"),
        ("machine.thread=1", "machine.thread", "machine.threads"),
        ("method.ratio=1", "method.ratio", "method.ratios"),
        ("method.finetune_epoch=1", "method.finetune_epoch", "method.finetune_epochs"),
        ("method.finetune.batchsize=1", "method.finetune.batchsize", "method.finetune.batch_size"),
        (
            "method.finetune.distillation.wieght=1",
            "method.finetune.distillation.wieght",
            "method.finetune.distillation.weight",
        ),
    ],
)
def test_an_unknown_key_anywhere_names_the_nearest(path: Path, override: str, key: str, meant: str) -> None:
    assert refusal(path, override) == f"{path}: unknown key {key!r}; did you mean {meant!r}?"


def test_a_key_like_no_other_lists_all_of_its_place(path: Path) -> None:
    assert "choose one of: machine.device, machine.threads, machine.workers" in refusal(path, "machine.zzz=1")
    assert "unknown key '1'; choose one of: budget" in wrong(path, RECIPE + "1: 2\n")


def test_a_setting_of_another_method_is_no_key(path: Path) -> None:
    sentence = "method.criterion is a setting of the method magnitude, not of l1; leave it out"
    assert refusal(path, "method.criterion=l2") == f"{path}: {sentence}"
    assert "is a setting of the method l1, not of magnitude" in refusal(path, "method.name=magnitude")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train_epochs=many", "train_epochs is 'many', but should be a whole number"),
        ("train_epochs=1.5", "train_epochs is 1.5, but should be a whole number"),
        ("train.learning_rate=fast", "train.learning_rate is 'fast', but should be a number"),
        ("data.download=perhaps", "data.download is 'perhaps', but should be true or false"),
        ("title=3", "title is 3, but should be a text"),
        ("model=null", "model is empty, but should be keys with values"),
        ("budget=3", "budget is 3, but should be keys with values"),
        ("budget.macs=[1]", "budget.macs is [1], but should be a whole number"),
        ("method=l1", "method is 'l1', but should be keys with values"),
        ("method={ratios: {a: 0.5}}", "method has no name; give name: and one of l1, magnitude"),
        ("method.name=l3", "unknown method 'l3'; did you mean 'l1'?"),
        ("method.ratios=0.5", "method.ratios is 0.5, but should be keys with values"),
        ("method.ratios.layer1.*=0.5", "method.ratios.layer1 has keys of its own (*), but should be a number"),
        ("method.ratios={layer1.*: high}", "method.ratios.layer1.* is 'high', but should be a number"),
        ("method.skip=layer1", "method.skip is 'layer1', but should be a list"),
        ("method.residual=iner", "method.residual is 'iner', but should be '"),
        ("train.schedule=stp", "train.schedule is 'stp', but should be 'constant', 'step'"),
        ("train.milestones=[0.5, late]", "train.milestones.1 is 'late', but should be a number"),
        ("control=scratchy", "control is 'scratchy', but should be 'scratch'"),
        ("export=[onyx]", "export.0 is 'onyx', but should be 'onnx'"),
    ],
)
def test_a_value_of_the_wrong_kind_says_what_should_be_there(path: Path, override: str, sentence: str) -> None:
    assert refusal(path, override).startswith(f"{path}: {sentence}")


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("method.ratios={layer1: 2}", "the ratio for 'layer1' is 2"),
        ("method.finetune.distillation.temperature=-1", "temperature is -1.0, but must be above 0"),
        ("budget.macs=5.0", "macs is 5.0, a share outside (0, 1]"),
        ("budget.macs=lots", "macs is 'lots'; give a share such as 0.5 or 50%"),
        ("budget.macs=true", "macs is 'True'; give a share"),
        ("budget={}", "the budget is empty; give at least one of: macs"),
        ("train_epochs=0", "model.weights in a recipe"),
    ],
)
def test_values_out_of_range_are_refused_too(path: Path, override: str, part: str) -> None:
    assert part in refusal(path, override)


def test_amounts_read_as_on_the_command_line(path: Path) -> None:
    read = read_recipe(str(path), ["budget={macs: 50%, params: 60M, size_bytes: 1e6}", "method.ratios={}"])
    assert read.budget == Budget(macs=0.5, params=60_000_000, size_bytes=1_000_000)
    with pytest.raises(BudgetError):
        read_recipe(str(path), ["budget.params=none"])


@pytest.mark.parametrize("key", ["model", "data"])
def test_a_missing_key(path: Path, key: str) -> None:
    values = yaml.safe_load(RECIPE)
    del values[key]
    assert wrong(path, yaml.safe_dump(values)).startswith(f"{path}: the key {key} is missing")
    assert refusal_of({**values, key: {}}) == (
        f"the recipe: the key {key}.spec is missing; `secateur recipe --schema` describes all keys"
    )


def refusal_of(values: dict[str, object]) -> str:
    with pytest.raises(UsageError) as refused:
        recipe_from(values)
    return str(refused.value)


def test_an_unknown_key_is_named_before_the_missing_one_that_it_explains(path: Path) -> None:
    assert "unknown key 'modle'; did you mean 'model'?" in wrong(path, RECIPE.replace("\nmodel:", "\nmodle:"))


@pytest.mark.parametrize("number", ["2", "0", "'one'", "null"])
def test_another_format_is_refused_before_its_keys_are(path: Path, number: str) -> None:
    text = RECIPE.replace("secateur: 1", f"secateur: {number}").replace("model:", "network:")
    assert f"format {yaml.safe_load(number)!r}, but this version of Secateur reads format 1" in wrong(path, text)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("model: a: b\n", 1, "mapping values are not allowed here"),
        (RECIPE.replace("  ratios:\n", "\tratios:\n"), 15, "found character '\\t'"),
        ("model: {spec: *network}\n", 1, "undefined alias"),
        ("model:\n  spec: !!python/object/apply:os.system [ls]\n", 2, "could not determine a constructor"),
        (RECIPE + "train_epochs: 3\n", 24, "the key train_epochs stands here twice; take one of them out"),
        (RECIPE.replace('"*.conv1"', '"layer1.*"'), 17, "the key layer1.* stands here twice"),
        ("? [a, b]\n: 1\n", 1, "unhashable key"),
    ],
)
def test_what_is_no_yaml_is_refused_by_its_line(path: Path, text: str, line: int, problem: str) -> None:
    sentence = wrong(path, text)
    assert sentence.startswith(f"{path}, line {line}: ")
    assert problem in sentence


@pytest.mark.parametrize(
    ("text", "kind"),
    [("- model\n- data\n", "a list"), ("", "empty"), ("# nothing yet\n", "empty"), ("just words\n", "a single value")],
)
def test_a_file_without_keys_is_refused(path: Path, text: str, kind: str) -> None:
    assert wrong(path, text) == f"{path} is {kind}; a recipe holds keys such as model, data, budget and method"


def test_what_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b"\x93NUMPY\xff\xfe")
    assert "is not a text file" in refusal(path)
    assert "cannot be parsed" in wrong(path, "model: \x00\n")


def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    assert "did you mean 'l1-resnet56-a'?" in refusal("l1-resnet56-aa")
    absent = refusal(tmp_path / "l1-resnet56-b.yaml")
    assert absent.startswith(f"there is no file {tmp_path / 'l1-resnet56-b.yaml'}")
    assert "did you mean the recipe 'l1-resnet56-b', which comes with Secateur" in absent
    (tmp_path / "folder.yaml").mkdir()
    assert "give a recipe that can be read" in refusal(tmp_path / "folder.yaml")


def test_set_replaces_values_and_makes_new_places(path: Path) -> None:
    changes = ["seed=3", "train.learning_rate=0.2", "budget.macs=0.4", "method.ratios={}", "machine={device: cpu}"]
    changed = read_recipe(str(path), changes)
    before = read_recipe(str(path))
    assert (changed.seed, changed.train.learning_rate, changed.budget) == (3, 0.2, Budget(macs=0.4))
    assert changed.train.weight_decay == before.train.weight_decay
    assert (changed.machine.device, changed.machine.threads) == ("cpu", None)  # a whole place replaces the old one
    deep = read_recipe(str(path), ["train.distillation.weight=0.5"])
    assert deep.train.distillation == Distillation(weight=0.5)
    assert read_recipe(str(path), ["seed=1", "seed=2"]).seed == 2  # the last one holds


def test_set_leaves_aliases_of_the_same_mapping_alone(path: Path) -> None:
    train = "train: &shared {learning_rate: 0.01, distillation: {temperature: 2.0}}\n"
    path.write_text(
        "model: {spec: digits-resnet}\ndata: {spec: digits}\ntrain_epochs: 1\nbudget: {macs: 0.5}\n"
        f"{train}method: {{name: l1, finetune: *shared}}\n"
    )
    changed = read_recipe(str(path), ["train.learning_rate=0.2", "train.distillation.temperature=8.0"])
    assert (changed.train.learning_rate, changed.train.distillation) == (0.2, Distillation(temperature=8.0))
    assert changed.method.finetune is not None
    assert changed.method.finetune.learning_rate == 0.01
    assert changed.method.finetune.distillation == Distillation(temperature=2.0)


@pytest.mark.parametrize(
    ("override", "other"),
    [("budget.macs=0.5", "a budget (macs ≤ 0.5 of the original)"), ("max_drop.points=1", "max_drop: 1 points")],
)
def test_ratios_and_something_else_that_decides_how_much_goes(path: Path, override: str, other: str) -> None:
    sentence = refusal(path, override)
    assert sentence.startswith("there are ratios (method.ratios) and ")
    assert other in sentence
    assert "leave one out" in sentence


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("machine.workers=-1", "workers is -1; give 0 or more"),
        ("machine.threads=0", "threads is 0, but must be at least 1"),
        ("data.train_share=.nan", "the share of the training data is nan; give a share above 0 and up to 1"),
        ("data.validation_share=3", "validation share is 3.0; give a share from 0 up to but not including 1"),
        ("data.normalize=cifar", "unknown normalisation 'cifar'"),
        ("data.augmentation=flipp", "unknown augmentation 'flipp'; did you mean 'flip'?"),
        ("model.num_classes=0", "num_classes is 0; give a whole number of at least 1"),
    ],
)
def test_settings_are_checked_before_data_and_model_are_built(path: Path, override: str, sentence: str) -> None:
    assert sentence in refusal(path, override)


def test_set_takes_keys_with_dots_in_braces(path: Path) -> None:
    changed = read_recipe(str(path), ['method.ratios={layer1.*: 0.5, "*.conv2": 0.125}'])
    assert isinstance(changed.method, L1)
    assert dict(changed.method.ratios) == {"layer1.*": 0.5, "*.conv2": 0.125}


def test_n_of_m_is_a_text_and_no_number_of_seconds(path: Path) -> None:
    wanted = "method={name: weights_and_connections, granularity: 2:4}"
    changed = read_recipe(str(path), [wanted, "budget={nonzeros: 0.5}"])
    assert getattr(changed.method, "granularity", "") == "2:4"
    path.write_text(RECIPE.partition("method:")[0] + "method:\n  name: weights_and_connections\n  granularity: 1:16\n")
    changed = read_recipe(str(path), ["budget={nonzeros: 0.5}"])
    assert getattr(changed.method, "granularity", "") == "1:16"


@pytest.mark.parametrize("override", ["seed", "=3", " =3", ""])
def test_set_without_key_or_value_is_refused(path: Path, override: str) -> None:
    assert refusal(path, override).startswith(f"--set {override!r} is not key=value; write for example --set budget")


def test_set_that_cannot_work_is_refused(path: Path) -> None:
    assert "the value is not YAML; put names with special" in refusal(path, "method.ratios={*.conv1: 0.5}")
    assert "spec is 'digits' in the recipe, which has no keys of its own" in refusal(path, "data.spec.name=digits")


def test_code_is_refused_unless_it_is_allowed(path: Path) -> None:
    model, data = "model.spec=mine.py:network", "data.spec=mine.py:data"
    assert "names mine.py:network and mine.py:data, which is code that would run" in refusal(path, model, data)
    assert "names mine.py:data" in refusal(path, data)
    assert "--allow-code" in refusal(path, model)
    assert read_recipe(str(path), [model, data], allow_code=True).model.spec == "mine.py:network"


@pytest.mark.parametrize("name", ["", "demo", "l1-resnet34-c"])
def test_a_written_recipe_reads_back_equal(path: Path, name: str) -> None:
    recipe = demo_recipe(seed=3) if name == "demo" else read_recipe(name or str(path))
    path.write_text(recipe_yaml(recipe), encoding="utf-8")
    assert read_recipe(str(path)) == recipe
    file = path.with_suffix(".json")
    file.write_text(json.dumps(recipe.to_json()))
    assert read_recipe(str(file)) == recipe
    assert recipe_from(recipe.to_json()) == recipe


def test_reading_changes_no_caller(path: Path) -> None:
    values = yaml.safe_load(RECIPE.replace("train_epochs", "budget: {macs: 60M}\ntrain_epochs"))
    values["method"]["ratios"] = {}
    before = json.dumps(values)
    recipe: Recipe = recipe_from(values)
    assert recipe.budget == Budget(macs=60_000_000)
    assert json.dumps(values) == before
    assert replace(recipe, budget=None) == read_recipe(str(path), ["method.ratios={}"])


def test_the_schema_names_every_key() -> None:
    schema = recipe_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(demo_recipe().to_json())
    assert schema["required"] == ["model", "data"]
    objects = [rule for rule in schema["$defs"].values() if rule["type"] == "object"]
    assert all(rule["additionalProperties"] is False for rule in [schema, *objects])
    assert set(schema["properties"]["method"]["discriminator"]["mapping"]) == set(METHODS)
    json.dumps(schema)


def test_the_text_of_a_recipe_is_its_file(path: Path) -> None:
    assert recipe_text(str(path)) == RECIPE
    assert "ResNet-56-A" in recipe_text("l1-resnet56-a")
