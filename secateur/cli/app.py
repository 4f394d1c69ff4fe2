"""The command ``secateur``: its subcommands, and what happens to errors."""

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from secateur.cli import show
from secateur.cli.apply import apply
from secateur.cli.demo import demo
from secateur.cli.evaluate import evaluate
from secateur.cli.export import export
from secateur.cli.groups import groups
from secateur.cli.inspect import inspect
from secateur.cli.plan import plan
from secateur.cli.profile import profile
from secateur.cli.prune import prune
from secateur.cli.verify import verify
from secateur.errors import SecateurError

WRONG_INPUT, STOPPED = 2, 130
CONTINUED = ("prune", "demo")  # commands that go on where they were stopped

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

    Start with `secateur demo`. The main job is `secateur prune`; `plan`, `apply`, `verify`, `evaluate` and `export`
    are its steps one by one; `groups`, `profile` and `inspect` show what there is.
    """
    del version  # printed before any command is looked for


for command in (demo, prune, plan, apply, verify, evaluate, export, groups, profile, inspect):
    app.command()(command)

_USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[1]  # of click, wherever this typer keeps it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or 2 with one sentence for wrong input, or 130 if stopped.

    Args:
        arguments: the words after ``secateur``; those of the process by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    show.STARTED_WITH.set(tuple(words))
    try:
        result = get_command(app).main(words or ["--help"], prog_name="secateur", standalone_mode=False)
    except _USAGE_ERROR as error:
        sentence = error.format_message().replace("Value error, ", "").rstrip(".")
        return _refuse(f"{sentence} (see {_program()} {_command_of(error)}--help)")
    except SecateurError as error:
        if "-v" in words or "--verbose" in words:
            traceback.print_exception(error)
        return _refuse(str(error))
    except KeyboardInterrupt:
        return _stopped(words)
    except BrokenPipeError:
        # The reader of a pipe has gone; nobody is left to tell, and Python must not try at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    # Typer turns Ctrl-C into this result.
    return _stopped(words) if result == STOPPED else int(result or 0)


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
