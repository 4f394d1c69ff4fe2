"""Run the command in this process, or in one of its own."""

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from own_process import Started

from secateur.cli.app import main

ODD_MODELS = Path(__file__).with_name("odd_models.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def run(*words: str | Path) -> Ran:
    """Run ``secateur`` with these words in this process, which has torch loaded already."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Ran(code, out.getvalue(), err.getvalue())


def start(*words: str | Path, cwd: Path | None = None) -> "subprocess.Popen[str]":
    """Start ``python -m secateur`` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "secateur", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=cwd,
    )


def spawn(*words: str | Path, cwd: Path | None = None) -> Ran:
    """Run ``python -m secateur`` to its end as a process of its own."""
    process = start(*words, cwd=cwd)
    out, err = process.communicate(timeout=300)
    return Ran(process.returncode, out, err)


def forked(*words: str | Path, cwd: Path | None = None) -> Ran:
    """Run ``python -m secateur`` to its end in a process of its own that has torch loaded already."""
    ended = Started("secateur", words, ENVIRONMENT, cwd).wait()
    return Ran(ended.code, ended.out, ended.err)


def refused(ran: Ran, *parts: str) -> None:
    """Check that a command ended with one clear sentence that has all ``parts``, and exit code 2."""
    assert ran.code == 2, ran
    assert ran.out == ""
    lines = [line for line in ran.err.splitlines() if line.startswith("secateur: ")]
    assert len(lines) == 1, ran.err
    assert ran.err.rstrip().endswith(lines[0]), ran.err
    assert "Traceback" not in ran.err
    for part in parts:
        assert part in lines[0], (part, lines[0])


def odd_job(code: Path, model: str, out: Path, *more: str | Path) -> tuple[str | Path, ...]:
    """Return the words of a quick job with a model and the data of a copy of ``odd_models.py``."""
    return (
        *("prune", "--model", f"{code}:{model}", "--data", f"{code}:data", "--macs", "0.5", "--train-epochs", "1"),
        *("--epochs", "1", "--batch-size", "32", "--threads", "1", "-q", "--out", out, *more),
    )
