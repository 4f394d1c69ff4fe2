import json
from pathlib import Path

import pytest

from secateur.errors import ArtifactError
from secateur.record import PruningStep, read_steps, write_steps


def steps() -> tuple[PruningStep, ...]:
    first = PruningStep(
        number=1,
        phase="tick-1",
        scores={"conv1": (0.0, 0.5, float("inf")), "conv2": (1.0,)},
        kept={"conv1": 2, "conv2": 1},
        macs=100,
        params=20,
        removed=1,
        accuracy=0.5,
    )
    return (first, PruningStep(number=2, phase="tick-2", scores={}, kept={}, macs=90, params=18, removed=1))


def test_steps_survive_the_disk(tmp_path: Path) -> None:
    write_steps(tmp_path / "steps.json", steps())
    assert read_steps(tmp_path / "steps.json") == steps()


def test_what_is_no_list_of_steps_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    with pytest.raises(ArtifactError, match="cannot read"):
        read_steps(path)
    write_steps(path, steps())
    written = json.loads(path.read_text())
    path.write_text(json.dumps({**written, "format": 99}))
    with pytest.raises(ArtifactError, match="format 99, but this version reads format 1"):
        read_steps(path)
    del written["steps"][1]["level"]  # as files of an earlier version are
    path.write_text(json.dumps(written))
    assert read_steps(path) == steps()
    written["steps"][0]["colour"] = "red"
    path.write_text(json.dumps(written))
    with pytest.raises(ArtifactError, match=r"not a list of pruning steps: steps\.0\.colour"):
        read_steps(path)
