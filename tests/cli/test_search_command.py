"""The command ``search``: the whole front into a folder, networks picked from it, and what is refused."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cli_command import refused, run, start
from safetensors.torch import load_file

from secateur.record import read_record, read_width_search

MINE = '''"""A network that takes a width."""

from torch import nn


def network(num_classes=3, width=1.0):
    first, second = round(8 * width), round(12 * width)
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(second), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, num_classes),
    )
'''

RECIPE = """
secateur: 1
title: tiny search
model: {{spec: "{folder}/mine.py:network@1.5x"}}
data: {{spec: "{toy}:data", validation_share: 0.3}}
train: {{batch_size: 32}}
budget: {{macs: 0.3}}
method:
  name: autoslim
  supernet_epochs: 2
  supernet: {{batch_size: 32, learning_rate: 0.05, evaluate_every: 0}}
  steps: 4
  multiple: 1
  lower: 0.25
  finetune_epochs: 1
  finetune: {{batch_size: 32, learning_rate: 0.05}}
export: []
"""


@dataclass(frozen=True)
class Searched:
    recipe: Path
    folder: Path
    told: str


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("search")
    (folder / "mine.py").write_text(MINE)
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE.format(folder=folder, toy=Path(__file__).with_name("cli_toy.py")))
    ran = run("search", recipe, "--allow-code", "-q", "--out", folder / "front")
    assert ran.code == 0, ran.err
    return Searched(recipe, folder / "front", ran.out)


def test_the_whole_front_is_written(searched: Searched) -> None:
    found = read_width_search(searched.folder / "front.json")
    assert found.sizes == {"0": 12, "3": 18}
    assert found.default == {"0": 8, "3": 12}
    macs = [point.macs for point in found.front]
    assert macs == sorted(macs, reverse=True)
    assert found.front[0].widths == found.sizes
    chosen = found.front[found.chosen]
    assert chosen.macs <= 0.3 * macs[0] < found.front[found.chosen - 1].macs
    beside = found.uniform_beside(found.chosen)
    assert beside is not None
    assert beside.macs <= chosen.macs
    assert len({one.beside for one in found.uniform}) == len(found.uniform) > 1
    page = (searched.folder / "front.md").read_text()
    assert page.count("(chosen)") == 1
    for text in (page, searched.told):
        rows = [line for line in text.splitlines() if f"{100 * chosen.accuracy:.2f} %" in line and "chosen" in line]
        assert rows, text
        assert f"{beside.multiplier:.3f}" in text
    pytest.importorskip("matplotlib", reason="draws the figures")
    for name in ("front.svg", "widths.svg", "front.png", "widths.png"):
        assert (searched.folder / name).stat().st_size > 2000


def test_a_second_run_computes_nothing(searched: Searched) -> None:
    before = (searched.folder / "front.json").stat().st_mtime_ns
    again = run("search", searched.recipe, "--allow-code", "-q", "--out", searched.folder)
    assert again.code == 0
    assert "complete already" in again.out
    assert (searched.folder / "front.json").stat().st_mtime_ns == before
    as_json = run("search", searched.recipe, "--allow-code", "-q", "--json", "--out", searched.folder)
    assert json.loads(as_json.out) == json.loads((searched.folder / "front.json").read_text())


def test_a_network_is_picked_with_and_without_training(searched: Searched, tmp_path: Path) -> None:
    found = read_width_search(searched.folder / "front.json")
    pick = ("search", "--pick", "macs=60%", searched.folder, "--allow-code", "-q")
    assert run(*pick, "--out", tmp_path / "cut").code == 0
    assert run(*pick, "--train", "--out", tmp_path / "trained").code == 0
    point = next(one for one in found.front if one.macs <= 0.6 * found.front[0].macs)
    for name, phases in (("cut", ["supernet"]), ("trained", ["supernet", "finetune", "uniform"])):
        record = read_record(tmp_path / name / "record.json")
        assert record.measurements["tuned"].macs == point.macs
        assert record.proof is not None
        assert record.proof.verdict == "exact"
        assert [phase.phase for phase in record.phases] == phases
        assert (
            record.phases[0] == read_record(tmp_path / "cut" / "record.json").phases[0]
        )  # trained once, by the search
        assert record.width_search is not None
        uniform = record.width_search.uniform_beside(record.width_search.chosen)
        assert uniform is not None
        assert (uniform.trained is not None) == (name == "trained")
        assert "## Search for widths" in (tmp_path / name / "report.md").read_text()
        assert run("verify", tmp_path / name / "plan.json", "--model", f"{searched.recipe.parent}/mine.py:network@1.5x",
                   "--input", "1x9x9").code == 0  # fmt: skip
    cut, trained = (load_file(tmp_path / name / "model.safetensors") for name in ("cut", "trained"))
    assert {name: value.shape for name, value in cut.items()} == {name: v.shape for name, v in trained.items()}
    assert not torch.equal(cut["0.weight"], trained["0.weight"])


def test_the_run_goes_on_in_the_folder_of_its_search(searched: Searched, tmp_path: Path) -> None:
    folder = tmp_path / "front"
    recipe = searched.recipe
    words = (recipe, "--allow-code", "-q", "--set", "method.finetune_epochs=0", "--out", folder)
    assert run("search", *words).code == 0
    front = (folder / "front.json").read_text()
    assert run("compress", *words).code == 0
    assert read_record(folder / "record.json").width_search == read_width_search(folder / "front.json")
    assert (folder / "front.json").read_text() == front


def test_what_cannot_be_searched_or_picked_is_refused(searched: Searched, tmp_path: Path) -> None:
    folder, recipe = searched.folder, searched.recipe
    out = ("--out", tmp_path / "out", "--allow-code")
    refused(run("search", "l1-resnet56-a", *out), "l1", "autoslim")
    refused(run("search", recipe, "--train", *out), "--train", "--pick")
    refused(run("search", "--pick", "macs=0.01", folder, *out), "no network of the front", "search again")
    refused(run("search", "--pick", "mac=0.5", folder, *out), "did you mean 'macs'")
    refused(run("search", "--pick", "macs", folder, *out), "COST=AMOUNT")
    refused(run("search", "--pick", "latency_ms=1", folder, *out), "latency_ms")
    refused(run("search", "--pick", "macs=0.5,macs=0.4", folder, *out), "twice")
    refused(run("search", "--pick", "macs=0.5", tmp_path, *out), "holds no search")
    refused(run("search", "--pick", "macs=0.5", folder, "--set", "seed=1", *out), "--set")
    refused(run("search", "--pick", "macs=0.5", folder, "--out", folder, "--allow-code"), "one of its own")
    assert not (tmp_path / "out").exists()
    refused(run("search", recipe, "--allow-code", "--set", "seed=5", "--out", folder), "seed")


def test_a_search_that_is_stopped_goes_on_to_the_same_front(searched: Searched, tmp_path: Path) -> None:
    words = ("search", searched.recipe, "--allow-code", "--out", tmp_path / "front")
    process = start(*words)
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if "search, step 2" in line:
            process.send_signal(signal.SIGINT)
            break
    _, rest = process.communicate(timeout=300)
    assert process.returncode == 130, seen + rest
    assert "continue with: " in rest
    assert not (tmp_path / "front" / "front.json").exists()
    refused(run("search", "--pick", "macs=0.5", tmp_path / "front", "--allow-code"), "not finished")
    again = run(*words)
    assert again.code == 0, again.err
    assert "search, step 1:" not in again.err
    alone, other = (folder / "front.json" for folder in (searched.folder, tmp_path / "front"))
    assert alone.read_text() == other.read_text()
