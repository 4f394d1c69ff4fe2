"""``secateur quantize``: what it writes and prints, that it repeats nothing, and what it refuses before it works."""

import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cli_command import Ran, refused, run, start
from conftest import Finished
from safetensors.torch import load_file, save_file

from secateur.data import load_data
from secateur.export import OnnxModel
from secateur.measure import evaluate_artifact
from secateur.models import build_model
from secateur.recipe.quantizing.settings import COMPARED
from secateur.record import Int8, RunRecord, read_record

pytest.importorskip("onnxruntime", reason="the INT8 file is an ONNX file")

TOY = Path(__file__).with_name("cli_toy.py")
FILES = {"model.int8.onnx", "simulation.safetensors", "report.md", "record.json"}


@dataclass(frozen=True)
class Made:
    folder: Path
    words: tuple[str, ...]
    ran: Ran

    @property
    def record(self) -> RunRecord:
        return read_record(self.folder / "record.json")

    @property
    def int8(self) -> Int8:
        assert self.record.int8 is not None
        return self.record.int8


@pytest.fixture(scope="module")
def quantizing(weights: Path) -> tuple[str, ...]:
    network = ("quantize", f"{TOY}:network", "--weights", str(weights))
    return (*network, "--data", f"{TOY}:data", "--validation-share", "0.3", "--threads", "1", "--batch", "4")


@pytest.fixture(scope="module")
def made(quantizing: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("int8") / "toy"
    words = (*quantizing, "--compare", "--images", "64", "--out", str(folder))
    return Made(folder, words, run(*words))


def saved(model: str, folder: Path) -> tuple[str, Path]:
    """Write random weights of one of the toy networks; return its name and the file."""
    torch.manual_seed(0)
    path = folder / f"{model}.safetensors"
    save_file(build_model(f"{TOY}:{model}").state_dict(), path)
    return f"{TOY}:{model}", path


def test_the_folder_holds_the_file_the_simulation_and_the_reports(made: Made) -> None:
    assert made.ran.code == 0, made.ran.err
    assert {path.name for path in made.folder.iterdir()} == FILES
    assert [path.name for path in made.folder.parent.iterdir()] == ["toy"]  # nothing is left beside it
    record, found = made.record, made.int8
    assert set(record.measurements) == {"dense", "dense_onnx", "simulated", "int8"}
    assert record.command[:2] == ("secateur", "quantize")
    assert record.settings["quantize"]["compare"] is True  # type: ignore[index, call-overload]
    assert found.target == "cpu"
    assert found.operators == {"Conv": 2, "GlobalAveragePool": 1, "Gemm": 1}
    assert found.in_integers == found.operators
    assert found.in_float == ()
    assert found.agreement.equal >= 0.99 * found.agreement.samples
    assert found.sqnr_db > 30


def test_the_accuracy_is_that_of_the_file_and_latencies_and_bytes_are_measured(made: Made) -> None:
    measured = made.record.measurements
    data = load_data(f"{TOY}:data", validation_share=0.3)
    again = evaluate_artifact(made.folder / "model.int8.onnx", data)
    assert measured["int8"].test == again
    assert measured["int8"].size_bytes == (made.folder / "model.int8.onnx").stat().st_size
    assert measured["dense"].test is not None
    assert measured["dense"].test.top1 == pytest.approx(again.top1, abs=0.05)
    for key in ("dense", "dense_onnx", "int8"):
        one, batch = measured[key].latency, measured[key].batch_latency
        assert one is not None
        assert batch is not None
        assert (one.batch_size, batch.batch_size) == (1, 4)
    assert measured["simulated"].latency is None


def test_calibration_images_are_recorded_and_come_from_the_training_split_alone(made: Made) -> None:
    found = made.int8
    assert len(found.indices) == len(set(found.indices)) == 64
    assert list(found.indices) == sorted(found.indices)
    assert max(found.indices) < 112  # 160 less the validation split


def test_the_comparison_tries_all_and_picks_the_nearest_to_fp32(made: Made) -> None:
    found = made.int8
    assert tuple(trial.calibrator for trial in found.trials) == COMPARED
    assert found.picked
    best = min(found.trials, key=lambda trial: trial.divergence_nats)
    assert found.calibrator == best.calibrator
    assert all(trial.validation.samples == 48 for trial in found.trials)
    assert f"{best.calibrator} ← picked" in made.ran.out


def test_the_table_and_the_report_say_the_same(made: Made) -> None:
    out, page = made.ran.out, (made.folder / "report.md").read_text(encoding="utf-8")
    for text in ("fp32, torch", "fp32, ONNX Runtime", "INT8, simulated", "INT8, ONNX Runtime", "latency, batch 4"):
        assert text in out
        assert text in page
    assert "2 of 2 Conv" in out
    assert "in float             nothing" in out
    assert "calibrating on 64 training images" in made.ran.err


def test_the_same_command_computes_nothing_and_other_settings_are_refused(made: Made) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.folder.iterdir()}
    again = run(*made.words)
    assert again.code == 0
    assert "this was done already; nothing was computed" in again.out
    assert made.ran.out in again.out
    as_json = run(*made.words, "--json")
    assert json.loads(as_json.out) == json.loads((made.folder / "record.json").read_text())
    refused(run(*made.words, "--images", "32"), "quantize.images = 64, not 32", "--force")
    assert {path: path.stat().st_mtime_ns for path in made.folder.iterdir()} == before


def test_a_model_file_is_quantized_in_place_of_a_name_and_force_replaces(
    finished: Finished, quantizing: tuple[str, ...], tmp_path: Path
) -> None:
    file, out = finished.folder / "model.safetensors", tmp_path / "int8"
    more = ("--data", f"{TOY}:data", "--calibrate", "max", "--images", "32", "--threads", "1", "--batch", "2", "-q")
    ran = run("quantize", file, "--model", f"{TOY}:network", *more, "--out", out)
    assert ran.code == 0, ran.err
    assert ran.err == ""
    record = read_record(out / "record.json")
    assert record.int8 is not None
    assert (record.int8.calibrator, record.int8.trials) == ("max", ())
    assert OnnxModel(out / "model.int8.onnx").preprocessing is not None
    refused(run(*quantizing, *more, "--out", out), "holds another INT8 file", "--force")
    ran = run(*quantizing, *more, "--out", out, "--force", "--target", "tensorrt", "--weight-bits", "4")
    assert ran.code == 0, ran.err
    assert read_record(out / "record.json").settings["quantize"]["target"] == "tensorrt"  # type: ignore[index, call-overload]
    assert "weights of 4 bits are stored as int8" in ran.out
    refused(run("quantize", file, *more, "--out", tmp_path / "other"), "--model")


def test_a_line_for_each_operator_in_float_says_why(quantizing: tuple[str, ...], tmp_path: Path) -> None:
    model, weights = saved("waving_network", tmp_path)
    ran = run(*words_of(quantizing, model, weights), "--out", tmp_path / "int8", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)["int8"]
    (sine,) = found["in_float"]
    assert (sine["kind"], sine["module"]) == ("Sin", "2")
    assert sine["reason"]
    page = (tmp_path / "int8" / "report.md").read_text(encoding="utf-8")
    assert f"* **in float**: Sin 2: {sine['reason']}" in page
    assert found["in_integers"]["Conv"] == found["operators"]["Conv"] == 2


def test_repairs_are_told_with_what_they_brought_and_the_diagnosis_is_drawn(
    quantizing: tuple[str, ...], tmp_path: Path
) -> None:
    words = (*quantizing, "--images", "64", "--weight-bits", "3", "--out", tmp_path / "int8")
    mending = ("--repair", "bias-correction,equalization", "--max-drop", "0.5", "--diagnose")
    ran = run(*words, *mending)
    assert ran.code == 0, ran.err
    record = read_record(tmp_path / "int8" / "record.json")
    assert record.int8 is not None
    assert [line.partition(":")[0] for line in record.int8.repairs] == ["equalization", "bias-correction", "partial"]
    assert ran.out.count(" dB") >= len(record.int8.repairs)
    dense, found = record.measurements["dense"].validation, record.measurements["int8"].validation
    assert dense is not None
    assert found is not None
    assert dense.score - found.score <= 0.005 + 1e-9
    drawn = {name for name in record.files.values() if name.startswith("int8-")}
    assert "int8-diagnosis.json" in drawn
    assert all((tmp_path / "int8" / name).exists() for name in drawn)
    plain = run(*words, "--force")
    assert plain.code == 0, plain.err
    assert {path.name for path in (tmp_path / "int8").iterdir()} == FILES


def test_where_the_float_model_has_no_onnx_form_its_row_is_missing(quantizing: tuple[str, ...], tmp_path: Path) -> None:
    model, weights = saved("bright_network", tmp_path)
    ran = run(*words_of(quantizing, model, weights), "--out", tmp_path / "int8")
    assert ran.code == 0, ran.err
    assert "fp32, ONNX Runtime" not in ran.out
    assert "there is no fp32 file to compare with" in ran.out
    assert "INT8, ONNX Runtime" in ran.out


def words_of(quantizing: tuple[str, ...], model: str, weights: Path) -> tuple[str, ...]:
    return ("quantize", model, "--weights", str(weights), *quantizing[4:])


def test_unnormalised_images_are_warned_of(quantizing: tuple[str, ...], tmp_path: Path) -> None:
    words = tuple(word.replace(":data", ":bright") for word in quantizing)
    ran = run(*words, "--images", "32", "--calibrate", "max", "--out", tmp_path / "int8")
    assert ran.code == 0, ran.err
    assert "warning: 32 images reach from 0" in ran.err
    assert "looks unnormalised; prepare them as for evaluation" in ran.err
    assert any("unnormalised" in note for note in read_record(tmp_path / "int8" / "record.json").notes)


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (("--calibrate", "entropie"), ("unknown calibrator 'entropie'", "entropy")),
        (("--calibrate", "percentile-101"), ("percentile 101", "at most 100")),
        (("--calibrate", "max", "--compare"), ("--calibrate", "--compare")),
        (("--target", "gpu"), ("target", "cpu")),
        (("--repair", "adaround, bias"), ("unknown repair 'bias'", "bias-correction")),
        (("--max-drop", "-1"), ("max_drop is -1", "0 to 100")),
        (("--weight-bits", "9"), ("9",)),
        (("--images", "0"), ("--images",)),
        (("--max-drop", "1", "--validation-share", "0"), ("max_drop 1", "validation split", "--validation-share")),
        (("--compare", "--validation-share", "0"), ("validation split", "--validation-share")),
        (("--device", "cuda:7"), ("cuda:7",)),
        (("--model", "x.py:f"), ("--model x.py:f", "leave it out")),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    quantizing: tuple[str, ...], more: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path
) -> None:
    refused(run(*quantizing, *more, "--out", tmp_path / "int8", "-q"), *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ("empty", ("train split", "is empty")),
        ("unlabelled", ("return for every split a pair (images, labels)",)),
        ("colour", ("1", "3")),
        ("many_classes", ("10",)),
    ],
)
def test_data_that_cannot_calibrate_is_refused(
    quantizing: tuple[str, ...], data: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    words = tuple(word.replace(":data", f":{data}").replace(":network", ":fixed_network") for word in quantizing)
    refused(run(*words, "--out", tmp_path / "int8", "-q"), *parts)
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_size_are_refused(quantizing: tuple[str, ...], tmp_path: Path) -> None:
    model, weights = saved("flat_network", tmp_path)
    words = [word.replace(":data", ":large") for word in words_of(quantizing, model, weights)]
    refused(run(*words, "--out", tmp_path / "int8", "-q"), "1×11×11", "does not run on images")
    assert not (tmp_path / "int8").exists()


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("choosing_network", ("with images of", "cli_toy.py, line")),
        ("unknown_operator", ("airy",)),
        ("no_convolution", ("no operator", "integers")),
        ("map_network", ("logits",)),
        ("dict_network", ("logits",)),
        ("dividing_network", ("NaN", "calibration image")),
    ],
)
def test_models_that_cannot_become_integers_are_refused(
    quantizing: tuple[str, ...], model: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    name, weights = saved(model, tmp_path)
    refused(run(*words_of(quantizing, name, weights), "--out", tmp_path / "int8", "-q"), *parts)
    assert not (tmp_path / "int8").exists()


def test_nan_weights_are_refused(quantizing: tuple[str, ...], weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights)
    tensors["0.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    refused(
        run(*words_of(quantizing, f"{TOY}:network", tmp_path / "nan.safetensors"), "--out", tmp_path / "int8"), "NaN"
    )
    assert not (tmp_path / "int8").exists()


def test_models_without_weights_or_with_them_twice_are_refused(weights: Path, made: Made, tmp_path: Path) -> None:
    more = ("--data", f"{TOY}:data", "--out", tmp_path / "int8")
    refused(run("quantize", f"{TOY}:network", *more), "has no weights", "--weights")
    refused(run("quantize", weights, "--weights", weights, *more), "leave out --weights")
    refused(run("quantize", made.folder / "model.int8.onnx", *more), "is an ONNX file", "model.safetensors")
    refused(run("quantize", tmp_path / "missing.safetensors", *more), "missing.safetensors")
    refused(run("quantize", made.folder / "simulation.safetensors", *more), "is a simulation of an INT8 model")
    refused(run("quantize", made.folder / "report.md", *more), "report.md is no model file")
    refused(run("quantize", tmp_path, *more), "is a folder", "model.safetensors")
    refused(run("quantize", weights, "--num-classes", "5", *more), "--num-classes is 5", "leave it out")
    refused(run("quantize", weights, "--fold-weight-standardisation", *more), "--fold-weight-standardisation")


def test_a_folder_of_something_else_is_left_alone(
    quantizing: tuple[str, ...], finished: Finished, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    refused(run(*quantizing, "--out", tmp_path, "--force"), "holds no INT8 file", "letter.txt")
    refused(run(*quantizing, "--out", finished.folder, "--force"), "holds no INT8 file")
    refused(run(*quantizing, "--out", tmp_path / "letter.txt"), "is a file")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_ctrl_c_leaves_nothing(quantizing: tuple[str, ...], tmp_path: Path) -> None:
    words = tuple(
        word.replace(":data", ":slow_data") for word in quantizing if word not in ("--validation-share", "0.3")
    )
    process = start(*words, "--out", tmp_path / "int8", cwd=tmp_path)
    limit = time.monotonic() + 300
    while not (tmp_path / "calibrating").exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "stopped"
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["calibrating"]
