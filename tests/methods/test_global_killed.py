"""Runs in steps that are really killed, and continued by fresh processes, give the same plan, records and weights."""

from pathlib import Path

import pytest
from own_process import run, run_here

SCRIPT = Path(__file__).with_name("global_killed_run.py")


# "global" scores each step on 2 batches and trains on 7 after it, so that the sixth is in the first recovery. "blocks"
# first reads 2 for the model and for each of 4 blocks, so that the twelfth is in its first recovery. The files that the
# second process dies in are the scores and the decision of the second step.
@pytest.mark.parametrize(
    ("method", "deaths"), [("global", ["batch:6", "write:3"]), ("blocks", ["batch:12", "write:4"])]
)
def test_killed_and_continued_equals_unbroken(tmp_path: Path, method: str, deaths: list[str]) -> None:
    unbroken, continued = tmp_path / "unbroken.safetensors", tmp_path / "continued.safetensors"
    run_here(SCRIPT, tmp_path / "one", unbroken, method)
    for death in deaths:
        run(SCRIPT, tmp_path / "other", continued, method, death, killed=True)
        assert not continued.exists()
    begun = [path.name for path in (tmp_path / "other" / "data").glob(".*.part")]
    assert [name.split(".")[1] for name in begun] == [{"global": "scores-2", "blocks": "plan-2"}[method]]
    run(SCRIPT, tmp_path / "other", continued, method)
    assert continued.read_bytes() == unbroken.read_bytes()
