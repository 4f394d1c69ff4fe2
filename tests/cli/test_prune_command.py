import json
import shutil
from pathlib import Path

import yaml
from cli_command import refused, run
from conftest import Finished

from secateur.record import read_log, read_record

TOY = Path(__file__).with_name("cli_toy.py")


def test_it_writes_the_whole_run_directory(finished: Finished) -> None:
    assert finished.ran.code == 0, finished.ran.err
    written = {path.name for path in finished.folder.iterdir()}
    assert written >= {"recipe.yaml", "record.json", "log.jsonl", "checkpoint", "plan.json"}
    assert written >= {"model.safetensors", "model.onnx", "report.md", "report.png"}
    record = read_record(finished.folder / "record.json")
    assert all((finished.folder / name).is_file() for name in record.files.values())
    assert [event["event"] for event in read_log(finished.folder / "log.jsonl")][-1] == "complete"
    assert yaml.safe_load((finished.folder / "recipe.yaml").read_text())["budget"]["macs"] == 0.5


def test_the_record_says_what_the_issue_asks_for(finished: Finished) -> None:
    record = read_record(finished.folder / "record.json")
    assert set(record.measurements) == {"dense", "cut", "tuned", "dense_onnx", "onnx"}
    dense, tuned, onnx = (record.measurements[key] for key in ("dense", "tuned", "onnx"))
    assert dense.macs
    assert tuned.macs
    assert tuned.macs <= dense.macs * 0.5
    assert tuned.size_bytes == (finished.folder / "model.safetensors").stat().st_size
    assert onnx.size_bytes == (finished.folder / "model.onnx").stat().st_size
    assert record.proof is not None
    assert record.proof.verdict == "exact"
    assert record.proof.relative_error <= 1e-6
    assert record.agreement is not None
    assert record.agreement.equal == record.agreement.samples == 60
    assert onnx.latency is not None
    assert onnx.latency.runtime == "onnxruntime"
    assert onnx.latency.threads == 1
    assert record.prunable_share_of_macs is not None
    assert 0.5 < record.prunable_share_of_macs < 1
    assert "output of the model" in record.locked.values()
    assert record.command[:2] == ("secateur", "prune")


def test_the_table_shows_before_and_after(finished: Finished) -> None:
    lines = finished.ran.out.splitlines()
    for title in ("dense", "cut", "fine-tuned", "dense, ONNX", "fine-tuned, ONNX"):
        assert any(line.startswith(f"{title} ") for line in lines), title
    for part in ("top-1", "peak activations", "exact: max|masked", "can be cut", "locked", "model.onnx", "± "):
        assert part in finished.ran.out
    assert finished.ran.err == ""


def test_a_finished_run_says_so_and_computes_nothing(finished: Finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    again = run(*finished.words)
    assert again.code == 0
    assert "this run was complete already" in again.out
    assert finished.ran.out in again.out
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before


def test_json_prints_the_record(finished: Finished) -> None:
    shown = run(*finished.words, "--json")
    assert json.loads(shown.out) == json.loads((finished.folder / "record.json").read_text())


def test_the_same_weights_under_another_name_are_the_same_run(
    finished: Finished, weights: Path, tmp_path: Path
) -> None:
    moved = shutil.copy(weights, tmp_path / "moved.safetensors")
    words = [str(moved) if word == str(weights) else word for word in finished.words]
    assert "complete already" in run(*words).out


def test_another_run_in_the_folder_is_refused_by_its_first_difference(finished: Finished) -> None:
    refused(run(*finished.words, "--macs", "0.6"), str(finished.folder), "budget.macs = 0.5", "0.6", "--force")
    refused(run(*finished.words, "--lr", "0.02"), "method.finetune.learning_rate = 0.01", "0.02")
    refused(run(*finished.words, "--lock", "0"), "method.lock = none", "has 0")


def test_force_starts_over_and_spares_other_files(finished: Finished, tmp_path: Path) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    (folder / "mine.txt").write_text("stays")
    words = [str(folder) if word == str(finished.folder) else word for word in finished.words]
    over = run(*words, "--epochs", "0", "--force")
    assert over.code == 0, over.err
    assert (folder / "mine.txt").read_text() == "stays"
    record = read_record(folder / "record.json")
    assert record.phases == ()
    assert "--force" not in record.command


def test_wrong_input_with_force_leaves_the_old_run(finished: Finished, tmp_path: Path) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    words = [str(folder) if word == str(finished.folder) else word for word in finished.words]
    refused(run(*words, "--macs", "0.001", "--force"), "cannot reach macs")
    assert (folder / "model.safetensors").is_file()


def test_a_folder_of_somebody_else_is_refused(job: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for extra in ((), ("--force",)):
        refused(run(*job, "--out", tmp_path, *extra), "is not empty", "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    refused(run(*job, "--out", tmp_path / "thesis.tex"), "is a file")


def test_a_model_can_be_trained_first_and_cut_in_steps(tmp_path: Path) -> None:
    words = ("prune", "--model", f"{TOY}:network", "--data", f"{TOY}:data", "--params", "60%", "--train-epochs", "1")
    ran = run(*words, "--steps", "2", "--epochs", "1", "--distill", "--seed", "3", "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    record = read_record(tmp_path / "run" / "record.json")
    assert [phase.phase for phase in record.phases] == ["dense", "recover-1", "finetune"]
    assert record.phases[-1].settings["distillation"] == {"temperature": 4.0, "weight": 0.9}
    dense, tuned = record.measurements["dense"], record.measurements["tuned"]
    assert dense.params
    assert tuned.params
    assert tuned.params <= 0.6 * dense.params
    assert "epoch 1/1" in ran.err  # progress goes to standard error
    # What the method saw after the last cut, and not the dense weights cut, which nobody would use.
    cut = record.measurements["cut"]
    assert cut.test is None
    assert cut.validation is not None
    assert any("weights changed on the way to the last cut" in note for note in record.notes)
    assert record.files["dense"] == "dense.safetensors"
    network = ("--model", f"{TOY}:network", "--weights", tmp_path / "run" / "dense.safetensors")
    checked = run("verify", tmp_path / "run" / "model.safetensors", *network)
    assert checked.code == 0, checked.err
    (tmp_path / "run" / "record.json").unlink()
    again = run(*words, "--steps", "2", "--epochs", "1", "--distill", "--seed", "3", "--out", tmp_path / "run")
    assert again.code == 0, again.err
    assert "training the dense model" not in again.err
    assert "training the dense model" in ran.err


def test_changed_code_is_another_run(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(TOY.read_text())
    words = ("prune", "--model", f"{code}:network", "--data", f"{TOY}:data", "--macs", "0.5", "--train-epochs", "1")
    quick = ("--epochs", "0", "-q", "--out", tmp_path / "run")
    assert run(*words, *quick).code == 0
    code.write_text(TOY.read_text() + "# changed\n")
    refused(run(*words, *quick), "the code of the model changed", "then", "now", "--force")
