"""A run of ThiNet that is really killed, and continued by fresh processes, gives the same plan, records and weights."""

from pathlib import Path

from own_process import run, run_here

SCRIPT = Path(__file__).with_name("thinet_killed_run.py")


# Each layer is looked at on 2 batches, batch norm is measured anew on 1 and training takes 7, so that the sixth is in
# the training after the first layer. From there the first three files that a process writes belong to that training;
# then come what the second layer is decided by, its weights, the decision, and the batch norm of the cut model.
def test_killed_and_continued_equals_unbroken(tmp_path: Path) -> None:
    unbroken, continued = tmp_path / "unbroken.safetensors", tmp_path / "continued.safetensors"
    run_here(SCRIPT, tmp_path / "one", unbroken, "thinet")
    data = tmp_path / "other" / "data"
    run(SCRIPT, tmp_path / "other", continued, "thinet", "batch:6", killed=True)
    assert (data / "chosen-1.safetensors").is_file()
    for death, unfinished in (("write:5", "chosen-2"), ("write:3", "plan-2"), ("write:4", "restored-2")):
        run(SCRIPT, tmp_path / "other", continued, "thinet", death, killed=True)
        assert any(path.name.startswith(f".{unfinished}.") for path in data.glob(".*.part")), list(data.glob(".*"))
        assert not continued.exists()
    run(SCRIPT, tmp_path / "other", continued, "thinet")
    assert continued.read_bytes() == unbroken.read_bytes()
