"""The figure of a run, looked at with matplotlib's own renderer: no text on a text, none outside, marks to be seen."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.graph import Plan, trace
from secateur.models import build_model
from secateur.record import EpochMeasurement, Evaluation, Measurement, RunRecord, TrainResult
from secateur.record import environment as environment_now
from secateur.report.figure import _figure, write_figure

pytest.importorskip("matplotlib", reason="the figure is drawn by it")


def evaluation(top1: float) -> Evaluation:
    return Evaluation(loss=0.25, top1=top1, top5=1.0, samples=1000)


def measured(top1: float, macs: int) -> Measurement:
    return Measurement(test=evaluation(top1), macs=macs)


def phase(name: str, *accuracies: float | None) -> TrainResult:
    epochs = tuple(
        EpochMeasurement(
            epoch=number,
            train_loss=0.5,
            learning_rate=0.01,
            samples=10,
            seconds=1,
            images_per_s=10,
            validation=None if top1 is None else evaluation(top1),
        )
        for number, top1 in enumerate(accuracies)
    )
    return TrainResult(phase=name, epochs=epochs)


def record(*phases: TrainResult, tuned: float = 0.947, cut: float = 0.94, **settings: Any) -> RunRecord:
    return RunRecord(
        run_id="1",
        command=(),
        environment=environment_now(),
        settings=settings,
        phases=phases,
        measurements={
            "dense": measured(0.955, 1_648_256),
            "cut": measured(cut, 1_600_000),
            "tuned": measured(tuned, 1_600_000),
        },
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    model = build_model("digits-resnet")
    graph = trace(model, torch.zeros(2, 1, 8, 8))
    return graph.plan({group.name: range(group.size // 2) for group in graph.groups if group.prunable})


def groups(plan: Plan, number: int) -> Plan:
    """Return the plan with as many groups, whose names are long."""
    names = [f"features.stage{index}.block{index}.conv{index}" for index in range(number)]
    return replace(plan, kept=dict.fromkeys(names, tuple(range(8))), sizes=dict.fromkeys(names, 16))


def drawn_texts(figure: Any) -> tuple[list[tuple[str, Any]], tuple[int, int]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text() and artist.get_visible())
    # Labels of ticks beyond the ends of an axis exist, but are not drawn.
    beyond = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        if not min(axis.get_view_interval()) <= tick <= max(axis.get_view_interval())
    }
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text not in beyond]
    return boxes, canvas.get_width_height()


LAYERS = tuple(phase(f"layer-{number}", 0.9, 0.91) for number in range(1, 9))
CASES = {
    "near": (record(phase("finetune", 0.9, 0.95)), 9),
    "equal": (record(phase("finetune", 0.9), tuned=0.94), 9),
    "far": (record(phase("dense", 0.5, 0.9), phase("finetune", 0.3), cut=0.1), 2),
    "one group": (record(phase("finetune", 0.9)), 1),
    "27 groups": (record(phase("finetune", 0.9)), 27),
    "100 groups": (record(phase("finetune", 0.9)), 100),
    "phases": (record(phase("dense", 0.5), *LAYERS, phase("recover-1", 0.5), phase("step-2", 0.5), *LAYERS), 9),
    "untrained": (record(), 9),
    "unseen": (record(phase("finetune", None, None)), 9),
}


@pytest.mark.parametrize("case", CASES)
def test_no_text_leaves_the_picture_or_covers_another(case: str, plan: Plan) -> None:
    found, number = CASES[case]
    texts, (width, height) = drawn_texts(_figure(found, groups(plan, number)))
    for text, box in texts:
        assert box.x0 >= 0, text
        assert box.x1 <= width, text
        assert box.y0 >= 0, text
        assert box.y1 <= height, text
    # The boxes of slanted names are wider than the names, so these are left out.
    level = [(text, box) for text, box in texts if "conv" not in text or number > 24]
    for (one, box), (other, other_box) in combinations(level, 2):
        apart = (
            box.x1 <= other_box.x0 + 0.5
            or other_box.x1 <= box.x0 + 0.5
            or box.y1 <= other_box.y0 + 0.5
            or other_box.y1 <= box.y0 + 0.5
        )
        assert apart, (one, other)


@pytest.mark.parametrize("case", CASES)
def test_legends_cover_no_axes(case: str, plan: Plan) -> None:
    found, number = CASES[case]
    figure = _figure(found, groups(plan, number))
    drawn_texts(figure)
    for axes in figure.axes:
        legend = axes.get_legend()
        if legend is not None:
            box, inside = legend.get_window_extent(), axes.get_window_extent()
            assert box.y1 <= inside.y0 or box.y0 >= inside.y1


def test_the_models_are_named_as_in_the_tables(plan: Plan) -> None:
    def named(found: RunRecord) -> list[str]:
        return [text.get_text() for text in _figure(found, plan).axes[1].get_legend().get_texts()]

    assert named(record()) == [
        "dense: 95.5 % at 1.648M MACs",
        "cut: 94.0 % at 1.6M MACs",
        "fine-tuned: 94.7 % at 1.6M MACs",
    ]
    assert named(record(control="scratch"))[2] == "from scratch: 94.7 % at 1.6M MACs"


def test_marks_of_models_differ_in_shape_and_size(plan: Plan) -> None:
    """Of two models at one place both are seen: the second is smaller, and drawn later."""
    lines = _figure(record(tuned=0.94), plan).axes[1].lines
    assert len({line.get_marker() for line in lines}) == 3
    sizes = [line.get_markersize() for line in lines]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_epochs_are_whole_numbers_from_one_and_every_one_has_a_mark(epochs: int, plan: Plan) -> None:
    figure = _figure(record(phase("finetune", *[0.9] * epochs)), plan)
    drawn_texts(figure)
    training = figure.axes[2]
    low, high = training.get_xlim()
    ticks = [tick for tick in training.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == round(tick) and 1 <= tick <= epochs for tick in ticks)
    (line,) = training.lines
    assert line.get_marker() == "o"
    assert list(line.get_xdata()) == list(range(1, epochs + 1))


def test_phases_that_differ_in_number_share_a_line_of_the_legend(plan: Plan) -> None:
    phases = (phase("dense", 0.5, 0.6), phase("layer-1", 0.7), phase("layer-2", 0.8), phase("finetune", 0.9))
    training = _figure(record(*phases), plan).axes[2]
    assert [text.get_text() for text in training.get_legend().get_texts()] == [
        "dense",
        "layer-1 … layer-2",
        "finetune",
    ]
    assert [list(line.get_xdata()) for line in training.lines] == [[1, 2], [3], [4], [5]]
    colours = [line.get_color() for line in training.lines]
    assert colours[1] == colours[2]
    assert len(set(colours)) == 3


def test_equal_runs_give_equal_files(plan: Plan, tmp_path: Path) -> None:
    found = CASES["phases"][0]
    for name in ("one.png", "two.png"):
        assert write_figure(tmp_path / name, found, plan)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    write_figure(tmp_path / "other.png", replace(found, settings={"control": "scratch"}), plan)
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "other.png").read_bytes()


def test_blocks_that_go_alone_are_drawn_with_what_went_with_each() -> None:
    model = build_model("digits-resnet")
    graph = trace(model, torch.zeros(2, 1, 8, 8))
    names = [block.name for block in graph.blocks if block.locked is None]
    axes = _figure(record(), graph.drop_blocks(names)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == sorted(names)
    numbers = [
        len(torch.nn.utils.parameters_to_vector(model.get_submodule(name).parameters())) for name in sorted(names)
    ]
    buffers = [sum(b.numel() for b in model.get_submodule(name).buffers()) for name in sorted(names)]
    expected = [(one + other) / 1000 for one, other in zip(numbers, buffers, strict=True)]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(expected)
    assert "unit" not in axes.get_ylabel() + axes.get_title()
    group = next(group for group in graph.groups if group.prunable)
    both = graph.plan({group.name: [0]}, blocks=names[:1])
    assert _figure(record(), both).axes[0].get_title(loc="left") == "Units per group, and 1 block dropped whole"
