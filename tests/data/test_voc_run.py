"""The command on PASCAL VOC: train, cut, fine-tune, export, evaluate, with a mask per image all the way."""

import contextlib
import io
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="Pillow is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from voc_tree import write_voc

from secateur.cli.app import main
from secateur.record import RunRecord, read_record

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")

NETWORK = Path(__file__).with_name("voc_network.py")
QUICK = ("--augment", "segmentation:64", "--workers", "0", "--threads", "1", "-q")


def run(*words: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voc")
    write_voc(folder, {"train": 12, "val": 4})
    return folder


def prune(root: Path, out: Path, network: str, *more: object) -> tuple[int, str, str]:
    return run(
        *("prune", "--model", f"{NETWORK}:{network}", "--data", f"voc:{root}", "--macs", "0.5", "--train-epochs", "6"),
        *("--epochs", "2", "--batch-size", "4", "--train-lr", "0.05", "--validation-share", "0.25", "--out", out),
        *(*QUICK, *more),
    )


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs") / "small"
    code, out, err = prune(root, folder, "small")
    assert code == 0, err
    return folder, out


@pytest.fixture(scope="module")
def record(finished: tuple[Path, str]) -> RunRecord:
    return read_record(finished[0] / "record.json")


def test_the_record_holds_mean_iou_and_pixel_accuracy(record: RunRecord) -> None:
    assert set(record.measurements) == {"dense", "cut", "tuned", "dense_onnx", "onnx"}
    for value in record.measurements.values():
        assert value.test is not None
        assert value.test.mean_iou is not None
        assert value.test.pixel_accuracy is not None
        assert (value.test.top1, value.test.samples) == (None, 4)
    tuned, onnx = record.measurements["tuned"].test, record.measurements["onnx"].test
    assert tuned is not None
    assert onnx is not None
    assert onnx.mean_iou == pytest.approx(tuned.mean_iou, abs=1e-3)
    dense = record.measurements["dense"]
    assert record.measurements["tuned"].macs <= dense.macs / 2  # type: ignore[operator]
    assert record.classes == 21
    assert record.proof is not None
    assert record.proof.verdict == "exact"
    losses = [epoch.train_loss for epoch in record.phases[0].epochs]
    assert losses[-1] < losses[0]


def test_torch_and_onnx_agree_on_labelled_pixels(record: RunRecord) -> None:
    met = record.agreement
    assert met is not None
    assert 4 * 48 * 40 < met.samples < 4 * 64 * 64  # those of four images, without borders and padding
    assert met.equal / met.samples > 0.999


def test_tables_say_what_was_measured(finished: tuple[Path, str]) -> None:
    folder, out = finished
    assert "mIoU" in out
    assert "labelled test pixels" in out
    page = (folder / "report.md").read_text()
    for part in ("| model | mIoU | loss |", "validation mIoU", "test mIoU"):
        assert part in page
    for text in (out, page):
        assert "top-1" not in text
    log = (folder / "log.jsonl").read_text()
    assert "dense model: mIoU " in log
    assert "pixel accuracy" in log


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx"])
def test_saved_files_are_evaluated_in_frames_of_their_size(
    finished: tuple[Path, str], record: RunRecord, root: Path, name: str
) -> None:
    words = ("evaluate", finished[0] / name, "--data", f"voc:{root}", "--workers", "0", "--threads", "1")
    code = () if name.endswith(".onnx") else ("--model", f"{NETWORK}:small")
    ended, out, err = run(*words, *code, "--json")
    assert ended == 0, err
    found, expected = json.loads(out), record.measurements["onnx" if name.endswith(".onnx") else "tuned"].test
    assert expected is not None
    assert found["mean_iou"] == pytest.approx(expected.mean_iou, abs=1e-6)
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-6)
    ended, out, err = run(*words, *code)
    assert ended == 0, err
    assert f"{100 * found['mean_iou']:.2f} %" in out
    assert "mean IoU" in out
    assert "top-1" not in out


def test_a_finished_run_is_known_again(finished: tuple[Path, str], root: Path) -> None:
    code, out, _ = prune(root, finished[0], "small")
    assert code == 0
    assert "mIoU" in out


def test_auxiliary_logits_are_trained_and_left_out_of_the_measures(root: Path, tmp_path: Path) -> None:
    code, _, err = prune(root, tmp_path / "aux", "with_auxiliary")
    assert code == 0, err
    found = read_record(tmp_path / "aux" / "record.json")
    tuned, onnx = found.measurements["tuned"].test, found.measurements["onnx"].test
    assert tuned is not None
    assert onnx is not None
    assert onnx.mean_iou == pytest.approx(tuned.mean_iou, abs=1e-3)


def test_the_smallest_within_some_points_of_mean_iou(root: Path, tmp_path: Path) -> None:
    words = ("prune", "--model", f"{NETWORK}:small", "--data", f"voc:{root}", "--max-drop", "99", "--train-epochs", "2")
    more = ("--epochs", "1", "--batch-size", "4", "--validation-share", "0.25", "--recovery-epochs", "0")
    code, _, err = run(*words, *more, "--out", tmp_path / "drop", *QUICK)
    assert code == 0, err
    table = (tmp_path / "drop" / "tradeoff.md").read_text()
    assert "mIoU after the cut" in table
    assert "top-1" not in table


def test_sensitivity_is_scanned_by_mean_iou(finished: tuple[Path, str], root: Path, tmp_path: Path) -> None:
    code, out, err = run(
        *("sensitivity", "--model", f"{NETWORK}:small", "--weights", finished[0] / "dense.safetensors"),
        *("--data", f"voc:{root}", "--validation-share", "0.25", "--out", tmp_path / "scan", "--shares", "0.5", *QUICK),
    )
    assert code == 0, err
    assert "mIoU" in out


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ("too_few", "the model has 5 outputs per pixel, but the data has 21 classes"),
        ("coarse", "returned logits of shape (2, 21, 32, 32) for masks of shape (2, 64, 64)"),
        ("classifier", "the data has a class per pixel, so the model must return logits of shape (N, classes, H, W)"),
    ],
)
def test_networks_that_do_not_fit_are_refused_before_work_starts(
    root: Path, tmp_path: Path, network: str, sentence: str
) -> None:
    code, out, err = prune(root, tmp_path / "refused", network, "--batch-size", "2")
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "refused").exists()


def test_a_network_of_pixels_on_data_of_classes_is_told_of_data_with_masks(tmp_path: Path) -> None:
    code, _, err = run(
        *("prune", "--model", f"{NETWORK}:small", "--data", "digits", "--macs", "0.5", "--train-epochs", "1"),
        *("--out", tmp_path / "refused", "-q"),
    )
    assert code == 2
    assert "Traceback" not in err
