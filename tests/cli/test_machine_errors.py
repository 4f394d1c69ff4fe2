"""A machine that cannot do the work, a run that is stopped, a folder that cannot be written: one clear sentence."""

import ctypes
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_command import ENVIRONMENT, Ran, forked, odd_job, refused, run, start

UNREAD = ("prune", "--model", "digits-resnet", "--data", "digits", "--macs", "0.5", "--train-epochs", "1", "-q")


def test_training_that_runs_out_of_memory_names_half_of_the_batch(code: Path, tmp_path: Path) -> None:
    words = odd_job(code, "hungry_to_train", tmp_path / "run", "--batch-size", "80")
    refused(forked(*words), "out of memory with batch size 80", "MB more", "try half of it: --batch-size 40")
    assert not list((tmp_path / "run").rglob("*.part"))
    ran = forked(*words, "--batch-size", "8", "--force")
    assert ran.code == 0, ran.err


def test_evaluation_and_proof_that_run_out_of_memory(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ("--model", f"{code}:hungry_to_run")
    file = tmp_path / "small.safetensors"
    assert run("plan", *model, "--input", "1x9x9", "--macs", "0.5", "--out", tmp_path / "plan.json").code == 0
    assert run("apply", tmp_path / "plan.json", *model, "--input", "1x9x9", "--out", file).code == 0

    monkeypatch.setitem(ENVIRONMENT, "SECATEUR_TEST_MEGABYTES", "300")
    words = ("evaluate", file, *model, "--data", f"{code}:data", "--threads", "1", "--batch-size")
    refused(forked(*words, "60"), "out of memory with batch size 60", "try half of it: --batch-size 30")
    assert forked(*words, "6").code == 0

    large = ("apply", tmp_path / "plan.json", *model, "--input", "1x40x40", "--out", tmp_path / "other.safetensors")
    refused(forked(*large), "out of memory", "MB more", "use smaller inputs (--input CxHxW)")
    assert not (tmp_path / "other.safetensors").exists()


def test_data_that_does_not_fit_into_memory(code: Path, tmp_path: Path) -> None:
    words = odd_job(code, "net", tmp_path / "run", "--data", f"{code}:too_much_data")
    refused(run(*words), "too_much_data", "Unable to allocate 8.00 PiB")
    assert not (tmp_path / "run").exists()


def _wait_for(path: Path, process: "subprocess.Popen[str]", *, seconds: float = 300) -> None:
    limit = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)


def test_a_second_run_names_the_process_of_the_first_and_sigterm_stops_that_as_ctrl_c_does(
    code: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = [word for word in odd_job(code, "Slow", folder, "--train-epochs", "20") if word != "-q"]
    first = start(*words)
    _wait_for(folder / "log.jsonl", first)
    refused(run(*words), f"another process is running in {folder} (process {first.pid}); wait until it has ended")

    _wait_for(folder / "checkpoint" / "phases" / "dense.safetensors", first)
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=300)
    assert first.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("stopped; continue with: python -m secateur prune ")
    assert not (folder / "record.json").exists()
    again = run(*words)
    assert again.code == 0, again.err
    assert "phase 'dense' continued in epoch" in again.err


def test_sigterm_outside_of_training_stops_as_well(code: Path, tmp_path: Path) -> None:
    sleepy = tmp_path / "sleepy.py"
    sleepy.write_text("import pathlib, time\n\ndef f():\n    pathlib.Path('asleep').touch()\n    time.sleep(60)\n")
    process = start("groups", "--model", f"{sleepy}:f", "--input", "1x9x9", cwd=tmp_path)
    _wait_for(tmp_path / "asleep", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.splitlines() == ["stopped"]


def test_a_folder_that_cannot_be_written_and_one_that_is_a_file(code: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(run(*odd_job(code, "net", tmp_path / "file")), "file is a file; give --out a folder")
    refused(run(*odd_job(code, "net", tmp_path / "file" / "run")), "is a file", "another place")
    assert (tmp_path / "file").read_text() == "mine"
    refused(
        run(*odd_job(code, "net", Path("/proc/run"))), "cannot write /proc/run", "choose a folder that can be written"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="takes the rights of root away in the way of Linux")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o555)
    done = subprocess.run(
        [sys.executable, "-m", "secateur", *UNREAD, "--out", str(folder / "run")],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        # Root may write everywhere, unless the capability for it is dropped: PR_CAPBSET_DROP of CAP_DAC_OVERRIDE.
        preexec_fn=lambda: ctypes.CDLL(None).prctl(24, 1, 0, 0, 0),
        timeout=300,
    )
    refused(Ran(done.returncode, done.stdout, done.stderr), f"cannot write {folder / 'run'}: Permission denied")
    assert not list(folder.iterdir())


def test_json_stays_json_whatever_the_code_of_the_user_prints(code: Path, tmp_path: Path) -> None:
    ran = run("groups", "--model", f"{code}:printing", "--input", "1x9x9", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["groups"]
    assert "building" in ran.err
    assert "running" in ran.err
