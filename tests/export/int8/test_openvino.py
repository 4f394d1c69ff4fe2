"""OpenVINO in a process of its own: the file runs there too, and what goes wrong is told and stays there."""

import importlib.util
import os
import signal
from pathlib import Path

import pytest
import torch
from int8_networks import images, simulation

from secateur.errors import ArtifactError, ExportError
from secateur.export.int8.openvino_process import OpenVinoModel
from secateur.export.int8.writer import write_int8

INSTALLED = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not INSTALLED, reason="openvino is not installed")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("int8") / "net.onnx"
    write_int8(simulation("residual"), target)
    return target


@pytest.mark.skipif(INSTALLED, reason="openvino is installed")
def test_a_missing_package_is_named_with_the_way_to_install_it(path: Path) -> None:
    with pytest.raises(ExportError, match=r"pip install 'secateur\[openvino\]'"):
        OpenVinoModel(path)


@needs_openvino
def test_the_file_runs_in_integers_and_as_the_simulation_does(path: Path) -> None:
    x = images(64, seed=3)
    found = simulation("residual")
    with OpenVinoModel(path) as model:
        assert model.precision == "f32"
        assert (model.integer_convolutions, model.convolutions) == (3, 3)
        assert int(model.version.partition(".")[0]) >= 2025
        with torch.no_grad():
            wanted = found.module(x)
        assert float((model(x) - wanted).square().mean() / wanted.square().mean()) < 1e-2
        timings = model.time_ms(x[:1], repeats=3)
        assert len(timings) == 3
        assert all(entry > 0 for entry in timings)


@needs_openvino
def test_what_openvino_refuses_is_one_sentence_and_the_process_goes_on(path: Path, tmp_path: Path) -> None:
    with OpenVinoModel(path) as model:
        with pytest.raises(ArtifactError, match="OpenVINO failed running"):
            model.run(images(1), images(1))
        assert model(images(1)).shape == (1, 10)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ArtifactError, match="OpenVINO failed compiling"):
        OpenVinoModel(broken)
    with pytest.raises(ArtifactError, match="does not exist"):
        OpenVinoModel(tmp_path / "absent.onnx")


@needs_openvino
def test_a_crash_is_reported_and_not_shared(path: Path) -> None:
    with OpenVinoModel(path) as model:
        os.kill(model._process.pid, signal.SIGSEGV)
        with pytest.raises(ArtifactError, match=r"OpenVINO crashed running .* \(SIGSEGV\); use ONNX Runtime"):
            model.run(images(1))


@needs_openvino
def test_what_takes_too_long_is_stopped(path: Path) -> None:
    with OpenVinoModel(path) as model:
        os.kill(model._process.pid, signal.SIGSTOP)
        model._timeout = 0.5
        with pytest.raises(ArtifactError, match=r"was not done running .* after 0\.5 s"):
            model.run(images(1))
        assert model._process.wait(timeout=10) == -signal.SIGKILL
