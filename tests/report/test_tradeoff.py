import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from secateur.cost import Budget
from secateur.methods.smallest import Candidate, Search
from secateur.record import Evaluation
from secateur.report.tradeoff import _figure, tradeoff_grid, tradeoff_markdown, write_tradeoff, write_tradeoff_figure


def evaluation(top1: float) -> Evaluation:
    return Evaluation(loss=0.25, top1=top1, top5=1.0, samples=5000)


def candidate(share: float, after_cut: float, after_recovery: float, *, within: bool) -> Candidate:
    return Candidate(
        share=share,
        reached=share - 0.004,
        macs=round(1e8 * share),
        params=round(8e5 * share),
        after_cut=evaluation(after_cut),
        validation=evaluation(after_recovery),
        drop_points=round(100 * (0.937 - after_recovery), 9),
        within=within,
    )


@pytest.fixture
def search() -> Search:
    return Search(
        amount="macs",
        max_drop_points=0.5,
        recovery_epochs=2,
        budget=Budget(macs=0.44),
        share=0.44,
        dense=evaluation(0.937),
        standard_error_points=0.34,
        curve=(
            Candidate(share=0.1, reason="cannot reach macs ≤ 10"),
            candidate(0.36, 0.2, 0.916, within=False),
            candidate(0.44, 0.33, 0.9334, within=True),
            candidate(0.5, 0.4, 0.938, within=True),
        ),
        notes=("a note",),
    )


def test_the_table_has_the_dense_model_and_every_candidate_largest_first(search: Search) -> None:
    grid = tradeoff_grid(search)
    assert grid.title == "Accuracy against MACs, on 5,000 validation samples"
    assert grid.headers[5] == "after 2 epochs of recovery"
    assert grid.rows == (
        ("dense", "–", "–", "–", "–", "93.70 %", "–", ""),
        ("50 %", "49.6 %", "50M", "400k", "40.00 %", "93.80 %", "-0.10", "near enough"),
        ("44 %", "43.6 %", "44M", "352k", "33.00 %", "93.34 %", "0.36", "chosen"),
        ("36 %", "35.6 %", "36M", "288k", "20.00 %", "91.60 %", "2.10", "too far"),
        ("10 %", "–", "–", "–", "–", "–", "–", "cannot be cut"),
    )
    assert tradeoff_grid(replace(search, recovery_epochs=1)).headers[5] == "after 1 epoch of recovery"


def test_the_section_says_what_was_chosen_and_why(search: Search) -> None:
    text = tradeoff_markdown(search, figure="figures/curve.png")
    assert text.startswith("## Accuracy against MACs")
    assert "44 % of the MACs is the smallest budget tried whose top-1 after 2 epochs of recovery is at most 0.5" in text
    assert "](figures/curve.png)" in text
    assert "* a note" in text
    assert tradeoff_grid(search).to_markdown() in text
    assert "](" not in tradeoff_markdown(search)


def test_the_same_search_gives_the_same_bytes_in_every_format(search: Search, tmp_path: Path) -> None:
    for folder in ("one", "other"):
        assert write_tradeoff(tmp_path / folder, search) == ("tradeoff.md", "tradeoff.png", "tradeoff.svg")
    for name in ("tradeoff.md", "tradeoff.png", "tradeoff.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert (tmp_path / "one" / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["tradeoff.md", "tradeoff.png", "tradeoff.svg"]


def test_the_figure_draws_every_candidate_and_the_limit(search: Search, tmp_path: Path) -> None:
    path = tmp_path / "curve.svg"
    assert write_tradeoff_figure([path], search)
    drawing = path.read_text()
    ElementTree.fromstring(drawing)
    # matplotlib names each text in a comment before its shapes.
    texts = re.findall(r"<!-- (.*?) -->", drawing)
    for text in (
        "dense: 93.70 %",
        "limit: 93.20 %",
        "limit: 0.5 points",
        "chosen: 43.6 % left, 0.36 points lost",
        "too far",
        "cannot be cut so far",
        "right after the cut",
        "MACs left, in % of the dense model's",
    ):
        assert text in texts
    # Without recovery there is one curve, and without a refused candidate no grey end.
    plain = replace(search, recovery_epochs=0, curve=search.curve[2:3])
    assert write_tradeoff_figure([path], plain)
    texts = re.findall(r"<!-- (.*?) -->", path.read_text())
    assert "after 0 epochs of recovery" in texts
    assert not {"right after the cut", "cannot be cut so far", "too far"} & set(texts)


def test_legends_hide_no_curve(search: Search) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _figure(search)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [axes.get_legend().get_window_extent() for axes in figure.axes]
    for axes, box in zip(figure.axes, boxes, strict=True):
        label = axes.xaxis.label.get_window_extent(canvas.get_renderer())
        assert box.y1 <= label.y0 < axes.get_window_extent().y0
        assert box.y0 >= 0
        assert box.x0 >= 0
        assert box.x1 <= canvas.get_width_height()[0]
    assert boxes[0].x1 <= boxes[1].x0


def test_it_does_without_matplotlib(search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert write_tradeoff(tmp_path, search) == ("tradeoff.md",)
    assert [path.name for path in tmp_path.iterdir()] == ["tradeoff.md"]
    assert "tradeoff.png" not in (tmp_path / "tradeoff.md").read_text()
