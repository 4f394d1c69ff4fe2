"""Ctrl-C in a real process, and the command that it prints."""

import shlex
import signal
import time
from pathlib import Path

import pytest
from cli_command import forked, refused, run, start

from secateur.record import read_record

TOY = Path(__file__).with_name("cli_toy.py")
JOB = ("prune", "--model", f"{TOY}:slow_network", "--data", f"{TOY}:data", "--macs", "0.5", "--train-epochs", "2")
QUICK = ("--epochs", "4", "--batch-size", "16", "--threads", "1")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    ran = run(*JOB, *QUICK, "--out", folder, "-q")
    assert ran.code == 0, ran.err
    return folder


def test_ctrl_c_prints_the_command_that_continues_to_the_same_bytes(unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(*JOB, *QUICK, "--out", folder, "--force")
    checkpoint = folder / "checkpoint" / "phases" / "finetune.safetensors"
    limit = time.monotonic() + 300
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    printed = err.splitlines()[-1]
    assert printed.startswith("stopped; continue with: python -m secateur prune ")
    assert not (folder / "record.json").exists()

    words = shlex.split(printed.partition("python -m secateur ")[2])
    assert "--force" not in words
    again = forked(*words)
    assert again.code == 0, again.err
    assert "continued in epoch" in again.err
    assert "bit for bit as if it had not been" in again.out
    for name in ("model.safetensors", "model.onnx", "plan.json"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name
    record, whole = read_record(folder / "record.json"), read_record(unbroken / "record.json")
    assert record.resumed
    assert record.bit_for_bit
    assert not whole.resumed
    for key, value in whole.measurements.items():
        assert record.measurements[key].test == value.test
        assert record.measurements[key].validation == value.validation
    assert [e.train_loss for p in record.phases for e in p.epochs] == [
        e.train_loss for p in whole.phases for e in p.epochs
    ]


def test_ctrl_c_in_a_command_that_does_not_continue_just_says_so(tmp_path: Path) -> None:
    process = start("groups", "--model", f"{TOY}:sleeping_network", "--input", "1x9x9", cwd=tmp_path)
    limit = time.monotonic() + 300
    while not (tmp_path / "asleep").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.splitlines() == ["stopped"]


def test_two_runs_in_one_folder_are_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = (*JOB, *QUICK, "--out", folder)
    first = start(*words)
    limit = time.monotonic() + 300
    while not (folder / "log.jsonl").exists() and first.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    refused(run(*words), "another process is running in", str(folder))
    refused(run(*words, "--force", "--seed", "3"), "another process is running in")
    first.kill()
    first.communicate(timeout=300)
    ran = run(*words)
    assert ran.code == 0, ran.err
