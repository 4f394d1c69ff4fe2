"""Folders that an earlier version began: settings that are new since then have their defaults."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file

from secateur.cost import Budget
from secateur.errors import UsageError
from secateur.methods import Magnitude
from secateur.models import build_model
from secateur.recipe import (
    DataChoice,
    ModelChoice,
    Recipe,
    RunDirectory,
    SensitivityRecipe,
    fine_tuning,
    measure_sensitivity,
)
from secateur.recipe.settings import RECIPE
from secateur.record import with_defaults
from secateur.training import Store


def recipe() -> Recipe:
    return Recipe(
        model=ModelChoice(spec="digits-resnet", weights="a.safetensors", weights_fingerprint="abc"),
        data=DataChoice(spec="digits"),
        budget=Budget(macs=0.5),
        method=Magnitude(finetune=fine_tuning()),
    )


def written_by_an_earlier_version(folder: Path, change: dict[str, Any] | None = None) -> RunDirectory:
    """Begin a run, and take out of its recipe what an earlier version did not know."""
    place = RunDirectory(folder)
    place.begin(recipe())
    path = place.path("recipe")
    mark, values = path.read_text().splitlines()[0], yaml.safe_load(path.read_text())
    for settings in (values["train"], values["method"]["finetune"]):
        del settings["pixel_auxiliary_weight"]
    del values["model"]["fold_weight_standardisation"]
    values |= change or {}
    path.write_text(f"{mark}\n{yaml.safe_dump(values, sort_keys=False)}")
    return place


def test_a_run_of_an_earlier_version_is_known_again(tmp_path: Path) -> None:
    place = written_by_an_earlier_version(tmp_path / "run")
    before = place.path("recipe").read_bytes()
    assert place.enter(recipe()) is None  # it continues
    place.begin(recipe())
    assert place.path("recipe").read_bytes() == before


def test_a_new_setting_that_is_not_the_default_makes_another_run(tmp_path: Path) -> None:
    place = written_by_an_earlier_version(tmp_path / "run")
    other = replace(recipe(), train=replace(recipe().train, pixel_auxiliary_weight=0.25))
    with pytest.raises(UsageError, match=r"train\.pixel_auxiliary_weight = 0\.5, but this one has 0\.25"):
        place.enter(other)
    with pytest.raises(UsageError, match=r"seed = 0, but this one has 1"):
        place.enter(replace(recipe(), seed=1))


def test_a_setting_that_this_version_does_not_know_is_a_difference(tmp_path: Path) -> None:
    place = written_by_an_earlier_version(tmp_path / "run", {"gone_since": 3})
    with pytest.raises(UsageError, match=r"holds a run with .*; choose another --out"):
        place.enter(recipe())


def test_filling_in_defaults_changes_nothing_that_is_there() -> None:
    values = recipe().to_json()
    assert with_defaults(deepcopy(values), RECIPE) == values
    assert with_defaults({"seed": "many"}, RECIPE) == {"seed": "many"}


def test_a_scan_of_an_earlier_version_is_known_again(tmp_path: Path) -> None:
    save_file(build_model("digits-resnet").state_dict(), tmp_path / "weights.safetensors")
    scan = SensitivityRecipe(
        model=ModelChoice(spec="digits-resnet", weights=str(tmp_path / "weights.safetensors")),
        data=DataChoice(spec="digits"),
        shares=(0.5,),
        groups=("layer1.0.conv1",),
        limit=16,
    )
    first = measure_sensitivity(scan, tmp_path / "scan")
    store = Store(tmp_path / "scan" / "checkpoint")
    entry = store.recall("settings")
    assert entry is not None
    assert isinstance(entry.values, dict)
    settings: Any = deepcopy(entry.values)
    del settings["model"]["fold_weight_standardisation"]
    del settings["data"]["train_share"]
    store.keep("settings", settings)
    again = measure_sensitivity(scan, tmp_path / "scan")
    assert again.was_complete
    assert again.sensitivity == first.sensitivity
    with pytest.raises(UsageError, match="holds another scan: it has limit = 16, but this one has 8"):
        measure_sensitivity(replace(scan, limit=8), tmp_path / "scan")
