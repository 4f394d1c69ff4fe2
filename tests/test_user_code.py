from pathlib import Path

import pytest

from secateur.errors import DataError, UsageError
from secateur.user_code import call_user_function, names_user_code


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def call(spec: str, **arguments: object) -> object:
    return call_user_function(spec, allow_code=True, error=DataError, arguments=arguments)


@pytest.mark.parametrize(("spec", "is_code"), [("a/b.py:f", True), ("resnet20", False), ("parquet:x.py/d", False)])
def test_which_names_are_code(spec: str, is_code: bool) -> None:
    assert names_user_code(spec) is is_code


def test_the_function_runs_and_may_import_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, "VALUE = 40", "neighbour_of_mine.py")
    path = write(tmp_path, "from neighbour_of_mine import VALUE\ndef f(more): return VALUE + more")
    assert call(f"{path}:f", more=2) == 42


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, "def f(): return 1")
    assert call(f"{path}:f") == 1
    write(tmp_path, "def f(): return 1000")
    assert call(f"{path}:f") == 1000


def test_a_missing_function_suggests_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "def make_data(): pass")
    with pytest.raises(UsageError, match="did you mean 'make_data'"):
        call(f"{path}:make_dta")


def test_a_missing_file_and_forbidden_code_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file .*gone\.py"):
        call(f"{tmp_path}/gone.py:f")
    marker = tmp_path / "ran"
    path = write(tmp_path, f"open({str(marker)!r}, 'w').close()\ndef f(): pass")
    with pytest.raises(UsageError, match="running code is not allowed"):
        call_user_function(f"{path}:f", allow_code=False, error=DataError)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f():\n    return 1 / 0", r"ZeroDivisionError: division by zero \(mine\.py, line 2\)"),
        ("import no_such_package\ndef f(): pass", r"ModuleNotFoundError: .*\(mine\.py, line 1\)"),
        ("def f(:", r"SyntaxError: .*\(mine\.py, line 1\)"),
        ("def f():\n    raise SystemExit(3)", r"SystemExit: 3 \(mine\.py, line 2\)"),
        ("def f(other): pass", r"has the signature \(other\) but is called with no arguments"),
    ],
)
def test_failures_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call(f"{write(tmp_path, text)}:f")
