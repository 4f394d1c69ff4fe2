"""What came back without training, in tables and words, by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from test_result_table import evaluation, record
from torch import nn

from secateur.graph import trace
from secateur.record import Restoration, RestoreStep, read_record, write_record
from secateur.report import report_markdown, restored_facts, restored_grid, result_facts, result_grid
from secateur.report.restored import error_grid, refitted_facts, told_restorations

FOUND = Restoration(
    cut=1,
    steps=(
        RestoreStep(what="cut", validation=evaluation(0.431)),
        RestoreStep(what="least squares", images=512, seconds=1.26, validation=evaluation(0.882)),
        RestoreStep(what="batch norm", images=1000, seconds=0.44, validation=evaluation(0.901)),
    ),
    errors={"layer1.0.conv2": (0.25, 0.03125)},
    left={"gate.fc": "its output is multiplied", "gate.fc2": "its output is multiplied"},
)


def test_one_cut_by_hand() -> None:
    grid = restored_grid((FOUND,))
    assert grid.title == "Restored without training: validation top-1"
    headers = ("cut", "after the cut", "after least squares", "after batch norm", "training images", "seconds")
    assert grid.headers == headers
    assert grid.rows == (("1", "43.10 %", "88.20 %", "90.10 %", "512 + 1,000", "1.3 + 0.4"),)
    errors = error_grid((FOUND,))
    assert errors is not None
    assert errors.rows == (("layer1.0.conv2", "0.2500", "0.0312"),)
    assert restored_facts((FOUND,)) == (
        (
            "restored",
            "top-1 43.10 % right after the cut, 88.20 % after least squares (512 images, 1.3 s), 90.10 % after batch "
            "norm (1,000 images, 0.4 s)",
        ),
        ("not re-fitted", "gate.fc, gate.fc2: its output is multiplied"),
    )


def test_many_cuts_show_the_last_and_what_was_not_measured_is_a_dash() -> None:
    bare = tuple(replace(step, validation=None) for step in FOUND.steps)
    cuts = [replace(FOUND, cut=number, steps=bare) for number in range(1, 30)]
    grid = restored_grid(cuts)
    assert "the last 20 of 29 cuts" in grid.title
    assert [row[0] for row in grid.rows] == [str(number) for number in range(10, 30)]
    assert grid.rows[0][1:4] == ("–", "–", "–")
    assert "not measured right after the cut" in dict(restored_facts(cuts))["restored"]
    idle = replace(FOUND, steps=(bare[0], replace(bare[1], images=0)), errors={})
    assert error_grid((idle,)) is None
    assert "nothing was re-fitted" in idle.in_words()
    assert restored_facts(()) == ()


def test_the_page_of_a_run_has_it_and_the_record_reads_it_back(tmp_path: Path) -> None:
    done = replace(record(), restored=(FOUND,))
    write_record(tmp_path / "record.json", done)
    assert read_record(tmp_path / "record.json") == done
    plan = trace(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)), torch.zeros(1, 1, 2, 2)).plan({"0": [0]})
    page = report_markdown(done, plan)
    assert "## Restored without training: validation top-1" in page
    assert "| layer1.0.conv2 | 0.2500 | 0.0312 |" in page
    assert "restored" in dict(result_facts(done))
    assert "Restored" not in report_markdown(record(), plan)


def test_a_record_of_an_earlier_version_has_nothing_restored(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, record())
    path.write_text(path.read_text().replace('  "restored": [],\n', ""))
    assert "restored" not in path.read_text()
    assert read_record(path) == record()


@pytest.mark.parametrize(("trained", "title"), [(True, "fine-tuned"), (False, "restored")])
def test_what_was_only_restored_is_not_called_fine_tuned(trained: bool, title: str) -> None:
    done = replace(record(), restored=(FOUND,), phases=record().phases if trained else ())
    assert [row[0] for row in result_grid(done).rows] == ["dense", title]


def test_a_model_file_tells_it_without_times_and_another_form_is_no_error() -> None:
    timeless = replace(FOUND, steps=tuple(replace(step, seconds=0.0) for step in FOUND.steps))
    told = told_restorations({"restored": TypeAdapter(Restoration).dump_python(timeless, mode="json")})
    assert told == (timeless,)
    assert dict(restored_facts(told))["restored"] == (
        "top-1 43.10 % right after the cut, 88.20 % after least squares (512 images), 90.10 % after batch norm (1,000 "
        "images)"
    )
    assert refitted_facts(told) == (
        ("re-fitted", "1 layer; largest relative squared error 0.2500 before and 0.0312 after"),
    )
    assert (
        told_restorations({}) == told_restorations({"restored": None}) == told_restorations({"restored": "yes"}) == ()
    )
    assert refitted_facts(()) == refitted_facts((replace(FOUND, errors={}),)) == ()
