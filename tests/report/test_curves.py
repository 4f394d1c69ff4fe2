"""The curves of a scan: the same bytes each time, nothing outside the picture, and a table worked by hand."""

import importlib.util
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from secateur.measure import GroupSensitivity, Sensitivity, SensitivityPoint
from secateur.record import Evaluation
from secateur.report import sensitivity_facts, sensitivity_grid, write_curves
from secateur.report.curves import _figure, _spread

SHARES = (0.1, 0.5, 0.9)

pytest.importorskip("matplotlib", reason="the curves are drawn by it")


def group(number: int, *, size: int = 16, tied: bool = False) -> GroupSensitivity:
    """Loses ``number`` points at each step."""
    points = tuple(
        SensitivityPoint(
            share=share,
            kept=max(1, round(size * (1 - share))),
            macs_left=1 - share / 10,
            evaluation=Evaluation(loss=1.0, top1=0.9 - (step + 1) * number / 100, top5=1.0, samples=200),
        )
        for step, share in enumerate(SHARES)
    )
    name = f"features.stage{number}.block{number}.conv{number}"
    return GroupSensitivity(name=name, size=size, tied=tied, proof_error=0.0, points=points)


def scan(*groups: GroupSensitivity) -> Sensitivity:
    return Sensitivity(
        model_class="Net",
        macs=2_000_000,
        criterion="l1",
        split="validation",
        shares=SHARES,
        dense=Evaluation(loss=0.3, top1=0.9, top5=1.0, samples=200),
        groups=groups,
        left_out={"head": "output of the model"},
        settings={"model": {"spec": "resnet56-b"}},
    )


MANY = scan(*(group(number, size=(16, 32, 64)[number % 3], tied=number < 4) for number in range(27)))


def test_equal_scans_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert write_curves([tmp_path / f"{name}.svg", tmp_path / f"{name}.png"], MANY)
    for kind in ("svg", "png"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()
    text = (tmp_path / "one.svg").read_text()
    assert not re.search(r"<dc:date>|Matplotlib v", text)
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    write_curves([tmp_path / "other.svg"], scan(*MANY.groups[:26]))
    assert (tmp_path / "other.svg").read_text() != text


def test_every_curve_is_drawn_and_the_steepest_are_named() -> None:
    panels = [axes for axes in _figure(MANY).axes if axes.axison]
    assert [axes.get_title() for axes in panels] == [f"groups of {size} units" for size in (16, 32, 64)]
    for remainder, axes in enumerate(panels):
        numbers = [number for number in range(27) if number % 3 == remainder]
        curves = [line for line in axes.lines if len(line.get_xdata()) == 4]
        assert len(curves) == 9
        assert {tuple(line.get_ydata()) for line in curves} == {
            (90.0, *(100 * point.evaluation.top1 for point in group(number).points)) for number in numbers
        }
        assert all(list(line.get_xdata()) == [0, 10, 50, 90] for line in curves)
        named = {text.get_text() for text in axes.texts if "conv" in text.get_text()}
        assert {int(name.rpartition("conv")[2]) for name in named} == set(numbers[-5:])
        (dense,) = [line for line in axes.lines if len(line.get_xdata()) == 2]
        assert list(dense.get_ydata()) == [90.0, 90.0]
        assert dense.is_dashed()
        dotted = sum(line.is_dashed() for line in curves)
        assert dotted == sum(number < 4 for number in numbers)


@pytest.mark.parametrize(
    "drawn",
    [MANY, scan(group(3)), scan(*(group(number, size=10 + number, tied=True) for number in range(20)))],
    ids=["many", "one", "sizes"],
)
def test_no_text_leaves_the_picture_and_no_names_overlap(drawn: Sensitivity) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    figure = _figure(drawn)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    width, height = canvas.get_width_height()
    assert len([axes for axes in figure.axes if axes.axison]) <= 6
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text() and artist.get_visible()):
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0, text
        assert box.x1 <= width, text
        assert box.y0 >= 0, text
        assert box.y1 <= height, text
    for axes in figure.axes:
        boxes = sorted(
            (Text.get_window_extent(text, renderer) for text in axes.texts if "conv" in text.get_text()),
            key=lambda box: box.y0,
        )
        for below, above in pairwise(boxes):
            assert above.y0 >= below.y1 - 1
    title = figure.get_suptitle()
    assert "resnet56-b" in title
    assert "200 samples" in title
    assert ("dotted" in title) == any(group.tied for group in drawn.groups)
    assert ("grey" in title) == (len(drawn.groups) > 1)


def test_flat_curves_carry_no_names() -> None:
    """Group 0 loses nothing; one point, which is within the noise of 200 samples, does not count as falling."""
    found = scan(group(0), group(2), group(5))
    (axes,) = [axes for axes in _figure(found).axes if axes.axison]
    assert [text.get_text()[-5:] for text in axes.texts if "conv" in text.get_text()] == ["conv5", "conv2"]


def test_places_of_names_by_hand() -> None:
    assert _spread([50.0]) == [50.0]
    assert _spread([92.0, 10.0, 91.0]) == [94.0, 10.0, 89.0]  # two stand around 91.5, five apart
    assert _spread([100.0, 101.0, 102.0]) == [92.0, 97.0, 102.0]
    assert _spread([0.0, 1.0, 12.0]) == [3.0, 8.0, 13.0]  # pushed off the floor, and the third by the second


def test_without_matplotlib_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    assert not write_curves([tmp_path / "a.svg", tmp_path / "a.png"], MANY)
    assert not list(tmp_path.iterdir())


def test_the_table_by_hand() -> None:
    found = scan(group(0), group(8, size=10), group(4, tied=True))
    grid = sensitivity_grid(found, share=0.5)
    # 8 points per step: 90, 82, 74, 66; at 0.5 two steps are lost, and the mean of 8, 16 and 24 is 16.
    assert grid.rows[0][1:] == ("one layer", "5 of 10", "74.0 %", "-16.0", "-16.0", "0 %", "95.0 %")
    assert grid.rows[1][1:] == ("several layers", "8 of 16", "82.0 %", "-8.0", "-8.0", "0 %", "95.0 %")
    assert grid.rows[2][1:] == ("one layer", "8 of 16", "90.0 %", "+0.0", "+0.0", "90 %", "95.0 %")
    assert "50 % of its units" in grid.title
    assert len(sensitivity_grid(MANY, share=0.1).rows) == 12
    assert "the 12 steepest of 27" in sensitivity_grid(MANY, share=0.1).title
    facts = dict(sensitivity_facts(replace(found, notes=("mind this",))))
    assert facts["dense"] == "top-1 90.00 % on 200 samples (validation), 2M MACs"
    assert facts["no curve"].startswith("1 group: head")
    assert facts["note"] == "mind this"
