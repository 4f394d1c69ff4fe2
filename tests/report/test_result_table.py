import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from secateur.cost import Budget
from secateur.graph import Plan, trace
from secateur.methods import Magnitude
from secateur.models import build_model
from secateur.record import Agreement, EpochMeasurement, Evaluation, Latency, Measurement, Proof, RunRecord, TrainResult
from secateur.record import environment as environment_now
from secateur.report import (
    Grid,
    cost_grid,
    groups_grid,
    plan_facts,
    plan_grid,
    print_grid,
    proof_text,
    report_markdown,
    result_facts,
    result_grid,
    write_report,
)
from secateur.report.values import count, latency, of_dense, share, size


def evaluation(top1: float) -> Evaluation:
    return Evaluation(loss=0.25, top1=top1, top5=1.0, samples=1000)


def record() -> RunRecord:
    dense = Measurement(
        test=evaluation(0.9371),
        macs=125_747_840,
        params=855_770,
        size_bytes=3_488_000,
        activation_bytes=196_608,
        latency=Latency(median_ms=12.6, spread_ms=1.2, repeats=50),
    )
    tuned = replace(dense, test=evaluation(0.9), macs=62_873_920, size_bytes=1_995_000, latency=None)
    epoch = EpochMeasurement(
        epoch=0, train_loss=0.5, learning_rate=0.01, samples=10, seconds=1, images_per_s=10, validation=evaluation(0.8)
    )
    return RunRecord(
        run_id="1",
        command=("secateur", "prune", "--lock", "layer1.*"),
        environment=environment_now(),
        settings={"model": {"spec": "resnet56-b"}, "data": {"spec": "cifar10"}},
        phases=(TrainResult(phase="finetune", epochs=(epoch,)),),
        measurements={"dense": dense, "tuned": tuned},
        proof=Proof(verdict="exact", relative_error=2.1e-16, float32_error=1.8e-7),
        agreement=Agreement(samples=1000, equal=999, max_difference=7.6e-6, scale=12.0),
        prunable_share_of_macs=0.998,
        locked={f"layer{number}": "a shape | in the code" for number in range(6)} | {"linear": "output of the model"},
        files={"model": "model.safetensors"},
        notes=("a note",),
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    model = build_model("digits-resnet")
    graph = trace(model, torch.zeros(2, 1, 8, 8))
    return Magnitude().decide(graph, model, Budget(macs=0.5))


def test_values_by_hand() -> None:
    assert [count(value) for value in (None, 7, 1500, 125_747_840, 3_000_000_000)] == ["–", "7", "1.5k", "125.7M", "3G"]
    assert [size(value) for value in (None, 999, 3_488_000)] == ["–", "999 B", "3.488 MB"]
    assert share(0.93714) == "93.71 %"
    assert latency(Latency(median_ms=12.64, spread_ms=1.234, repeats=5)) == "12.6 ms ± 1.2"


def test_a_share_never_promises_more_than_is_true() -> None:
    assert of_dense(50_001, 100_000) == " (50.1 %)"
    assert of_dense(50_000, 100_000) == " (50.0 %)"
    assert of_dense(100, 100) == of_dense(None, 100) == of_dense(5, None) == ""


def test_the_table_has_a_row_per_model_in_order() -> None:
    grid = result_grid(record())
    assert [row[0] for row in grid.rows] == ["dense", "fine-tuned"]
    assert grid.rows[1] == (
        "fine-tuned", "90.00 %", "0.2500", "62.87M (50.0 %)", "855.8k", "1.995 MB (57.2 %)", "196.6 kB", "–"
    )  # fmt: skip
    assert "1,000 test samples" in grid.title


def test_the_facts_group_what_stayed_locked_by_reason() -> None:
    facts = result_facts(record(), "runs/r56")
    assert [text for label, text in facts if label == "locked"] == [
        "layer0, layer1, layer2, layer3 and 2 more: a shape | in the code",
        "linear: output of the model",
    ]
    told = dict(facts)
    assert told["ONNX and torch"].startswith("the same class on 999 of 1,000 test samples")
    assert told["proof"].startswith("exact: max|masked − cut| / max|original − masked| = 2.1e-16")
    assert told["can be cut"] == "at most 99.8 % of the MACs of this model"
    assert told["model file"] == "runs/r56/model.safetensors"
    assert told["note"] == "a note"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_plain_columns_and_a_terminal_a_drawn_table() -> None:
    grid = Grid("Title", ("name", "n"), (("a [b]", "1"), ("c", "22")))
    pipe, terminal = io.StringIO(), Terminal()
    print_grid(grid, pipe)
    assert pipe.getvalue() == "Title\n\nname    n\na [b]   1\nc      22\n"
    print_grid(grid, terminal)
    assert "a [b]" in terminal.getvalue()
    assert "─" in terminal.getvalue()


def test_markdown_escapes_what_would_end_a_cell() -> None:
    assert Grid("", ("a", "b"), (("x|y", "1\n2"),)).to_markdown() == "| a | b |\n| --- | ---: |\n| x\\|y | 1 2 |"


def test_the_page_holds_table_command_and_training(plan: Plan, tmp_path) -> None:
    written = write_report(tmp_path, record(), plan)
    page = (tmp_path / "report.md").read_text()
    assert page == report_markdown(record(), plan, figure="report.png")
    assert "secateur prune --lock 'layer1.*'" in page
    for part in ("resnet56-b on cifar10", "62,873,920", "| fine-tuned |", "## Training: finetune", "80.00 %"):
        assert part in page
    assert written == ("report.md", "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_does_without_matplotlib(plan: Plan, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert write_report(tmp_path, record(), plan) == ("report.md",)
    assert "report.png" not in (tmp_path / "report.md").read_text()


def test_groups_plan_and_costs() -> None:
    model = build_model("digits-resnet")
    graph = trace(model, torch.zeros(2, 1, 8, 8))
    plan = Magnitude().decide(graph, model, Budget(macs=0.5))
    grid = groups_grid(graph)
    assert len(grid.rows) == len(graph.groups)
    assert ("linear", "no", "", "10", "2", "0.0 %") in grid.rows
    kept = {row[0]: int(row[3]) for row in plan_grid(graph, plan).rows}
    assert all(kept[name] == len(units) for name, units in plan.kept.items())
    assert plan_facts(plan) == ()
    macs = cost_grid(graph, plan).rows[0]
    assert macs[:2] == ("MACs", "1.648M")
    assert macs[2].startswith(count(graph.macs(plan)))


def test_groups_of_dropped_blocks_keep_nothing_and_the_blocks_are_named(tmp_path: Path) -> None:
    model = build_model("digits-resnet")
    graph = trace(model, torch.zeros(2, 1, 8, 8))
    block = next(block.name for block in graph.blocks if block.locked is None)
    plan = graph.plan({}, blocks=[block])
    rows = {row[0]: row for row in plan_grid(graph, plan).rows}
    assert plan.gone
    for name in plan.gone:
        assert rows[name][1:] == ("goes with a dropped block", str(graph.group(name).size), "0", "0.0 %")
    assert all(row[2] == row[3] for name, row in rows.items() if name not in plan.gone)
    assert plan_facts(plan) == (("blocks", f"1 dropped whole: {block}"),)
    assert cost_grid(graph, plan).rows[0][2].startswith(count(graph.macs(plan)))
    assert write_report(tmp_path, record(), plan)[0] == "report.md"  # the figure has no groups to draw


def test_the_proof_of_an_approximate_cut_tells_its_drift() -> None:
    exact = Proof(verdict="exact", relative_error=2e-15, float32_error=1e-7)
    assert "drift" not in proof_text(exact)
    text = proof_text(replace(exact, verdict="approximate", drift=0.031, drift_of_output=0.0012))
    assert text.startswith("approximate: drift 3.1e-02 of the effect and 1.2e-03 of the output")
