"""A run of AutoSlim that is really killed, and continued by fresh processes, gives the same plan and weights."""

from pathlib import Path

from own_process import run, run_here

SCRIPT = Path(__file__).with_name("autoslim_killed_run.py")


# Training takes 7 batches and writes at batches 3 and 6 and at its end. So the first death is in the super-net's
# training, the second in the middle of the search's third step, the third in that of its next, the fourth in the
# training of what was found, behind the two batches that measure its batch norm.
def test_killed_and_continued_equals_unbroken(tmp_path: Path) -> None:
    unbroken, continued = tmp_path / "unbroken.safetensors", tmp_path / "continued.safetensors"
    run_here(SCRIPT, tmp_path / "one", unbroken, "autoslim")
    data = tmp_path / "other" / "data"
    run(SCRIPT, tmp_path / "other", continued, "autoslim", "batch:5", killed=True)
    for death in ("write:5", "write:2"):
        run(SCRIPT, tmp_path / "other", continued, "autoslim", death, killed=True)
        assert [path.name[:7] for path in data.glob(".*.part")] == [".front."]
    run(SCRIPT, tmp_path / "other", continued, "autoslim", "batch:6", killed=True)
    assert (tmp_path / "other" / "phases" / "finetune.safetensors").is_file()
    assert not continued.exists()
    run(SCRIPT, tmp_path / "other", continued, "autoslim")
    assert continued.read_bytes() == unbroken.read_bytes()
