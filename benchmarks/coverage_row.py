"""One row of the coverage benchmark as it grows, on disk after every stage, and how seconds are taken."""

import gc
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coverage_models import Subject, build, example_inputs, run
from torch import nn

from secateur.files import write_text


class Row:
    """A result that is on disk after every stage."""

    def __init__(self, name: str, mode: str, out: Path | None) -> None:
        self.data: dict[str, Any] = {"name": name, "mode": mode, "stage": "start"}
        self._out = out
        self._save()

    def stage(self, name: str) -> None:
        """Say what begins now."""
        self.data["stage"] = name
        self._save()

    def note(self, **values: Any) -> None:
        """Add results."""
        self.data.update(values)
        self.data["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._save()

    def _save(self) -> None:
        if self._out is not None:
            write_text(self._out, json.dumps(self.data))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``work`` gives and the seconds it took."""
    gc.collect()
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def sentence_of(error: BaseException) -> str:
    """Return the kind of an error and its first line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:500] if text else ''}"


def ready(subject: Subject, row: Row) -> tuple[nn.Module, Any]:
    """Build, and time one plain forward after a first that loads what is loaded on first use."""
    row.stage("build")
    model, given = build(subject), example_inputs(subject)
    row.note(model_class=type(model).__qualname__, model_params=sum(p.numel() for p in model.parameters()))
    row.note(input_shape=list(subject.shape), rss_with_model_bytes=row.data["peak_rss_bytes"])
    row.stage("eager forward")
    run(model, given)
    _, seconds = timed(lambda: run(model, given))
    row.note(eager_s=seconds)
    return model, given
