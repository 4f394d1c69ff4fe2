"""The figures of pruning steps: what is drawn, read from the figures themselves, and files that are the same again."""

import builtins
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secateur.record import Evaluation, Measurement, PruningStep, RunRecord, environment, read_steps
from secateur.report.pruning_steps import STEP_FILES, accuracy_figure, kept_figure, write_pruning_steps
from secateur.report.step_scores import PANELS, score_figure, whole_sizes

pytest.importorskip("matplotlib", reason="figures need matplotlib")
from matplotlib.text import Text


def step(number: int, scores: dict[str, tuple[float, ...]], kept: dict[str, int], **other: object) -> PruningStep:
    values: dict[str, object] = {"phase": "tick-1", "macs": 10_000_000 - number * 1_000_000, "params": 7, **other}
    removed = sum(len(scores[name]) - left for name, left in kept.items())
    return PruningStep(number=number, scores=scores, kept=kept, removed=removed, **values)  # type: ignore[arg-type]


STEPS = (
    step(
        1,
        {"conv1": (0.0, 0.1, 1.0, 10.0), "conv2": (1.0, 2.0)},
        {"conv1": 2, "conv2": 2},
        accuracy=0.9,
        phase="dense",
    ),
    step(2, {"conv1": (1.0, 10.0), "conv2": (0.5, 2.0)}, {"conv1": 2, "conv2": 1}, accuracy=0.85, phase="tock-1"),
    step(3, {"conv1": (1.0, 10.0), "conv2": (2.0,)}, {"conv1": 1, "conv2": 1}, accuracy=0.8, phase="tock-12"),
)


def test_kept_shares_by_hand() -> None:
    axes = kept_figure(STEPS).axes[0]
    # A column for the dense model and one per step.
    np.testing.assert_allclose(axes.images[0].get_array(), [[100, 50, 50, 25], [100, 100, 50, 50]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv1", "conv2"]
    right = axes.child_axes[0]
    assert [label.get_text() for label in right.get_yticklabels()] == ["1 of 4", "1 of 2"]


def test_a_layer_that_a_step_does_not_score_stays_as_it_was() -> None:
    steps = (STEPS[0], step(2, {"conv1": (1.0, 10.0)}, {"conv1": 1}))
    np.testing.assert_allclose(kept_figure(steps).axes[0].images[0].get_array(), [[100, 50, 25], [100, 100, 100]])
    assert whole_sizes(steps) == {"conv1": 4, "conv2": 2}


def test_the_spread_of_scores_by_hand() -> None:
    first, second = score_figure(STEPS).axes[:2]
    assert first.get_title() == "conv1  4→1"
    assert first.get_yscale() == "log"
    low = first.get_ylim()[0]
    assert 0 < low < 0.1  # scores of 0 lie on the lower edge
    whole, middle = (lines.get_segments() for lines in first.collections)
    np.testing.assert_allclose([segment[:, 1] for segment in whole], [[low, 10.0], [1.0, 10.0], [1.0, 10.0]])
    # Of four scores the first decile lies 0.3 of the way from the first to the second.
    np.testing.assert_allclose(middle[0][:, 1], [max(low, 0.03), 1 + 0.7 * 9])
    median, cut = first.lines
    np.testing.assert_allclose(median.get_ydata(), [0.55, 5.5, 5.5])
    # Two went at the first step and one at the third: the highest scores among them.
    np.testing.assert_allclose(cut.get_xydata(), [[1, 0.1], [3, 1.0]])
    np.testing.assert_allclose(second.lines[1].get_xydata(), [[2, 0.5]])


def test_scores_that_may_be_negative_have_a_linear_scale() -> None:
    steps = (step(1, {"a": (-0.2,), "b": (0.3,)}, {"a": 0, "b": 1}),)
    axes = score_figure(steps).axes[0]
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] < -0.2
    assert score_figure((step(1, {"a": (0.0,)}, {"a": 1}),)).axes[0].get_yscale() == "linear"


def test_scores_near_together_have_a_linear_scale_from_zero() -> None:
    axes = score_figure((step(1, {"a": (1.0, 2.0), "b": (3.0,)}, {"a": 1, "b": 1}),)).axes[0]
    assert (axes.get_yscale(), axes.get_ylim()[0]) == ("linear", 0.0)


def test_many_layers_and_steps_are_bands_and_a_choice_of_panels() -> None:
    names = [f"layer{number}" for number in range(2 * PANELS)]
    steps = [step(n, dict.fromkeys(names, (1.0, 2.0)), dict.fromkeys(names, 2)) for n in range(1, 20)]
    figure = score_figure(steps)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert [title.split()[0] for title in titles] == names[::2]
    assert f"({PANELS} of {2 * PANELS} layers)" in figure.get_suptitle()
    assert len(figure.axes[0].collections) == 2  # two bands, whatever the number of steps
    labels = [label.get_text() for label in kept_figure(steps).axes[0].get_yticklabels()]
    assert labels == names[::2]


def record() -> RunRecord:
    measured = {
        "dense": Measurement(validation=Evaluation(loss=0.1, top1=0.95, top5=1.0, samples=10), macs=10_000_000),
        "tuned": Measurement(validation=Evaluation(loss=0.1, top1=0.94, top5=1.0, samples=10), macs=7_000_000),
        "cut": Measurement(validation=Evaluation(loss=0.1, top1=0.1, top5=1.0, samples=10), macs=7_000_000),
    }
    return RunRecord(run_id="r", command=(), environment=environment("cpu"), measurements=measured)


def test_accuracy_against_compute_by_hand() -> None:
    axes = accuracy_figure(STEPS, record()).axes[0]
    line, *points = axes.lines
    np.testing.assert_allclose(line.get_xydata(), [[9, 90], [8, 85], [7, 80]])
    drawn = {mark.get_label(): mark.get_xydata().tolist() for mark in points}
    assert drawn == {
        "right after a cut (phase before it: dense)": [[9, 90]],
        # Phases that differ in their number alone are of one kind.
        "right after a cut (phase before it: tock)": [[8, 85], [7, 80]],
        "dense: 95.0 % at 10M MACs": [[10, 95]],
        "fine-tuned: 94.0 % at 7M MACs": [[7, 94]],
    }


def test_every_kind_of_point_has_a_mark_of_its_own() -> None:
    axes = accuracy_figure(STEPS, record()).axes[0]
    _, *points = axes.lines
    marks = [mark.get_marker() for mark in points]
    assert len(set(marks)) == len(points) == 4
    assert len({mark.get_color() for mark in points}) == 4
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [mark.get_label() for mark in points]


BLOCKS = (
    step(1, {"layer1": (0.2,), "layer2": (0.1,)}, {"layer1": 1, "layer2": 0}, accuracy=0.9, level="block"),
    step(2, {"layer1": (0.3,)}, {"layer1": 1}, accuracy=0.8, level="block"),
)


def words(figure: Any) -> str:
    """Return all that is written in a figure."""
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text())
    return " | ".join(text.get_text() for text in texts)


def test_steps_that_drop_blocks_are_told_in_words_of_blocks() -> None:
    figures = {
        "kept": kept_figure(BLOCKS),
        "scores": score_figure(BLOCKS),
        "accuracy": accuracy_figure(BLOCKS),
    }
    for figure in figures.values():
        assert not re.search(r"unit|layer\b|channel", words(figure))
    right = figures["kept"].axes[0].child_axes[0]
    assert [label.get_text() for label in right.get_yticklabels()] == ["stays", "dropped"]
    assert [axes.get_title() for axes in figures["scores"].axes] == ["layer1  stays", "layer2  dropped"]
    assert "right after a drop (phase before it: tick)" in words(figures["accuracy"])
    assert "Units kept per layer" in words(kept_figure(STEPS))


def test_all_is_written_and_equal_steps_give_equal_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        assert write_pruning_steps(tmp_path / folder, STEPS, record()) == STEP_FILES
    assert read_steps(tmp_path / "one" / "steps.json") == STEPS
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(STEP_FILES.values())
    for name in STEP_FILES.values():
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        if name.endswith(".png"):
            assert (tmp_path / "one" / name).read_bytes().startswith(b"\x89PNG")


def test_without_accuracy_there_is_no_curve_and_without_steps_nothing(tmp_path: Path) -> None:
    written = write_pruning_steps(tmp_path / "some", (step(1, {"a": (1.0, 2.0)}, {"a": 1}),))
    assert set(STEP_FILES) - set(written) == {"steps_accuracy_png", "steps_accuracy_svg"}
    assert write_pruning_steps(tmp_path / "none", ()) == {}
    assert not (tmp_path / "none").exists()


def test_without_matplotlib_the_data_is_written_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    real = builtins.__import__

    def without(name: str, *args: object) -> object:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return real(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    assert write_pruning_steps(tmp_path, STEPS) == {"steps": "steps.json"}
    assert read_steps(tmp_path / "steps.json") == STEPS
