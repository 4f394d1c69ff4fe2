"""Rows drawn at random are contributions at output positions of the padded input, without the bias."""

import pytest
import torch
from torch import Tensor, nn

from secateur.criteria.reconstruction import GramAccumulator, sample_rows, statistics_of_rows
from secateur.errors import UsageError

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "3x3": (nn.Conv2d(4, 5, 3, padding=1), (3, 4, 6, 5)),
    "strided and dilated": (nn.Conv2d(4, 5, 3, padding=2, stride=2, dilation=(1, 2)), (3, 4, 8, 7)),
    "1x1, strided": (nn.Conv2d(4, 5, 1, stride=2), (3, 4, 7, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (3, 4, 6, 5)),
    "reflect": (nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect"), (3, 4, 6, 5)),
    "1-d": (nn.Conv1d(4, 5, 3, padding=1), (3, 4, 9)),
    "linear": (nn.Linear(4, 5), (3, 4)),
    "linear on tokens": (nn.Linear(4, 5), (3, 2, 4)),
}


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs_without_bias(layer: nn.Module, inputs: Tensor) -> Tensor:
    output = layer(inputs)
    bias = layer.bias if isinstance(layer, nn.Linear) else layer.bias.view(-1, *[1] * (inputs.ndim - 2))
    return (output - bias).detach()


@pytest.mark.parametrize("name", LAYERS)
def test_each_row_sums_to_the_output_at_one_place(name: str) -> None:
    layer, shape = LAYERS[name]
    inputs = torch.randn(shape, generator=drawn(1))
    rows = sample_rows(layer, range(4), inputs, 60, drawn())
    assert rows.shape == (60, 4)
    outputs = outputs_without_bias(layer, inputs).flatten()
    nearest = (rows.sum(1)[:, None] - outputs).abs().min(1).values
    assert float(nearest.max()) < 1e-5


@pytest.mark.parametrize("name", LAYERS)
def test_many_rows_come_near_the_exact_sums(name: str) -> None:
    """The mean product over rows is within four standard errors of that over all places."""
    layer, shape = LAYERS[name]
    units = [0, 1, 1, -1]
    inputs = torch.relu(torch.randn(shape, generator=drawn(1)))
    exact = GramAccumulator(layer, units)
    exact.add(inputs)
    wanted = exact.statistics()
    rows = sample_rows(layer, units, inputs, 30_000, drawn()).double()
    products = rows[:, :, None] * rows[:, None, :]
    error = products.std(0) / len(rows) ** 0.5
    assert bool(((products.mean(0) - wanted.gram / wanted.rows).abs() <= 4 * error + 1e-9).all())


def test_every_image_gives_as_many_rows_and_filters_vary_within_an_image() -> None:
    """Images and filters can be told by size: image n is 10ⁿ everywhere, filter o multiplies by 1 + o/10."""
    layer = nn.Linear(1, 4)
    layer.weight.data = 1 + torch.arange(4.0).view(4, 1) / 10
    rows = sample_rows(layer, [0], torch.tensor([[1.0], [10.0], [100.0]]), 50, drawn()).squeeze(1)
    per_image = torch.stack([(rows >= low) & (rows < 10 * low) for low in (1.0, 10.0, 100.0)]).sum(1)
    assert sorted(per_image.tolist()) == [16, 17, 17]
    assert len(rows[rows < 10].unique()) == 4


def test_the_same_generator_draws_the_same_rows() -> None:
    layer, shape = LAYERS["3x3"]
    inputs = torch.randn(shape, generator=drawn(1))
    first, again, other = (sample_rows(layer, range(4), inputs, 20, drawn(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rows_in_blocks_are_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, shape = LAYERS["grouped"]
    inputs = torch.randn(shape, generator=drawn(1))
    whole = sample_rows(layer, range(4), inputs, 20, drawn())
    monkeypatch.setattr("secateur.criteria.reconstruction.rows.CHUNK_ELEMENTS", 300)
    torch.testing.assert_close(sample_rows(layer, range(4), inputs, 20, drawn()), whole)


def test_statistics_of_rows_by_hand() -> None:
    found = statistics_of_rows(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
    assert found.gram.tolist() == [[10.0, -1.0], [-1.0, 5.0]]
    assert found.cross.tolist() == [9.0, 4.0]
    assert found.energy == 13.0
    assert found.sums.tolist() == [[4.0, 1.0]]
    assert (found.rows, found.positions) == (2, 2)


@pytest.mark.parametrize(("count", "images"), [(0, 3), (5, 0)])
def test_nothing_can_be_drawn_from_nothing(count: int, images: int) -> None:
    with pytest.raises(UsageError, match="both must be at least 1"):
        sample_rows(nn.Linear(2, 2), [0, 1], torch.zeros(images, 2), count, drawn())
