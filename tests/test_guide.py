"""The Python on the documentation's pages runs as written."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import secateur
from secateur.cli.app import main
from secateur.record import read_record

ROOT = Path(__file__).resolve().parent.parent


def blocks(page: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL))


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    pytest.importorskip("onnxruntime", reason="the page exports ONNX")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(blocks("docs/guide.md"), "docs/guide.md", "exec"), {})
    assert (tmp_path / "small.safetensors").exists()


def test_the_commands_that_restore_accuracy_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "docs/guide.md").read_text(encoding="utf-8").split("## Accuracy back without training")[1]
    commands = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)[0].splitlines()
    assert [command.split()[1] for command in commands] == ["prune", "plan", "apply"]
    for command in commands:
        assert main([*shlex.split(command)[1:], "--threads", "1"]) == 0, command
    assert (tmp_path / "mended.safetensors").exists()
    (restored,) = read_record(tmp_path / "restored" / "record.json").restored
    before, *_, after = restored.steps
    assert before.validation is not None
    assert after.validation is not None
    assert after.validation.score > before.validation.score


def test_the_commands_that_end_in_int8_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    pytest.importorskip("onnxruntime", reason="the INT8 file is an ONNX file")
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "docs/guide.md").read_text(encoding="utf-8").split("## INT8: the file that ships")[1]
    commands = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)[0].splitlines()
    assert [command.split()[1] for command in commands] == ["prune", "quantize", "evaluate"]
    for command in commands:
        assert main([*shlex.split(command)[1:], "--threads", "1"]) == 0, command
    record = read_record(tmp_path / "digits-int8" / "record.json")
    dense, shipped = record.measurements["dense"].test, record.measurements["int8"].test
    assert dense is not None
    assert shipped is not None
    assert shipped.score > dense.score - 0.02


def test_the_commands_that_pack_a_file_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    page = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    section = page.split("## Compact files of weights that are mostly zero")[1].split("\n## ")[0]
    first, second = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    names: dict[str, object] = {"secateur": secateur, "torch": torch}
    exec(compile(first, "docs/guide.md", "exec"), names)
    for command in re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)[0].splitlines():
        assert main(shlex.split(command, comments=True)[1:]) == 0, command
    exec(compile(second, "docs/guide.md", "exec"), names)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    # As the page says; what zlib makes of random bits may differ a little.
    assert sizes["lenet.safetensors"] == 1_725_512
    assert sizes["lenet.sparse.safetensors"] == pytest.approx(164_000, rel=0.02)
    assert sizes["shared.sparse.safetensors"] == pytest.approx(60_000, rel=0.02)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "lenet.safetensors").read_bytes()


def test_the_readmes_five_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"model": secateur.build_model("resnet20"), "example_inputs": torch.randn(2, 3, 32, 32)}
    exec(compile(blocks("README.md"), "README.md", "exec"), names)
    loaded = secateur.load(secateur.build_model("resnet20"), "small.safetensors")
    assert secateur.trace(loaded, torch.randn(1, 3, 32, 32)).macs() <= 0.5 * 40_551_040
