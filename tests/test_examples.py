"""Every script in ``examples/`` runs as a user runs it, without a warning, and what it prints is so."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TESTED = {
    "own_training_loop.py",
    "lightning_callback.py",
    "cut_mid_training_with_ema.py",
    "timm_model.py",
    "own_criterion.py",
}

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


def needs(*packages: str) -> None:
    """Skip where one is missing; importing it here would be another import than the script's own."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def output_of(name: str, folder: Path, *options: str) -> str:
    """Run an example in an empty folder; it must warn of nothing and leave neither files nor temporary folders behind.

    Warnings are errors; what a library warns of its own code, an example has to silence by its message. (Libraries
    keep caches of their own under the temporary folder.)
    """
    work, temporary = folder / "work", folder / "temporary"
    work.mkdir()
    temporary.mkdir()
    run = subprocess.run(
        [sys.executable, "-B", "-W", "error", str(EXAMPLES / name), *options],
        cwd=work,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert list(work.iterdir()) == []
    assert list(temporary.glob("tmp*")) == []  # as tempfile names them
    return run.stdout


def numbers(pattern: str, text: str) -> tuple[float, ...]:
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in:\n{text}"
    return tuple(float(group.replace(",", "")) for group in found.groups())


def macs_are_halved(text: str) -> bool:
    before, after = numbers(r"([\d,]+) → ([\d,]+) MACs", text)
    return 0.4 * before < after <= 0.5 * before


def proof_error(text: str) -> float:
    return numbers(r"the cut is exact: max\|masked − cut\| / max\|original − masked\| = (\S+) ", text)[0]


def accuracy(line: str, text: str) -> float:
    return numbers(rf"{line}: (?:test|validation) accuracy ([\d.]+)%", text)[0]


def test_no_example_goes_untested_or_unlisted() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED
    assert set(re.findall(r"^\| `(\w+\.py)`", page, flags=re.MULTILINE)) == TESTED


def test_own_training_loop(tmp_path: Path) -> None:
    text = output_of("own_training_loop.py", tmp_path)
    assert macs_are_halved(text)
    assert proof_error(text) < 1e-9
    trained, after = accuracy("trained", text), accuracy("fine-tuned", text)
    assert trained > 85
    assert after > 85
    assert accuracy("loaded", text) == after


def test_own_training_loop_is_short() -> None:
    source = (EXAMPLES / "own_training_loop.py").read_text(encoding="utf-8")
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    docstring = 1
    assert len(statements) - docstring <= 36


def test_lightning_callback(tmp_path: Path) -> None:
    needs("lightning")
    text = output_of("lightning_callback.py", tmp_path, "--epochs", "4")
    assert macs_are_halved(text)
    assert proof_error(text) < 1e-9
    assert text.index("epoch 1:") < text.index("before epoch 2:") < text.index("epoch 2:")
    assert accuracy("epoch 1", text) > 70
    assert accuracy("epoch 3", text) > 70
    assert accuracy("loaded from the checkpoint", text) == accuracy("epoch 3", text)
    # Continued: one more epoch of the same run, on the narrow network, which is not cut a second time.
    assert accuracy("epoch 4", text) > 70
    assert text.count("MACs") == 1


def test_cut_mid_training_with_ema(tmp_path: Path) -> None:
    text = output_of("cut_mid_training_with_ema.py", tmp_path, "--epochs", "6")
    assert macs_are_halved(text)
    assert proof_error(text) < 1e-9
    # The law, worked apart from the proof: the averaged network, cut, is the averaged network, masked.
    error, effect = numbers(r"max\|masked − cut\| = (\S+), max\|original − masked\| = (\S+)", text)
    assert effect > 1e-3
    assert error < 1e-9 * effect
    own, averaged = numbers(r"fine-tuned: test accuracy ([\d.]+)%, averaged ([\d.]+)%", text)
    assert own > 85
    assert averaged > 85
    # The schedule went on: 23 steps an epoch, half of them before the cut, and its last step is its lowest.
    assert numbers(r"step (\d+) of (\d+)", text) == (63, 126)
    at_cut, at_end = (float(rate) for rate in re.findall(r"learning rate (\S+)", text))
    assert at_cut > 0.01 > at_end


def test_timm_model(tmp_path: Path) -> None:
    needs("timm", "onnxruntime", "onnxscript")
    text = output_of("timm_model.py", tmp_path, "--epochs", "1")
    assert macs_are_halved(text)
    assert proof_error(text) < 1e-9
    assert accuracy("fine-tuned", text) > 60
    assert accuracy("ONNX Runtime", text) == pytest.approx(accuracy("fine-tuned", text), abs=0.3)


@pytest.mark.slow
def test_timm_model_with_depthwise_convolutions_and_squeeze_excite(tmp_path: Path) -> None:
    needs("timm", "onnxruntime", "onnxscript")
    text = output_of("timm_model.py", tmp_path, "--model", "mobilenetv3_small_050", "--image-size", "64")
    assert macs_are_halved(text)
    assert proof_error(text) < 1e-9
    assert accuracy("fine-tuned", text) > 40
    assert accuracy("ONNX Runtime", text) == pytest.approx(accuracy("fine-tuned", text), abs=0.3)


def test_own_criterion(tmp_path: Path) -> None:
    text = output_of("own_criterion.py", tmp_path)
    lines = {line.split(":")[0]: line for line in text.splitlines()}
    dense = accuracy("dense", lines.pop("dense"))
    after = {
        name: numbers(r"→ ([\d,]+) MACs, exact, validation accuracy ([\d.]+)%", line) for name, line in lines.items()
    }
    assert all(macs_are_halved(line) for line in lines.values())
    assert len({macs for macs, _ in after.values()}) == 1  # compared at the same cost
    chance = [top1 for name, (_, top1) in after.items() if name.startswith("random")]
    assert len(set(chance)) > 1
    assert after["fpgm"] != after["l1"]
    for name in ("l1", "fpgm", "batch norm"):
        assert sum(chance) / len(chance) < after[name][1] < dense
