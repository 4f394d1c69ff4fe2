"""Runs that prune weights, really killed and continued by fresh processes, give the same masks and weights."""

from pathlib import Path

import pytest
from own_process import run, run_here

SCRIPT = Path(__file__).with_name("weights_killed_run.py")


# An epoch is 7 batches. "weights" measures batch norm on 1 after each pruning and trains on 7, for linear layers and
# then for convolutions: the twelfth is in the retraining of the convolutions. Its continuation ends in the middle of a
# scan of the second round, then of its masks. "surgery" trains 7 before masks change: the eighteenth is in the second
# epoch in which they do; its continuation ends in the middle of writing the final masks.
@pytest.mark.parametrize(
    ("method", "deaths"),
    [
        ("weights", [("batch:12", None), ("write:7", "scan-2-1"), ("write:4", "masks-2")]),
        ("surgery", [("batch:18", None), ("write:3", "masks-1")]),
    ],
)
def test_killed_and_continued_equals_unbroken(
    tmp_path: Path, method: str, deaths: list[tuple[str, str | None]]
) -> None:
    unbroken, continued = tmp_path / "unbroken.safetensors", tmp_path / "continued.safetensors"
    run_here(SCRIPT, tmp_path / "one", unbroken, method)
    for death, unfinished in deaths:
        run(SCRIPT, tmp_path / "other", continued, method, death, killed=True)
        assert not continued.exists()
        if unfinished is not None:
            parts = [path.name for path in (tmp_path / "other").glob("*/.*.part")]
            assert any(name.startswith(f".{unfinished}.") for name in parts), parts
    run(SCRIPT, tmp_path / "other", continued, method)
    assert continued.read_bytes() == unbroken.read_bytes()
