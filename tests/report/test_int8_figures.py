"""Figures of a diagnosis: what is drawn is what was measured."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.errors import QuantizationError, UsageError
from secateur.quantization import (
    Diagnosis,
    OperatorEffect,
    RangeHistogram,
    Simulation,
    SiteHistogram,
    SiteNoise,
    calibrator_named,
    noise,
    simulate,
    site_histograms,
)
from secateur.report import INT8_FILES, write_int8_figures
from secateur.report.int8_figures import BINS, ROWS, drawn, layers_figure, noise_figure, ranges_figure

pytest.importorskip("matplotlib", reason="the figures are drawn by it")

EFFECTS = (OperatorEffect("conv1", 0.91, 0.89), OperatorEffect("conv2", 0.80, 0.90), OperatorEffect("fc", 0.90, 0.87))


def weight_noise(name: str, own_db: float) -> SiteNoise:
    return SiteNoise(name, "weight", own_db, own_db, 0.0, "")


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(32, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    simulation = simulate(model.eval(), x[:2])
    simulation.calibrate([x])
    simulation.set_ranges("percentile-99.9")
    return simulation


def test_sites_are_those_where_calibrators_differ_and_ranges_those_of_calibrators(simulation: Simulation) -> None:
    every = site_histograms(simulation, simulation.placement.activations, calibrators=["max", "percentile-99.9", "mse"])
    assert [entry.site for entry in every] == list(simulation.placement.activations)
    for entry in every:
        site = simulation.sites[entry.site]
        assert list(entry.thresholds) == ["max", "percentile-99.9", "mse"]
        for name, ends in entry.thresholds.items():
            assert ends == calibrator_named(name)(site.histogram, site.spec).range
        assert entry.chosen == pytest.approx(tuple(float(end) for end in site.affine.range))
    widths = {e.site: [high - low for low, high in e.thresholds.values()] for e in every}
    ranked = sorted(widths, key=lambda site: widths[site][0] / widths[site][1], reverse=True)
    chosen = site_histograms(simulation, calibrators=["max"], most=2)
    assert [entry.site for entry in chosen] == [site for site in widths if site in ranked[:2]]


def test_bad_input_is_one_sentence(simulation: Simulation) -> None:
    with pytest.raises(QuantizationError, match=r"'0.outptu'.*0.output"):
        site_histograms(simulation, ["0.outptu"])
    with pytest.raises(UsageError, match="maximum"):
        site_histograms(simulation, calibrators=["maximum"])
    fresh = simulate(nn.Conv2d(1, 1, 1).eval(), torch.randn(2, 1, 4, 4))
    with pytest.raises(QuantizationError, match="saw no images"):
        site_histograms(fresh)


@pytest.mark.parametrize("values", [(-1.0, 3.0), (0.0, 7.3), (-5.0, -1.0), (-0.01, 9.0), (0.0, 0.0), (2.0, 2.0)])
def test_drawn_bins_count_every_value_where_it_is(values: tuple[float, float]) -> None:
    x = torch.linspace(*values, 5001)
    histogram = RangeHistogram("a")
    histogram.update(x)
    counts, edges = drawn(SiteHistogram("a", histogram, {}, values, {}))
    assert sum(counts) == 5001
    assert len(counts) <= BINS + 2
    assert len(edges) == len(counts) + 1
    assert 0.0 in edges
    assert edges[0] <= min(values) <= max(values) <= edges[-1]
    width = edges[1] - edges[0]
    assert edges[0] > min(0.0, values[0]) - 1.001 * width
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        inside = (x >= low) & (x < high) if low >= 0 else (x > low) & (x <= high) & (x < 0)
        assert count == int(inside.sum())


def test_every_threshold_is_drawn_once_and_those_at_one_value_are_all_seen(simulation: Simulation) -> None:
    sites = site_histograms(simulation, ["inputs.input", "0.output"], calibrators=["max", "entropy", "mse"])
    figure = ranges_figure(sites)
    for axes, entry, ends in zip(figure.axes, sites, (2, 1), strict=False):
        lines = [(float(line.get_xdata()[0]), float(line.get_ydata()[1])) for line in axes.lines]
        assert sorted(x for x, _ in lines) == pytest.approx(
            sorted(end for pair in entry.thresholds.values() for end in pair if end != 0)
        )
        assert len(lines) == 3 * ends
        assert len({height for _, height in lines}) == 3
        assert axes.get_yscale() == "log"
        low, high = axes.get_xlim()
        assert all(low < x < high for x, _ in lines)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["max", "entropy", "mse", "range in use"]


def test_bars_are_the_numbers() -> None:
    figure = layers_figure(EFFECTS, reference=0.9, integer=0.88)
    alone, without = ([bar.get_width() for bar in axes.patches] for axes in figure.axes)
    assert alone == pytest.approx([1, -10, 0])
    assert without == pytest.approx([1, 2, -1])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["conv1", "conv2", "fc"]


def test_noise_shows_the_worst_of_many_and_what_is_exact() -> None:
    many = [weight_noise(f"w{number}", 20 + number % 7) for number in range(ROWS + 5)]
    many[3] = weight_noise("w3", math.inf)
    figure = noise_figure(many)
    (axes,) = figure.axes
    assert len(axes.patches) == ROWS
    assert "the 60 worst of 65" in axes.get_title(loc="left")
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert "w3" not in shown
    assert shown == sorted(shown, key=lambda name: int(name[1:]))
    (exact,) = noise_figure([weight_noise("a", 30.0), weight_noise("b", math.inf)]).axes
    assert [text.get_text() for text in exact.texts] == ["exact"]


def test_files_are_whole_the_same_twice_and_hold_the_numbers(simulation: Simulation, tmp_path: Path) -> None:
    x = torch.randn(8, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    found = Diagnosis(noise(simulation, [x]), EFFECTS, 0.9, 0.88, site_histograms(simulation, calibrators=["max"]))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        assert write_int8_figures(tmp_path / folder, found) == INT8_FILES
    for name in INT8_FILES.values():
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    written: dict[str, Any] = json.loads((tmp_path / "a" / INT8_FILES["int8_diagnosis"]).read_text())
    assert [entry["site"] for entry in written["noise"]] == [entry.site for entry in found.noise]
    assert written["effects"][1] == {"operator": "conv2", "alone": 0.8, "without": 0.9}
    first = written["histograms"][0]
    assert first["chosen"] == list(found.histograms[0].chosen)
    again = RangeHistogram.from_json(first["histogram"])
    assert again.count == found.histograms[0].histogram.count

    (tmp_path / "c").mkdir()
    only = write_int8_figures(tmp_path / "c", Diagnosis(noise=(weight_noise("a", math.inf),)))
    assert set(only) == {"int8_diagnosis", "int8_noise_png", "int8_noise_svg"}
    assert json.loads((tmp_path / "c" / only["int8_diagnosis"]).read_text())["noise"][0]["own_db"] is None
