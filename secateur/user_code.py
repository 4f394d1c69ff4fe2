"""Run a function of the user's own file (``path/file.py:function``); its failures become one sentence."""

import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from secateur.errors import SecateurError, UsageError
from secateur.names import unknown_name

_Result = TypeVar("_Result")

_SPEC = re.compile(r"^(?P<path>.+\.py):(?P<function>[^:/\\]*)$")


def names_user_code(spec: str) -> bool:
    """Say whether ``spec`` has the form ``file.py:function``."""
    return _SPEC.match(spec) is not None


def code_path(spec: str) -> Path | None:
    """Return the path of the file in ``file.py:function``, or None where ``spec`` has not this form."""
    match = _SPEC.match(spec)
    return None if match is None else Path(match["path"]).expanduser()


def call_user_function(
    spec: str, *, allow_code: bool, error: type[SecateurError], arguments: dict[str, object] | None = None
) -> object:
    """Call ``function(**arguments)`` of the file that ``spec`` names.

    Args:
        spec: ``path/file.py:function``. The file's folder is put at the end of ``sys.path``, so that it may
            import its neighbours.
        allow_code: False refuses to run anything; for names that come out of a saved file and not from the
            user.
        error: what an exception inside the user's code becomes.
        arguments: keyword arguments of the call.

    Raises:
        UsageError: code is not allowed, the file is missing, or it has no such function (the nearest is
            suggested).
        error: the user's code raised; the message names its file and line.
    """
    match = _SPEC.match(spec)
    if match is None:
        raise UsageError(f"{spec!r} does not name a function; write it as path/file.py:function")
    if not allow_code:
        raise UsageError(
            f"{spec} is Python code, and running code is not allowed here; name it on the command line yourself"
        )
    path = Path(match["path"]).expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {match['path']}; give the path of a Python file, as path/file.py:function")
    module = _guarded(lambda: _load_module(path), path, spec, error)
    function = _function_of(module, match["function"], match["path"])
    _check_arguments(function, arguments or {}, spec, error)
    return _guarded(lambda: function(**(arguments or {})), path, spec, error)


def describe_failure(error: BaseException, path: Path | None = None) -> str:
    """Return ``ErrorType: message (file, line n)`` with the innermost line of ``path``, or of any file."""
    if isinstance(error, SyntaxError):
        place = f"{Path(error.filename or '?').name}, line {error.lineno}"
        return f"{type(error).__name__}: {error.msg} ({place})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if path is not None and Path(frame.filename) == path]
    text = " ".join(str(error).split()) or "no message"
    if not frames:
        return f"{type(error).__name__}: {text}"
    frame = (own or list(frames))[-1]
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}, line {frame.lineno})"


def _guarded(call: Callable[[], _Result], path: Path, spec: str, error: type[SecateurError]) -> _Result:
    try:
        return call()
    except SecateurError:
        raise
    except (Exception, SystemExit) as failure:
        raise error(f"{spec} failed with {describe_failure(failure, path)}") from failure


def _load_module(path: Path) -> ModuleType:
    """Import the file under a name of its own; an unchanged file is imported once, an edited one again."""
    state = path.stat()
    version = hashlib.blake2b(f"{path}:{state.st_mtime_ns}:{state.st_size}".encode(), digest_size=8).hexdigest()
    name = f"secateur_user_{path.stem}_{version}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(found)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    # Dataclasses and pickling by worker processes look the module up by its name while and after it runs.
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _function_of(module: ModuleType, name: str, shown_path: str) -> Callable[..., object]:
    function = getattr(module, name, None) if name else None
    if callable(function):
        return function  # type: ignore[no-any-return]
    public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if not public:
        raise UsageError(f"{shown_path} defines no function at all, so not {name!r}; write one")
    raise UsageError(f"{shown_path}: {unknown_name('function', name, public)}")


def _check_arguments(
    function: Callable[..., object], arguments: dict[str, object], spec: str, error: type[SecateurError]
) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built-in callables have no signature; the call itself will tell
        return
    try:
        signature.bind(**arguments)
    except TypeError as failure:
        takes_any = any(entry.kind is inspect.Parameter.VAR_KEYWORD for entry in signature.parameters.values())
        unknown = [name for name in arguments if name not in signature.parameters and not takes_any]
        if unknown:
            raise error(
                f"{spec} takes {signature}, so no {' and no '.join(unknown)}; add {' and '.join(unknown)} to the "
                "function's parameters, or do not ask for another value than the function's own"
            ) from failure
        given = ", ".join(arguments) or "no arguments"
        raise error(f"{spec} has the signature {signature} but is called with {given}: {failure}") from failure
