"""Sets of options as single ones, which is what typer reads of a command that takes dataclasses of options."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Turn a function of option sets into one of single options, which is what typer reads.

    Parameters that are annotated with a dataclass are replaced by its fields, in order; the others
    stay. Options without a default come first, because a signature needs it.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    sets: dict[str, type[Any]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if not dataclasses.is_dataclass(hints[name]):
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        sets[name] = typing.cast(type[Any], hints[name])
        annotations = typing.get_type_hints(hints[name], include_extras=True)
        for entry in dataclasses.fields(hints[name]):
            default = inspect.Parameter.empty if entry.default is dataclasses.MISSING else entry.default
            parameters.append(
                inspect.Parameter(
                    entry.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotations[entry.name]
                )
            )

    @functools.wraps(command)
    def called(**given: Any) -> None:
        grouped = {
            name: kind(**{entry.name: given.pop(entry.name) for entry in dataclasses.fields(kind)})
            for name, kind in sets.items()
        }
        command(**grouped, **given)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called
