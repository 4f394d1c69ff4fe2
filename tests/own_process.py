"""Runs a program in a process of its own, which begins at once: torch is loaded once, by a server that then forks.

Each process begins as a new one does, except that it shares the seed of hashes with the others of one session. What it
is compared with is therefore best run in the process of the tests, by ``run_here``, which has another seed.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import torch

# What runs would load first. Training loads torch._dynamo, which takes as long as torch itself.
PRELOADED = ["torch._dynamo", "secateur.methods", "secateur.sparse", "secateur.export", "secateur.recipe"]
FORKS = sys.platform == "linux"  # elsewhere system libraries do not bear it
CONTEXT = multiprocessing.get_context("forkserver" if FORKS else "spawn")


@contextmanager
def one_thread() -> Iterator[None]:
    """As processes of their own have: sums on more threads may differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def arguments(script: Path, words: tuple[str, ...]) -> Iterator[None]:
    argv, path = sys.argv, sys.path
    sys.argv, sys.path = [str(script), *words], [str(script.parent), *path]
    try:
        yield
    finally:
        sys.argv, sys.path = argv, path


@dataclass(frozen=True)
class Ended:
    """How a process ended (−9: killed by SIGKILL), and what it printed."""

    code: int
    out: str
    err: str


class Started:
    """A process of its own that runs a script, or a package as ``python -m`` does."""

    def __init__(
        self, program: Path | str, words: tuple[object, ...], variables: dict[str, str], cwd: Path | None = None
    ) -> None:
        self._told = tempfile.TemporaryDirectory()
        streams = tuple(Path(self._told.name, name) for name in ("out", "err"))
        given = (program, tuple(map(str, words)), variables, cwd or Path.cwd(), streams)
        self._process = CONTEXT.Process(target=_begin, args=given)
        with _server_on_one_thread():
            self._process.start()

    def kill(self) -> Ended:
        """Kill it, unless it has ended, and wait until it is dead."""
        self._process.kill()
        return self.wait()

    def wait(self, timeout_seconds: float = 300) -> Ended:
        """Wait for its end."""
        self._process.join(timeout_seconds)
        code = self._process.exitcode
        if code is None:
            raise AssertionError(f"still running after {timeout_seconds} s: {self.kill().err}")
        files = [Path(self._told.name, name) for name in ("out", "err")]
        out, err = (file.read_text() if file.exists() else "" for file in files)
        self._told.cleanup()
        return Ended(code, out, err)

    def end(self, *, killed: bool = False) -> str:
        """Wait for its end, by SIGKILL or with success as told, and return what it printed."""
        ended = self.wait()
        assert ended.code == (-signal.SIGKILL if killed else 0), ended.err
        return ended.out


def start(script: Path, *words: object, **environment: object) -> Started:
    """Start a script with words and, beside those of the tests, variables of its environment."""
    return Started(script, words, {name: str(value) for name, value in environment.items()})


def run(script: Path, *words: object, killed: bool = False, **environment: object) -> str:
    """Run a script to its end, by SIGKILL or with success as told, and return what it printed."""
    return start(script, *words, **environment).end(killed=killed)


def run_here(script: Path, *words: object) -> None:
    """Run a script in this process, on one thread; the random state is afterwards what it was."""
    with one_thread(), arguments(script, tuple(map(str, words))), torch.random.fork_rng(devices=[]):
        runpy.run_path(str(script), run_name="__main__")


@contextmanager
def _server_on_one_thread() -> Iterator[None]:
    """Have a server; its libraries look for the number of threads when they are loaded."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        if FORKS:
            CONTEXT.set_forkserver_preload(PRELOADED)
            forkserver.ensure_running()
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _begin(
    program: Path | str, words: tuple[str, ...], variables: dict[str, str], cwd: Path, streams: tuple[Path, ...]
) -> None:
    for number, path in enumerate(streams, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.update(variables)
    os.chdir(cwd)
    if isinstance(program, str):
        sys.argv[1:] = words
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        with arguments(program, words):
            runpy.run_path(str(program), run_name="__main__")
