import json
from pathlib import Path

import pytest
import torch

from secateur.errors import ArtifactError, UsageError
from secateur.record import (
    EpochMeasurement,
    Evaluation,
    Latency,
    Measurement,
    Proof,
    RunLog,
    RunRecord,
    TrainResult,
    environment,
    read_log,
    read_record,
    write_record,
)


def full_record() -> RunRecord:
    evaluation = Evaluation(loss=0.25, top1=0.9, top5=1.0, samples=10)
    epoch = EpochMeasurement(
        epoch=0,
        train_loss=float("inf"),  # a network that was cut too deep has one
        learning_rate=0.1,
        samples=10,
        seconds=0.5,
        images_per_s=20.0,
        validation=evaluation,
    )
    latency = Latency(median_ms=1.5, spread_ms=0.1, repeats=20)
    return RunRecord(
        run_id="r1",
        command=("secateur", "prune", "--macs", "0.5"),
        environment=environment(),
        settings={"macs": 0.5, "nested": {"list": [1, None, "a"]}},
        seeds={"run": 0},
        phases=(TrainResult(phase="recover", epochs=(epoch,), resumed=1, bit_for_bit=False, notes=("why",)),),
        measurements={"dense": Measurement(test=evaluation, macs=10, latency=latency), "cut": Measurement(params=3)},
        proof=Proof(verdict="exact", relative_error=1e-12, float32_error=1e-6),
        locked={"fc": "output of the model"},
        files={"model": "model.safetensors"},
        notes=("momentum 0 as in the code, not the paper",),
    )


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    write_record(tmp_path / "record.json", full_record())
    assert read_record(tmp_path / "record.json") == full_record()


def test_a_record_is_standard_json(tmp_path: Path) -> None:
    write_record(tmp_path / "record.json", full_record())

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    json.loads((tmp_path / "record.json").read_text(), parse_constant=refuse)


def test_a_record_knows_whether_it_was_continued() -> None:
    record = full_record()
    assert record.resumed
    assert not record.bit_for_bit
    assert record.phases[0].last is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record | {"colour": 1}, "colour"),
        (lambda record: record["environment"].update(gpu="x") or record, "environment.gpu"),
        (lambda record: record | {"format": 99}, "format 99"),
        (lambda record: {key: record[key] for key in record if key != "run_id"}, "run_id"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "record.json"
    write_record(path, full_record())
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ArtifactError, match=message):
        read_record(path)


def test_missing_and_broken_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        read_record(tmp_path / "absent.json")
    (tmp_path / "half.json").write_text('{"run_id": ')
    with pytest.raises(ArtifactError, match="not a run record"):
        read_record(tmp_path / "half.json")


def test_environments_differ_by_name_and_value() -> None:
    here = environment()
    assert here.differences(environment()) == ()
    assert here.torch == torch.__version__
    there = environment(world_size=2)
    assert here.differences(there) == ("world_size 1 → 2",)


def test_the_log_goes_on_after_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "run" / "log.jsonl"
    RunLog(path, clock=lambda: 1.5).append("phase", name="recover", epoch=0)
    with path.open("a") as file:
        file.write('{"event": "kil')  # as a killed run leaves it
    RunLog(path, clock=lambda: 2.5).append("phase", name="recover", epoch=1)
    assert read_log(path) == (
        {"event": "phase", "time": 1.5, "name": "recover", "epoch": 0},
        {"event": "phase", "time": 2.5, "name": "recover", "epoch": 1},
    )


def test_a_log_that_cannot_be_written_or_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        RunLog(tmp_path / "file" / "log.jsonl").append("x")
    with pytest.raises(UsageError, match="cannot read"):
        read_log(tmp_path / "absent")
