"""INT8 at the end of a recipe: what is told where it fails after everything else was done."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from secateur.errors import QuantizationError
from secateur.recipe import Quantize
from secateur.recipe.quantizing import after_cut
from secateur.recipe.rundir import RunDirectory


def test_an_accuracy_that_cannot_be_had_names_the_model_that_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise QuantizationError("no mixture keeps within 0 points; allow 3 points")

    for name in ("get_ready", "calibrate"):
        monkeypatch.setattr(after_cut, name, lambda *_, **__: SimpleNamespace())
    monkeypatch.setattr(after_cut, "mend", refuses)
    recipe: Any = SimpleNamespace(quantize=Quantize(max_drop=0), seed=0)
    model: Any = SimpleNamespace(model=nn.Linear(1, 1))
    data: Any = SimpleNamespace()
    measured: Any = SimpleNamespace(measurements={})
    with pytest.raises(QuantizationError, match="allow 3 points; the model itself is done: secateur quantize") as error:
        after_cut.bring_to_int8(
            RunDirectory(tmp_path), recipe, model, data, torch.device("cpu"), model, measured, lambda _: None
        )
    assert str(tmp_path / "model.safetensors") in str(error.value)
