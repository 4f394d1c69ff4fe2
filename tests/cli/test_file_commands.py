import json
from pathlib import Path

import pytest
from cli_command import forked, refused, run
from conftest import Finished

from secateur.record import read_record

TOY = Path(__file__).with_name("cli_toy.py")
NETWORK = f"{TOY}:network"
DATA = f"{TOY}:data"


@pytest.mark.parametrize(("file", "key"), [("model.safetensors", "tuned"), ("model.onnx", "onnx")])
def test_evaluate_gives_the_record_s_numbers_in_a_fresh_process(finished: Finished, file: str, key: str) -> None:
    code = ("--model", NETWORK) if file.endswith("safetensors") else ()
    shown = forked("evaluate", finished.folder / file, "--data", DATA, "--json", "--threads", "1", *code)
    assert shown.code == 0, shown.err
    values = json.loads(shown.out)
    wanted = read_record(finished.folder / "record.json").measurements[key].test
    assert wanted is not None
    assert (values["top1"], values["samples"]) == (wanted.top1, wanted.samples)
    assert values["loss"] == pytest.approx(wanted.loss, rel=1e-6)


def test_a_share_of_the_training_data_counts_for_that_alone(finished: Finished) -> None:
    words = ("evaluate", finished.folder / "model.safetensors", "--data", DATA, "--model", NETWORK, "--json")
    tested = [run(*words, "--train-share", share) for share in ("1", "0.5")]
    assert tested[0].out == tested[1].out
    assert json.loads(tested[0].out)["samples"] == 60
    trained = run(*words, "--train-share", "0.5", "--split", "train")
    assert json.loads(trained.out)["samples"] == 72


def test_evaluate_refuses_data_of_another_shape(finished: Finished) -> None:
    for file in ("model.safetensors", "model.onnx"):
        ran = run(
            "evaluate", finished.folder / file, "--data", f"{TOY}:colour", "--normalize", "none", "--model", NETWORK
        )
        refused(ran, "(3, 9, 9)", "(1, 9, 9)")


def test_code_in_a_file_is_not_run_unasked(finished: Finished) -> None:
    refused(run("evaluate", finished.folder / "model.safetensors", "--data", DATA), "cli_toy.py:network", "not run")


def test_inspect(finished: Finished) -> None:
    shown = run("inspect", finished.folder / "model.safetensors")
    assert shown.code == 0, shown.err
    assert "units in 2 groups" in shown.out
    assert "1×9×9" in shown.out
    values = json.loads(run("inspect", finished.folder / "model.safetensors", "--json").out)
    assert values["plan"] == json.loads((finished.folder / "plan.json").read_text())
    assert "versions" in shown.out
    assert "{" not in shown.out
    assert "None" not in shown.out
    assert run("inspect", finished.folder / "model.safetensors", "--seed", "1", "--threads", "1").code == 0
    refused(run("inspect", finished.folder / "record.json"), "record.json", "the record of a run")
    refused(run("inspect", finished.folder / "plan.json"), "plan.json", "a plan")
    refused(run("inspect", finished.folder / "model.onnx"), "model.onnx", "an ONNX file")


def test_a_file_says_which_inputs_it_takes_and_how_they_are_normalised(
    finished: Finished, weights: Path, tmp_path: Path
) -> None:
    network = ("--model", NETWORK, "--weights", weights)
    for file in ("model.safetensors", "plan.json"):
        ran = run("verify", finished.folder / file, *network)
        assert ran.code == 0, ran.err
    ran = run("apply", finished.folder / "plan.json", *network, "--out", tmp_path / "small.safetensors")
    assert ran.code == 0, ran.err
    words = ("evaluate", finished.folder / "model.safetensors", "--model", NETWORK, "--data", DATA, "--normalize")
    assert run(*words, "none").code == 0
    refused(run(*words, "digits"), "mean=0.0;std=1.0", "0.3049", "leave --normalize out")


def test_a_file_built_by_code_names_the_option(finished: Finished) -> None:
    file = finished.folder / "model.safetensors"
    for ran in (run("export", file, "--out", file.with_name("other.onnx")), run("evaluate", file, "--data", DATA)):
        refused(ran, "cli_toy.py:network", "not run", "--model")


def test_plan_writes_over_nothing_and_tells_all_in_json(weights: Path, tmp_path: Path) -> None:
    words = ("plan", "--model", NETWORK, "--input", "1x9x9", "--macs", "0.5")
    target = tmp_path / "plan.json"
    values = json.loads(run(*words, "--out", target, "--json").out)
    assert values["costs"]["macs"]["after"] <= 0.5 * values["costs"]["macs"]["before"]
    assert values["random_weights"]
    assert "random weights" in values["notes"][-1]
    assert json.loads(target.read_text())["kept"] == values["kept"]
    assert not json.loads(run(*words, "--weights", weights, "--json").out)["random_weights"]
    refused(run(*words, "--out", target), "is there already", "--force")
    assert run(*words, "--out", target, "--force").code == 0
    refused(run(*words, "--out", tmp_path), "is a folder")
    refused(run(*words, "--out", target / "x.json"), "plan.json is a file")


def test_export_writes_what_prune_wrote(finished: Finished, tmp_path: Path) -> None:
    target = tmp_path / "again.onnx"
    words = ("export", finished.folder / "model.safetensors", "--model", NETWORK, "--out", target)
    shown = run(*words)
    assert shown.code == 0, shown.err
    assert target.read_bytes() == (finished.folder / "model.onnx").read_bytes()
    refused(run(*words), "is there already", "--force")
    assert run(*words, "--force", "--json").code == 0


def test_verify_proves_the_structure_of_a_tuned_file(finished: Finished, weights: Path) -> None:
    network = ("--model", NETWORK, "--weights", weights, "--input", "1x9x9")
    tuned = run("verify", finished.folder / "model.safetensors", *network)
    assert tuned.code == 0, tuned.err
    assert "the cut is exact" in tuned.out
    assert "trained after the cut" in tuned.out
    plan = run("verify", finished.folder / "plan.json", *network, "--json")
    assert json.loads(plan.out)["verdict"] == "exact"


def test_plan_apply_verify_is_the_main_job_in_steps(finished: Finished, weights: Path, tmp_path: Path) -> None:
    network = ("--model", NETWORK, "--weights", weights, "--data", DATA)
    planned = run("plan", *network, "--macs", "0.5", "--out", tmp_path / "plan.json")
    assert planned.code == 0, planned.err
    assert "Costs per sample" in planned.out
    assert (tmp_path / "plan.json").read_bytes() == (finished.folder / "plan.json").read_bytes()
    applied = run("apply", tmp_path / "plan.json", *network, "--out", tmp_path / "small.safetensors")
    assert applied.code == 0, applied.err
    assert "the cut is exact" in applied.out
    checked = run("verify", tmp_path / "small.safetensors", *network)
    assert checked.code == 0, checked.err
    assert "the file's weights and redrawn ones" in checked.out
    cut = read_record(finished.folder / "record.json").measurements["cut"].test
    shown = run("evaluate", tmp_path / "small.safetensors", "--data", DATA, "--model", NETWORK, "--json")
    assert cut is not None
    assert json.loads(shown.out)["top1"] == cut.top1


def test_a_plan_for_another_model_is_refused(finished: Finished) -> None:
    ran = run("verify", finished.folder / "plan.json", "--model", "digits-resnet")
    refused(ran, "Sequential")
    refused(run("verify", finished.folder / "absent.json", "--model", "digits-resnet"), "absent.json")


def test_profile() -> None:
    shown = run("profile", "--model", "resnet20", "--input", "3x32x32")
    assert shown.code == 0, shown.err
    assert "40,551,040 per sample" in shown.out
    assert json.loads(run("profile", "--model", "resnet20", "--json").out)["params"] == 269722
    refused(run("groups", "--model", NETWORK), "--input such as 3x224x224")
