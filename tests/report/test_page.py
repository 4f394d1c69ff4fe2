"""The page of a run: what its heading says, the recipe's title, what the user kept out of the cut, the search."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from secateur.cost import Budget
from secateur.graph import Plan, trace
from secateur.methods import Magnitude
from secateur.models import build_model
from secateur.record import Evaluation, FrontPoint, Measurement, RunRecord, WidthSearch
from secateur.record import environment as environment_now
from secateur.report import report_markdown, result_facts
from secateur.report.page import exact_grid

NAMES = {"model": {"spec": "vgg16"}, "data": {"spec": "cifar10"}}


def evaluation(top1: float, samples: int = 1000, top5: float = 1.0) -> Evaluation:
    return Evaluation(loss=0.25, top1=top1, top5=top5, samples=samples)


def record(*, validation: Evaluation | None = None, test: Evaluation | None = None, **settings: Any) -> RunRecord:
    dense = Measurement(validation=validation or evaluation(0.9, 144), test=test or evaluation(0.9371))
    return RunRecord(
        run_id="1",
        command=("secateur", "prune"),
        environment=environment_now(),
        settings={**NAMES, **settings},
        measurements={"dense": dense, "tuned": replace(dense, test=evaluation(0.9))},
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    model = build_model("digits-resnet")
    return Magnitude().decide(trace(model, torch.zeros(2, 1, 8, 8)), model, Budget(macs=0.5))


@pytest.mark.parametrize(
    ("settings", "done"),
    [
        ({"budget": {"macs": 0.5}, "method": {"name": "l1", "ratios": {}}}, "cut to a budget"),
        ({"method": {"name": "l1", "ratios": {"layer3.*": 0.5}}}, "cut by ratios"),
        ({"max_drop": {"points": 3.0}}, "the smallest within 3 points"),
        ({"max_drop": {"points": 0.5}, "budget": {"params": 0.5}}, "the smallest within 0.5 points"),
        ({"max_drop": {"points": 1}}, "the smallest within 1 point"),
        ({"budget": {"macs": 0.5}, "control": "scratch"}, "cut to a budget, trained from scratch as a control"),
        ({}, "cut as the method decides"),
    ],
)
def test_the_heading_says_what_decided_the_cut(settings: dict[str, Any], done: str, plan: Plan) -> None:
    assert report_markdown(record(**settings), plan).splitlines()[0] == f"# vgg16 on cifar10: {done}"
    nameless = replace(record(), settings=settings)
    assert report_markdown(nameless, plan).splitlines()[0] == f"# {done[0].upper()}{done[1:]}"


def test_the_title_of_the_recipe_is_the_heading(plan: Plan) -> None:
    lines = report_markdown(record(title="VGG-16 at\nhalf", budget={"macs": 0.5}), plan).splitlines()
    assert lines[:3] == ["# VGG-16 at half", "", "vgg16 on cifar10: cut to a budget."]


def test_what_the_user_kept_out_of_the_cut_is_listed(plan: Plan) -> None:
    def cut_section(method: dict[str, Any]) -> str:
        return report_markdown(record(method=method), plan).partition("## What was cut")[2].partition("\n## ")[0]

    assert "(`method.lock`): `layer1.*`, `conv1`." in cut_section({"lock": ["layer1.*", "conv1"]})
    assert "(`method.skip`): `layer2.0.conv1`." in cut_section({"skip": ["layer2.0.conv1"]})
    assert "Left alone" not in cut_section({"skip": [], "lock": []})


def test_the_search_is_shown_where_there_was_one(plan: Plan) -> None:
    files = {"tradeoff": "tradeoff.md", "tradeoff_png": "tradeoff.png", "tradeoff_svg": "tradeoff.svg", "new_kind": "x"}
    page = report_markdown(replace(record(), files=files), plan)
    assert "[table](tradeoff.md)" in page
    assert "](tradeoff.png)" in page
    assert "* **trade-off, PNG**: tradeoff.png" in page
    assert "* **new kind**: x" in page
    undrawn = report_markdown(replace(record(), files={"tradeoff": "tradeoff.md"}), plan)
    assert "[table](tradeoff.md)" in undrawn
    assert "![" not in undrawn
    assert "Accuracy against budget" not in report_markdown(record(), plan)


def test_a_control_is_called_from_scratch(plan: Plan) -> None:
    assert [row[0] for row in exact_grid(record(control="scratch")).rows] == ["dense", "from scratch"]
    assert "fine-tuned" not in report_markdown(record(control="scratch"), plan)


def test_both_splits_are_counted(plan: Plan) -> None:
    assert dict(result_facts(record()))["samples"] == "144 validation, 1,000 test"
    assert "Samples: 144 validation, 1,000 test." in report_markdown(record(), plan)
    assert "samples" not in dict(result_facts(replace(record(), measurements={})))
    assert "Samples" not in report_markdown(replace(record(), measurements={}), plan)


def notes(of: RunRecord) -> list[str]:
    return [text for label, text in result_facts(of) if label == "note"]


def test_few_samples_are_warned_about() -> None:
    assert notes(record(validation=evaluation(0.9, 99), test=evaluation(0.9, 100))) == [
        "99 validation samples: one sample is 1.01 points of top-1"
    ]
    assert notes(record(validation=evaluation(0.9, 40), test=evaluation(1.0, 1))) == [
        "40 validation samples: one sample is 2.5 points of top-1",
        "1 test sample: one sample is 100 points of top-1",
    ]


def test_a_dense_model_that_guesses_is_warned_about() -> None:
    """Ten classes and 900 samples: chance is 10 %, its standard error √(0.1 · 0.9 / 900) = 1 %, the limit 12 %."""
    ten = {"spec": "vgg16", "num_classes": 10}
    (note,) = notes(record(model=ten, test=evaluation(0.12, 900)))
    assert "12.00 % on test, where guessing gives up to 12.00 %;" in note
    assert notes(record(model=ten, test=evaluation(0.1201, 900))) == []
    (note,) = notes(record(model=ten, test=evaluation(0.1, 900), validation=evaluation(0.1, 900)))
    assert "10.00 % on validation, where guessing gives up to 12.00 % and 10.00 % on test" in note


def test_a_super_net_before_its_training_is_no_dense_model() -> None:
    point = FrontPoint(widths={"conv": 4}, accuracy=0.9, macs=9, params=9, size_bytes=9, activation_bytes=9)
    search = WidthSearch(fingerprint="f", samples=9, sizes={"conv": 4}, front=(point,), chosen=0)
    of = record(model={"spec": "vgg16", "num_classes": 10}, test=evaluation(0.12, 900))
    (note,) = notes(replace(of, width_search=search))
    assert "super-net before it was trained" in note
    assert "Train the dense model" not in note


def test_the_top5_tells_of_guessing_where_the_classes_are_not_known() -> None:
    """Right for 50 % of five guesses: 10 % each."""
    (note,) = notes(record(test=evaluation(0.12, 900, top5=0.5)))
    assert "guessing gives up to 12.00 %" in note
    assert notes(record(test=evaluation(0.13, 900, top5=0.5))) == []
    assert notes(record(test=evaluation(0.3, 900, top5=0.7))) == []
    # Of at most five classes the top-5 is always right, which tells nothing.
    assert notes(record(test=evaluation(0.2, 900, top5=1.0))) == []
    assert len(notes(record(test=evaluation(0.2, 900, top5=1.0), model={"spec": "vgg16", "num_classes": 5}))) == 1


def test_a_plan_of_blocks_alone_is_told_in_words_of_blocks() -> None:
    graph = trace(build_model("digits-resnet"), torch.zeros(2, 1, 8, 8))
    names = sorted(block.name for block in graph.blocks if block.locked is None)
    page = report_markdown(record(), graph.drop_blocks(names))
    section = page.partition("## What was cut")[2].partition("\n## ")[0]
    assert section.split("\n")[2:] == [
        "| block | kept |",
        "| --- | ---: |",
        *(f"| {name} | dropped whole |" for name in names),
        "",
    ]
    assert "unit" not in page
