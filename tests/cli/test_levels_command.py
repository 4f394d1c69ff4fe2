"""Whole blocks and approximate groups from the command line: plan, apply, verify, prune, compress."""

import json
from pathlib import Path

import pytest
from cli_command import refused, run
from cli_toy import residual_network

from secateur.record import read_record

TOY = Path(__file__).with_name("cli_toy.py")
RESIDUAL = ("--model", f"{TOY}:residual_network", "--input", "1x9x9")
NORMED = ("--model", f"{TOY}:normed_network", "--input", "1x9x9")
TRAINED = (
    "--data",
    f"{TOY}:data",
    "--train-epochs",
    "1",
    "--epochs",
    "1",
    "--batch-size",
    "32",
    "--threads",
    "1",
    "-q",
)


def test_blocks_are_planned_applied_and_verified(tmp_path: Path) -> None:
    plan, small = tmp_path / "plan.json", tmp_path / "small.safetensors"
    for level, kept in (("block", False), ("both", True)):
        shown = run("plan", *RESIDUAL, "--macs", "0.6", "--level", level, "--out", plan, "--force")
        assert shown.code == 0, shown.err
        assert "dropped whole: " in shown.out
        assert "goes with a dropped block" in shown.out
        content = json.loads(plan.read_text())
        assert content["drops"]
        assert bool(content["kept"]) is kept
        ran = run("apply", plan, *RESIDUAL, "--out", small, "--force")
        assert ran.code == 0, ran.err
        assert "the cut is exact" in ran.out
        assert "dropped whole: " in run("inspect", small).out
        checked = run("verify", small, *RESIDUAL, "--json")
        assert checked.code == 0, checked.err
        assert json.loads(checked.out)["verdict"] == "exact"


def test_blocks_are_dropped_by_name(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    shown = run("plan", *RESIDUAL, "--drop-block", "2", "--drop-block", "1", "--out", plan)
    assert shown.code == 0, shown.err
    assert "2 dropped whole: 1, 2" in shown.out
    assert [drop["block"] for drop in json.loads(plan.read_text())["drops"]] == ["1", "2"]
    refused(run("plan", *RESIDUAL, "--drop-block", "7"), "unknown block '7'")
    refused(run("plan", *RESIDUAL, "--drop-block", "1", "--macs", "0.5"), "--drop-block", "--macs", "leave --macs out")
    refused(run("plan", *RESIDUAL, "--drop-block", "1", "--level", "both"), "--drop-block", "--level")


def test_approximate_groups_are_planned_applied_and_verified(tmp_path: Path) -> None:
    plan, small = tmp_path / "plan.json", tmp_path / "small.safetensors"
    refused(run("plan", *NORMED, "--macs", "0.3", "--residual", "inner"), "cannot reach macs", "--allow-approximate")
    shown = run("plan", *NORMED, "--macs", "0.5", "--residual", "inner", "--allow-approximate", "--out", plan)
    assert shown.code == 0, shown.err
    assert "cut approximately" in shown.out
    ran = run("apply", plan, *NORMED, "--out", small)
    assert ran.code == 0, ran.err
    assert "the cut is approximate: drift" in ran.out
    for file in (plan, small):
        checked = run("verify", file, *NORMED, "--json")
        assert checked.code == 0, checked.err
        content = json.loads(checked.out)
        assert (content["verdict"], content["passed"]) == ("approximate", True)
        assert content["drift"] > 0
        assert content["error"] < 1e-6


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--level", "block", "--round-to", "8"), ("--round-to", "--level block", "--level both")),
        (("--level", "both", "--steps", "3"), ("steps is 3 and level is both", "--steps 1")),
        (("--method", "l1", "--level", "both", "--strategy", "layer-by-layer"), ("level is both", "strategy once")),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_read(
    words: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path
) -> None:
    refused(run("plan", "--model", "nothing", "--macs", "0.5", *words), *parts)
    out = tmp_path / "run"
    refused(run("prune", "--model", "nothing", *TRAINED, "--macs", "0.5", *words, "--out", out), *parts)
    assert not out.exists()


def test_a_run_drops_blocks_and_goes_on_where_it_was(tmp_path: Path) -> None:
    words = ("prune", *RESIDUAL[:2], *TRAINED, "--macs", "0.6", "--level", "both", "--out", tmp_path)
    ran = run(*words)
    assert ran.code == 0, ran.err
    record = read_record(tmp_path / "record.json")
    assert any("1 of 3 residual blocks is dropped whole" in note for note in record.notes)
    assert record.proof is not None
    assert record.proof.verdict == "exact"
    assert record.measurements["tuned"].macs <= 0.6 * record.measurements["dense"].macs  # type: ignore[operator]
    assert record.agreement is not None  # ONNX Runtime agrees with the shortened network
    assert "dropped whole" in (tmp_path / "report.md").read_text()
    before = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "record.json").unlink()  # as if it was killed just before the end
    assert run(*words).code == 0
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_an_accuracy_may_decide_how_many_blocks_go(tmp_path: Path) -> None:
    words = ("--max-drop", "100", "--recovery-epochs", "0", "--level", "block")
    ran = run("prune", *RESIDUAL[:2], *TRAINED, *words, "--out", tmp_path)
    assert ran.code == 0, ran.err
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert len(plan["drops"]) == sum(isinstance(layer, type(residual_network()[1])) for layer in residual_network())


def test_a_recipe_allows_approximate_groups(tmp_path: Path) -> None:
    recipe = tmp_path / "normed.yaml"
    recipe.write_text(
        f"model: {{spec: '{TOY}:normed_network'}}\ndata: {{spec: '{TOY}:data'}}\ntrain_epochs: 1\n"
        "train: {batch_size: 32}\nbudget: {macs: 0.5}\nmachine: {threads: 1}\n"
        "method: {name: l1, residual: inner, finetune_epochs: 1, finetune: {batch_size: 32}}\n"
    )
    words = ("compress", recipe, "--allow-code", "-q", "--out", tmp_path / "run")
    refused(run(*words), "--allow-approximate")
    ran = run(*words, "--allow-approximate")
    assert ran.code == 0, ran.err
    record = read_record(tmp_path / "run" / "record.json")
    assert record.settings["method"]["allow_approximate"] is True  # type: ignore[index,call-overload]
    assert record.proof is not None
    assert record.proof.verdict == "approximate"
    assert record.proof.drift is not None
    assert record.proof.drift > 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert "approximate: drift" in report
    assert "normalised together" in report
