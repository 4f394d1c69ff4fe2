"""Figures of pruned weights: what is drawn is what the record and the masks hold."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.errors import ArtifactError
from secateur.methods.weights_and_connections.picturing import image_layer
from secateur.record import (
    Histogram,
    ImageLayer,
    LayerHistograms,
    LayerWeights,
    PrunedWeights,
    RunRecord,
    WeightScan,
    environment,
    read_record,
    write_record,
)
from secateur.report import WEIGHT_FILES, write_weight_figures
from secateur.report.weight_figures import CURVES, first_scans, histogram_figure, pattern, pattern_figure, scan_figure
from secateur.sparse import Masks, histogram

pytest.importorskip("matplotlib", reason="the figures are drawn by it")

SPREAD = LayerHistograms(
    layer="fc1.weight",
    dense=Histogram(reach=1.0, counts=(1, 6, 1)),
    left=Histogram(reach=2.0, counts=(1, 0, 1)),
)


def scan(layer: str, *scores: float, number: int = 1) -> WeightScan:
    shares = (0.5, 0.9)[: len(scores)]
    return WeightScan(round=number, layer=layer, shares=shares, scores=scores, losses=(0.0,) * len(scores), dense=0.9)


def found(**more: Any) -> PrunedWeights:
    layers = (LayerWeights(name="fc1.weight", weights=32, kept=8, macs=32),)
    return PrunedWeights(granularity="weight", parameters=36, nonzeros=12, zeros=24, layers=layers, rounds=(), **more)


def record(weights: PrunedWeights | None, **files: str) -> RunRecord:
    return RunRecord(run_id="1", command=(), environment=environment(), weights=weights, files=files)


def mask() -> torch.Tensor:
    """Return which weights of a layer with 2 outputs are left, for images of 4 by 4 pixels: the middle of the image."""
    middle = torch.zeros(4, 4, dtype=torch.bool)
    middle[1:3, 1:3] = True
    return torch.stack([middle.reshape(-1), middle.reshape(-1)])


def test_a_histogram_counts_every_value_once() -> None:
    torch.manual_seed(0)
    values = torch.randn(1000, 3)
    counted = histogram(values, bins=11)
    assert sum(counted.counts) == 3000
    assert counted.reach == float(values.abs().max())
    edges = torch.linspace(-counted.reach, counted.reach, 12, dtype=torch.float64)
    inside = [int(((values >= low) & (values < high)).sum()) for low, high in itertools.pairwise(edges)]
    inside[-1] += int((values.double() >= edges[-1]).sum())
    assert list(counted.counts) == inside


@pytest.mark.parametrize(
    ("values", "counts"),
    [([], (0, 0, 0)), ([0.0, 0.0], (0, 2, 0)), ([-1.0, 1.0, 0.1], (1, 1, 1)), ([5.0, float("nan")], (0, 0, 1))],
)
def test_histograms_by_hand(values: list[float], counts: tuple[int, ...]) -> None:
    assert histogram(torch.tensor(values), bins=3).counts == counts


def test_histograms_and_the_image_layer_survive_the_record(tmp_path: Path) -> None:
    weights = found(histograms=(SPREAD,), image_layer=ImageLayer(layer="fc1.weight", shape=(1, 4, 4)))
    write_record(tmp_path / "record.json", record(weights))
    assert read_record(tmp_path / "record.json").weights == weights


def test_only_what_is_known_is_drawn_and_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    image = ImageLayer(layer="fc1.weight", shape=(1, 4, 4))
    whole = found(scans=(scan("fc1.weight", 0.8, 0.3),), histograms=(SPREAD,), image_layer=image)
    Masks({"fc1.weight": mask()}).save(tmp_path / "masks.safetensors")
    for _ in range(2):
        assert write_weight_figures(tmp_path, record(whole, masks="masks.safetensors")) == WEIGHT_FILES
        written = {name: (tmp_path / name).read_bytes() for name in WEIGHT_FILES.values()}
    assert written == {name: (tmp_path / name).read_bytes() for name in WEIGHT_FILES.values()}
    bare = tmp_path / "bare"
    assert set(write_weight_figures(bare, record(replace(whole, scans=())))) == {
        "weights_histograms_png",
        "weights_histograms_svg",
    }
    assert write_weight_figures(bare, record(None)) == {}
    with pytest.raises(ArtifactError, match=r"masks\.safetensors"):
        write_weight_figures(bare, record(whole, masks="masks.safetensors"))


def test_the_first_round_is_drawn_the_most_sensitive_layer_first() -> None:
    scans = tuple(scan(f"fc{number}.weight", 0.9 - 0.01 * number, 0.5) for number in range(CURVES + 3))
    later = scan("fc0.weight", 0.1, 0.1, number=2)
    drawn = first_scans(found(scans=(*scans, later)))
    assert drawn == scans
    (axes,) = scan_figure(drawn).axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [f"fc{number}.weight" for number in range(CURVES + 2, 2, -1)] + ["3 layers that bear more"]
    steepest = next(line for line in axes.lines if line.get_label() == names[0])
    assert list(steepest.get_xdata()) == pytest.approx([100, 50, 10])
    assert list(steepest.get_ydata()) == pytest.approx([0, -12, -40])


def test_histograms_stand_beside_one_another_on_one_scale() -> None:
    before, after = histogram_figure([SPREAD]).axes
    assert before.get_xlim() == after.get_xlim() == (-2.06, 2.06)
    assert before.get_title(loc="left") == "fc1.weight, dense: 8 weights"
    assert after.get_title(loc="left") == "pruned and retrained: 2 left (25.0 %)"


def test_the_pattern_is_the_mask_and_its_sum_over_outputs_lies_over_the_image() -> None:
    matrix, image, _ = pattern_figure(mask(), (1, 4, 4), name="fc1.weight").axes
    assert matrix.images[0].get_array().tolist() == mask().float().tolist()
    assert image.images[0].get_array().tolist() == (2 * mask()[0].reshape(4, 4).int()).tolist()
    assert "4 bands of 4" in matrix.get_xlabel()
    large = torch.zeros(600, 3200, dtype=torch.bool)
    large[:300] = True
    assert pattern(large).shape == (300, 1600)
    assert pattern(large).mean() == 0.5


def test_the_layer_that_reads_the_images_is_found_by_what_it_reads() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(16, 16)
            self.first = nn.Linear(16, 16)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.other(self.first(images.flatten(1)).relu())

    images = torch.rand(3, 1, 4, 4)
    names = ("other.weight", "first.weight")
    assert image_layer(Net(), names, images) == ImageLayer(layer="first.weight", shape=(1, 4, 4))
    assert image_layer(Net(), ("other.weight",), images) is None
    assert image_layer(Net(), names, images.flatten(1)) is None
