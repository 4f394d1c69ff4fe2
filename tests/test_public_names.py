"""The top package: every public name resolves, and importing it is cheap."""

import subprocess
import sys

import pytest

import secateur


@pytest.mark.parametrize("name", secateur.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(secateur, name) is not None
    assert name in dir(secateur)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prume'"):
        _ = secateur.prume


def test_importing_secateur_does_not_import_torch() -> None:
    code = "import sys, secateur; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pydantic')))"
    subprocess.run([sys.executable, "-c", code], check=True)
