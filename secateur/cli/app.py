"""The command ``secateur``: its subcommands, and what happens to errors and signals."""

import contextlib
import errno
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.main import get_command

from secateur.cli import show
from secateur.cli.apply import apply
from secateur.cli.compress import compress
from secateur.cli.demo import demo
from secateur.cli.evaluate import evaluate
from secateur.cli.export import export
from secateur.cli.groups import groups
from secateur.cli.inspect import inspect
from secateur.cli.measure import measure
from secateur.cli.pack import pack
from secateur.cli.plan import plan
from secateur.cli.profile import profile
from secateur.cli.prune import prune
from secateur.cli.quantize import quantize
from secateur.cli.recipe import recipe
from secateur.cli.search import search
from secateur.cli.sensitivity import sensitivity
from secateur.cli.unpack import unpack
from secateur.cli.verify import verify
from secateur.errors import SecateurError
from secateur.memory import asked_for, ran_out

WRONG_INPUT, STOPPED = 2, 130
DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)  # nothing can be written
CONTINUED = ("compress", "prune", "demo", "sensitivity", "search", "measure")  # they go on where they were stopped

app = typer.Typer(
    name="secateur",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _print_version(asked: bool) -> None:
    if asked:
        from secateur import __version__

        print(f"secateur {__version__}")
        raise typer.Exit


@app.callback()
def describe(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and stop")
    ] = False,
) -> None:
    """Cut trained convolutional networks to a budget, and prove that the cut is exact.

    Start with `secateur demo`. The main job is `secateur prune`; `compress` does it from a recipe that holds all
    settings, and `search` finds the best widths at every cost. `plan`, `apply`, `verify`, `evaluate` and `export` are
    the steps of a run one by one; `sensitivity`, `groups`, `profile` and `inspect` show what there is, `measure` times
    each layer, for budgets in milliseconds. `quantize` brings a model to INT8. `pack` stores weights that are mostly
    zero small, `unpack` makes them dense again.
    """
    del version  # printed before any command is looked for


COMMANDS = (
    *(demo, prune, compress, recipe, search, sensitivity),
    *(plan, apply, verify, evaluate, export),
    *(groups, profile, measure, inspect),
    *(pack, unpack, quantize),
)
for command in COMMANDS:
    app.command()(command)

_USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[1]  # of click, wherever this typer keeps it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or 2 with one sentence for wrong input, or 130 if stopped.

    SIGTERM, which batch systems send before they kill, stops as Ctrl-C does.

    Args:
        arguments: the words after ``secateur``; those of the process by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    show.STARTED_WITH.set(tuple(words))
    try:
        with _termination_as_ctrl_c(), _output_for_json("--json" in words):
            result = get_command(app).main(words or ["--help"], prog_name="secateur", standalone_mode=False)
    except _USAGE_ERROR as error:
        sentence = error.format_message().replace("Value error, ", "").rstrip(".")
        return _refuse(f"{sentence} (see {_program()} {_command_of(error)}--help)")
    except KeyboardInterrupt:
        return _stopped(words)
    except BrokenPipeError:
        # The reader of a pipe has gone; nobody is left to tell, and Python must not try at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):  # by click itself
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        sentence = _sentence(error)
        if sentence is None:
            raise
        if "-v" in words or "--verbose" in words:
            traceback.print_exception(error)
        return _refuse(sentence)
    # Typer turns Ctrl-C into this result.
    return _stopped(words) if result == STOPPED else int(result or 0)


def _sentence(error: BaseException) -> str | None:
    """Return what to say of an error that the user can mend, or None of a fault of this program."""
    short = ran_out(error)
    known = isinstance(error, SecateurError)
    # An error of ours may quote an allocator, where a proof ran a model.
    if short is not None and (not known or (short is error and "out of memory" not in str(error))):
        return (
            f"out of memory{asked_for(short)}; use a smaller --batch-size or --input where the command has it, "
            "a smaller model, or a machine with more memory"
        )
    if known:
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        where = f" {error.filename}" if error.filename else " a file"
        return f"cannot write{where}: {error.strerror}; free space, here or in the folder of temporary files (TMPDIR)"
    if isinstance(error, SystemExit):
        return f"the code of the model or of the data ended the command with exit({error.code}); remove that call"
    return None


@contextlib.contextmanager
def _termination_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM raise what Ctrl-C raises, inside the block."""
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def _output_for_json(asked: bool) -> Iterator[None]:
    """Keep standard output for JSON inside the block, if asked: what a user's code prints goes to standard error."""
    if not asked:
        yield
        return
    token = show.RESULTS.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        show.RESULTS.reset(token)


def _refuse(sentence: str) -> int:
    print(f"secateur: {' '.join(sentence.split())}", file=sys.stderr)
    return WRONG_INPUT


def _stopped(words: Sequence[str]) -> int:
    if not words or words[0] not in CONTINUED:
        print("stopped", file=sys.stderr)
        return STOPPED
    # With --force the same words would start over.
    again = shlex.join(word for word in words if word != "--force")
    print(f"stopped; continue with: {_program()} {again}", file=sys.stderr)
    return STOPPED


def _program() -> str:
    return "python -m secateur" if Path(sys.argv[0]).name == "__main__.py" else "secateur"


def _command_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    name = context.info_name if context is not None and context.parent is not None else None
    return f"{name} " if name else ""
