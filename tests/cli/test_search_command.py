"""The command ``search``: the whole front into a folder, networks picked from it, and what is refused."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cli_command import refused, run, start
from cost.synthetic_table import synthetic_table
from safetensors.torch import load_file

from secateur.cost import LatencyTable, write_latency_table
from secateur.graph import ChannelGraph, trace
from secateur.graph.units import UnitArray
from secateur.models import build_model
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


@pytest.fixture(scope="module")
def table(searched: Searched) -> tuple[Path, LatencyTable]:
    graph, _ = _whole(searched)
    made = synthetic_table(graph, ("0.weight", "3.weight", "8.weight"), input_shape=(1, 9, 9))
    path = searched.recipe.with_name("latency.json")
    write_latency_table(path, made)
    return path, made


def test_a_search_down_to_milliseconds(searched: Searched, table: tuple[Path, LatencyTable], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the delivered file is timed in ONNX Runtime")
    timed = (f"latency_table={table[0]}", "budget.macs=null", "budget.latency_ms=0.5x", "export=[onnx]")
    words = [searched.recipe, "--allow-code", *(word for one in timed for word in ("--set", one)), "-q"]
    ran = run("search", *words, "--out", tmp_path / "front")
    assert ran.code == 0, ran.err
    found = read_width_search(tmp_path / "front" / "front.json")
    whole = found.front[0].latency_ms
    assert whole == pytest.approx((12 * 1 + 18 * 12 + 3 * 18) / 1000)  # outputs · inputs / 1000 of each layer
    times = [point.latency_ms for point in found.front]
    assert found.chosen == next(number for number, time in enumerate(times) if time is not None and time <= whole / 2)
    assert all(one.latency_ms is not None for one in found.uniform)
    assert "latency ms" in (tmp_path / "front" / "front.md").read_text()
    # Another budget, by the search's own table; then the whole run in the folder of the search.
    pick = ("search", "--pick", "latency-ms=0.7x", tmp_path / "front", "--allow-code", "-q")
    assert run(*pick, "--out", tmp_path / "picked").code == 0
    assert run("compress", *words, "--out", tmp_path / "front").code == 0
    for folder, share in (("picked", 0.7), ("front", 0.5)):
        record = read_record(tmp_path / folder / "record.json")
        assert record.latency_budget is not None
        assert record.latency_budget.asked_ms == pytest.approx(share * whole)
        point = next(one for one in found.front if one.latency_ms is not None and one.latency_ms <= share * whole)
        assert record.latency_budget.predicted_ms == pytest.approx(point.latency_ms)
        assert record.latency_budget.measured_ms is not None
        assert record.measurements["tuned"].macs == point.macs
        assert "latency measured" in (tmp_path / folder / "report.md").read_text()


def test_milliseconds_are_picked_from_a_search_without_a_table(
    searched: Searched, table: tuple[Path, LatencyTable], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="the delivered file is timed in ONNX Runtime")
    pick = ("search", searched.folder, "--allow-code", "-q", "--latency-table", table[0], "--out", tmp_path / "out")
    refused(run(*pick, "--pick", "macs=0.5"), "asks for no milliseconds", "latency_ms=0.5x")
    refused(run(*pick, "--pick", "latency_ms=0.15"), "no network of the front", "--further")
    refused(run(*pick, "--pick", "latency_ms=0.0001ms"), "cannot be met")
    refused(run("search", searched.recipe, *pick[2:]), "--latency-table is for --pick")
    assert not (tmp_path / "out").exists()
    ran = run(*pick, "--pick", "latency_ms=0.6x,params=90%")
    assert ran.code == 0, ran.err
    assert "search, step" not in ran.err
    record = read_record(tmp_path / "out" / "record.json")
    assert record.latency_budget is not None
    assert record.latency_budget.table == table[1].digest
    assert record.latency_budget.predicted_ms <= 0.6 * table[1].latency_ms(*_whole(searched))
    assert record.latency_budget.measured_share is not None
    assert record.width_search is not None
    front = read_width_search(searched.folder / "front.json").front  # searched without milliseconds
    assert [point.widths for point in record.width_search.front] == [point.widths for point in front]
    assert {point.latency_ms for point in front} == {None}
    assert None not in {point.latency_ms for point in record.width_search.front}


def test_a_pick_below_the_front_goes_on_from_its_end(
    searched: Searched, table: tuple[Path, LatencyTable], tmp_path: Path
) -> None:
    before = read_width_search(searched.folder / "front.json").front
    out = tmp_path / "out"
    pick = ("search", searched.folder, "--allow-code", "-q", "--pick", "macs=0.15", "--out", out)
    refused(run(*pick), "--further")
    assert run(*pick, "--further").code == 0
    found = read_width_search(out / "front.json")
    assert found.front[: len(before)] == before
    assert found.chosen == len(found.front) - 1 >= len(before)
    record = read_record(out / "record.json")
    assert record.measurements["tuned"].macs == found.front[-1].macs <= 0.15 * before[0].macs
    assert [phase.phase for phase in record.phases] == ["supernet"]  # of the search, not trained again
    assert read_width_search(searched.folder / "front.json").front == before


def _whole(searched: Searched) -> tuple[ChannelGraph, UnitArray]:
    graph = trace(build_model(f"{searched.recipe.parent}/mine.py:network@1.5x").eval(), torch.zeros(2, 1, 9, 9))
    return graph, graph.sizes


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
    refused(run("search", "--pick", "macs=0.01", folder, *out), "no network of the front", "--further")
    refused(run("search", "--pick", "macs=0.01", "--further", folder, *out), "cannot be met", "still costs")
    refused(run("search", recipe, "--further", *out), "--further", "--pick")
    refused(run("search", "--pick", "mac=0.5", folder, *out), "did you mean 'macs'")
    refused(run("search", "--pick", "macs", folder, *out), "COST=AMOUNT")
    refused(run("search", "--pick", "latency_ms=1", folder, *out), "needs a latency table", "--latency-table")
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
