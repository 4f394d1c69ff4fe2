"""``secateur compress``: a recipe's run through the real command, and what may not be run."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cli_command import Ran, refused, run

from secateur.export import inspect
from secateur.record import read_record

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

TOY = Path(__file__).with_name("cli_toy.py")

RECIPE = """\
secateur: 1
title: "half of the blocks' first convolutions"
model:
  spec: digits-resnet
data:
  spec: digits
  train_share: 0.5
train_epochs: 2
train:
  batch_size: 64
method:
  name: l1
  residual: inner
  ratios:
    "*.conv1": 0.5
  finetune_epochs: 1
  finetune:
    batch_size: 64
    learning_rate: 0.01
export: []
seed: 5
machine:
  threads: 1
  device: cpu
"""

LAYERS = (
    *("--method", "l1", "--residual", "inner", "--ratio", "*.conv1=0.5"),
    *("--train-epochs", "1", "--epochs", "1", "-q", "--threads", "1"),
)


@dataclass(frozen=True)
class Done:
    """A recipe's file, the folder of its run, and what the command printed."""

    recipe: Path
    folder: Path
    ran: Ran


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    place = tmp_path_factory.mktemp("compress")
    (place / "half.yaml").write_text(RECIPE, encoding="utf-8")
    folder = place / "run"
    return Done(place / "half.yaml", folder, run("compress", place / "half.yaml", "--out", folder, "-q"))


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_it_writes_the_whole_run_directory(done: Done) -> None:
    assert done.ran.code == 0, done.ran.err
    assert done.ran.err == ""
    written = {path.name for path in done.folder.iterdir()}
    files = {"recipe.yaml", "record.json", "log.jsonl", "plan.json", "dense.safetensors", "model.safetensors"}
    assert written >= {*files, "report.md", "checkpoint"}
    assert "model.onnx" not in written  # export: []
    record = read_record(done.folder / "record.json")
    assert record.command[:2] == ("secateur", "compress")
    assert [phase.phase for phase in record.phases] == ["dense", "finetune"]
    assert record.proof is not None
    assert record.proof.verdict == "exact"
    assert record.settings["title"] == "half of the blocks' first convolutions"
    kept = json.loads((done.folder / "plan.json").read_text())["kept"]
    assert kept
    assert all(name.endswith(".conv1") for name in kept)


def test_a_repeated_call_computes_nothing(done: Done) -> None:
    before = times(done.folder)
    again = run("compress", done.recipe, "--out", done.folder, "-q")
    assert again.code == 0
    assert "this run was complete already; nothing was computed" in again.out
    assert done.ran.out in again.out
    assert times(done.folder) == before


def test_another_machine_and_title_are_the_same_run(done: Done) -> None:
    again = run("compress", done.recipe, "--out", done.folder, "-q", "--threads", "2", "--set", "title=other")
    assert "complete already" in again.out


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("seed=6", ("seed = 5", "6")),
        ("train_epochs=1", ("train_epochs = 2", "1")),
        ("method.finetune.learning_rate=0.02", ("method.finetune.learning_rate = 0.01", "0.02")),
        ("method.ratios={'*.conv1': 0.25}", ("method.ratios.*.conv1 = 0.5", "0.25")),
        ("data.train_share=1", ("data.train_share = 0.5", "1.0")),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(done: Done, override: str, parts: tuple[str, ...]) -> None:
    before = times(done.folder)
    ran = run("compress", done.recipe, "--out", done.folder, "--set", override)
    refused(ran, f"{done.folder} holds a run with", *parts, "--force")
    assert times(done.folder) == before


def test_the_record_of_a_run_makes_the_same_model_again(done: Done, tmp_path: Path) -> None:
    ran = run("compress", done.folder / "recipe.yaml", "--out", tmp_path / "other", "-q")
    assert ran.code == 0, ran.err
    for name in ("dense.safetensors", "model.safetensors", "plan.json", "recipe.yaml"):
        assert (tmp_path / "other" / name).read_bytes() == (done.folder / name).read_bytes(), name


def test_a_dry_run_prints_a_recipe_that_can_be_run(done: Done, tmp_path: Path) -> None:
    words = ("compress", done.recipe, "--set", "seed=9", "--set", "train_epochs=1", "--set", "method.finetune_epochs=0")
    shown = run(*words, "--dry-run", "--out", tmp_path / "never")
    assert (shown.code, shown.err) == (0, "")
    assert not (tmp_path / "never").exists()
    values = yaml.safe_load(shown.out)
    assert json.loads(run(*words, "--dry-run", "--json").out) == values
    assert (values["seed"], values["train"]["learning_rate"]) == (9, 0.1)  # with what was not said
    file = tmp_path / "shown.yaml"
    file.write_text(shown.out, encoding="utf-8")
    assert run("compress", file, "--dry-run").out == shown.out
    first = run(*words, "--out", tmp_path / "run", "-q")
    assert first.code == 0, first.err
    assert "complete already" in run("compress", file, "--out", tmp_path / "run", "-q").out


def test_a_dry_run_takes_the_place_from_the_command(done: Done) -> None:
    shown = run("compress", done.recipe, "--dry-run", "--threads", "3", "--device", "auto")
    assert yaml.safe_load(shown.out)["machine"] == {"threads": 3, "device": "auto", "workers": 2}


def test_a_recipe_of_the_library_reads_by_its_name() -> None:
    shown = run("compress", "l1-resnet56-b-cpu", "--set", "data.root=somewhere", "--dry-run")
    assert shown.code == 0, shown.err
    assert yaml.safe_load(shown.out)["data"]["root"] == "somewhere"
    refused(run("compress", "l1-resnet56-bb"), "did you mean 'l1-resnet56-b'?")


def test_without_out_the_folder_has_the_recipes_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ran = run("compress", "half.yaml", "--set", "train_epochs=1", "-q", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == json.loads((tmp_path / "half-run" / "record.json").read_text())
    # A folder that is named holds, even where it is what another command would take.
    shutil.move(tmp_path / "half-run", tmp_path / "secateur-run")
    again = run("compress", "half.yaml", "--set", "train_epochs=1", "-q", "--out", "secateur-run")
    assert "complete already" in again.out
    assert not (tmp_path / "half-run").exists()
    assert "the recipe's name" in " ".join(run("compress", "--help").out.split())


def test_weights_of_a_run_can_be_cut_again_and_are_known_by_their_bytes(done: Done, tmp_path: Path) -> None:
    dense = shutil.copy(done.folder / "dense.safetensors", tmp_path / "dense.safetensors")
    given = ("--set", f"model.weights={dense}", "--set", "train_epochs=0", "-q")
    first = run("compress", done.recipe, *given, "--out", tmp_path / "a")
    assert first.code == 0, first.err
    record = yaml.safe_load((tmp_path / "a" / "recipe.yaml").read_text())
    assert record["model"]["weights_fingerprint"]
    # The cut depends on the weights alone, and so does the fine-tuning after it.
    assert inspect(tmp_path / "a" / "model.safetensors").params == inspect(done.folder / "model.safetensors").params
    shutil.copy(done.folder / "model.safetensors", dense)
    refused(
        run("compress", tmp_path / "a" / "recipe.yaml", "--out", tmp_path / "b"),
        "the recipe was made with another weight file",
        str(dense),
        "take weights_fingerprint out of the recipe",
    )
    assert not (tmp_path / "b").exists()
    Path(dense).unlink()
    refused(run("compress", tmp_path / "a" / "recipe.yaml", "--out", tmp_path / "b"), "there is no weight file")


def test_code_that_a_recipe_names_does_not_run_unless_allowed(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n" + TOY.read_text())
    recipe = tmp_path / "mine.yaml"
    values = {**yaml.safe_load(RECIPE), "model": {"spec": f"{code}:network"}, "data": {"spec": f"{code}:data"}}
    values["method"]["ratios"] = {"0": 0.5}
    recipe.write_text(yaml.safe_dump(values))
    words = ("compress", recipe, "--out", tmp_path / "run", "-q")
    refused(run(*words), "mine.py:network", "code that would run", "--allow-code")
    refused(run(*words, "--dry-run"), "--allow-code")
    assert not (tmp_path / "ran").exists()
    allowed = run(*words, "--allow-code")
    assert allowed.code == 0, allowed.err
    assert (tmp_path / "ran").exists()
    # The record of such a run names code too.
    refused(run("compress", tmp_path / "run" / "recipe.yaml", "--out", tmp_path / "b"), "--allow-code")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("method.ratios={'layer9.*': 0.5}", ("layer to cut", "layer9.*")),
        ("method.ratios={}", ("how much to cut",)),
        ("budget.macs=0.5", ("only one of them can decide",)),
        ("data.spec=digit", ("unknown data set 'digit'", "digits")),
        ("model.spec=digit-resnet", ("did you mean 'digits-resnet'?",)),
        ("data.fingerprint=abc", ("the recipe was made with other data", "abc", "take data.fingerprint out")),
        ("data.validation_share=0", ("the validation split", "is empty")),
        ("data.augmentation=flipp", ("unknown augmentation", "flip")),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    done: Done, tmp_path: Path, override: str, parts: tuple[str, ...]
) -> None:
    refused(run("compress", done.recipe, "--set", override, "--out", tmp_path / "new"), *parts)
    assert not (tmp_path / "new").exists()


def test_the_control_trains_the_same_network_from_random_weights(done: Done, tmp_path: Path) -> None:
    words = ("compress", done.recipe, "--set", "control=scratch", "--out", tmp_path / "control", "-q")
    ran = run(*words)
    assert ran.code == 0, ran.err
    record = read_record(tmp_path / "control" / "record.json")
    # Its parent is the same, and so is the cut; what follows is not fine-tuning.
    for name in ("dense.safetensors", "plan.json"):
        assert (tmp_path / "control" / name).read_bytes() == (done.folder / name).read_bytes()
    pruned, scratch = (inspect(folder / "model.safetensors") for folder in (done.folder, tmp_path / "control"))
    assert scratch.params == pruned.params
    assert [phase.phase for phase in record.phases] == ["dense", "scratch"]
    assert len(record.phases[-1].epochs) == 1  # as long as the method fine-tunes
    assert record.settings["control"] == "scratch"
    assert any("trained from scratch" in note for note in record.notes)
    refused(run("compress", done.recipe, "--set", "control=scratch", "--out", done.folder), "control = none", "scratch")


def test_prune_takes_the_layers_of_l1_and_the_control(tmp_path: Path) -> None:
    words = ("prune", "--model", "digits-resnet", "--data", "digits", *LAYERS, "--control", "scratch")
    ran = run(*words, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    settings = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert (settings["method"]["name"], settings["method"]["residual"]) == ("l1", "inner")
    assert settings["method"]["ratios"] == {"*.conv1": 0.5}
    assert settings["budget"] is None
    record = read_record(tmp_path / "run" / "record.json")
    assert [phase.phase for phase in record.phases] == ["dense", "scratch"]
    # What prune writes is a recipe too.
    assert "complete already" in run("compress", tmp_path / "run" / "recipe.yaml", "--out", tmp_path / "run").out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ("--method", "l1", "--criterion", "l2", "--macs", "0.5"),
            ("--criterion", "magnitude, global, blocks, not of l1"),
        ),
        (("--method", "l1", "--steps", "2", "--macs", "0.5"), ("--steps", "magnitude, global, autoslim, not of l1")),
        (("--ratio", "layer1.*=0.5"), ("--ratio", "l1, weights_and_connections, not of magnitude")),
        (("--residual", "shortcut", "--macs", "0.5"), ("--residual shortcut", "not for the method magnitude", "inner")),
        (("--method", "l1", "--ratio", "layer1.*"), ("--ratio 'layer1.*' is not LAYERS=SHARE",)),
        (("--method", "l1", "--ratio", "layer1.*=much"), ("is not LAYERS=SHARE",)),
        (("--method", "l1", "--ratio", "layer1.*=1.5"), ("the ratio for 'layer1.*' is 1.5",)),
        (("--method", "l1", "--ratio", "layer7.*=0.5"), ("layer to cut", "layer7.*")),
        (("--method", "l1", "--ratio", "layer1.*=0.5", "--macs", "0.5"), ("only one of them",)),
        (("--control", "scratch", "--macs", "0.5", "--epochs", "0"), ("the control trains as long", "--epochs")),
    ],
)
def test_prune_refuses_what_the_method_does_not_have(
    tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    network = ("prune", "--model", "digits-resnet", "--data", "digits", "--train-epochs", "1")
    refused(run(*network, *words, "--out", tmp_path / "run"), *parts)
    assert not (tmp_path / "run").exists()
