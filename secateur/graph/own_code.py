"""Which code is the model's own, and which of its lines runs."""

import functools
import os
import sys
from pathlib import Path
from types import CodeType, FrameType

import torch

_PACKAGE = Path(__file__).parent.parent
_NETWORKS = f"{_PACKAGE / 'models'}{os.sep}"
_OUTSIDE = (f"{Path(torch.__file__).parent}{os.sep}", f"{_PACKAGE}{os.sep}", "<")


@functools.cache
def own_file(path: str) -> str:
    """Return the name of a file that may hold a model's own code, empty for torch's and this package's.

    The networks that come with this package are models like any other.
    """
    return Path(path).name if path.startswith(_NETWORKS) or not path.startswith(_OUTSIDE) else ""


def running_line(runner: CodeType | None = None) -> str:
    """Return ``file.py:line`` of the innermost frame in a model's own code, empty if there is none.

    Args:
        runner: the function that runs the model: who calls it is not the model. A model of torch's modules alone has
            no line then.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not runner:
        if name := own_file(frame.f_code.co_filename):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
