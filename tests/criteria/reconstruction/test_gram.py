"""Sums over all positions against materialised contributions, on every route and every kind of layer."""

import copy
import tracemalloc
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from secateur.criteria.reconstruction import GramAccumulator, Statistics
from secateur.criteria.reconstruction.offsets import Offsets, parts_of
from secateur.criteria.reconstruction.read_layer import ReadLayer
from secateur.errors import UsageError

EXACT = 1e-6

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "3x3": (lambda: nn.Conv2d(6, 5, 3, padding=1), (3, 6, 9, 8)),
    "without padding": (lambda: nn.Conv2d(6, 5, 3), (3, 6, 9, 8)),
    "oblong and dilated": (lambda: nn.Conv2d(6, 5, (5, 3), padding=(1, 2), dilation=(1, 2)), (3, 6, 9, 8)),
    "kernel larger than the image": (lambda: nn.Conv2d(6, 5, 5, padding=2), (3, 6, 2, 1)),
    "more padding than kernel": (lambda: nn.Conv2d(6, 5, 3, padding=4), (3, 6, 5, 5)),
    "same, odd": (lambda: nn.Conv2d(6, 5, 3, padding="same", dilation=2), (3, 6, 5, 5)),
    "same, even": (lambda: nn.Conv2d(6, 5, 4, padding="same", dilation=2), (3, 6, 7, 5)),
    "valid": (lambda: nn.Conv2d(6, 5, 3, padding="valid", dilation=2), (3, 6, 7, 5)),
    "1x1": (lambda: nn.Conv2d(6, 5, 1), (3, 6, 4, 5)),
    "1x1, strided": (lambda: nn.Conv2d(6, 5, 1, stride=(2, 3)), (3, 6, 7, 5)),
    "1x1, padded": (lambda: nn.Conv2d(6, 5, 1, stride=2, padding=1), (3, 6, 7, 5)),
    "strided": (lambda: nn.Conv2d(6, 5, 3, stride=2, padding=1), (3, 6, 7, 6)),
    "strided and dilated": (lambda: nn.Conv2d(6, 5, 3, stride=(2, 1), padding=2, dilation=2), (3, 6, 7, 6)),
    "grouped": (lambda: nn.Conv2d(6, 4, 3, padding=1, groups=2), (3, 6, 7, 6)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, padding=1, stride=2, groups=6), (3, 6, 7, 6)),
    "reflect": (lambda: nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"), (3, 6, 7, 6)),
    "circular": (lambda: nn.Conv2d(6, 5, 3, padding=(1, 2), padding_mode="circular"), (3, 6, 7, 6)),
    "replicate": (lambda: nn.Conv2d(6, 5, 3, padding=1, padding_mode="replicate"), (3, 6, 7, 6)),
    "1-d": (lambda: nn.Conv1d(6, 5, 3, padding=1), (3, 6, 9)),
    "3-d": (lambda: nn.Conv3d(6, 5, (3, 2, 3), padding=(1, 0, 1)), (3, 6, 4, 5, 6)),
    "linear": (lambda: nn.Linear(6, 5), (4, 6)),
    "linear on tokens": (lambda: nn.Linear(6, 5), (4, 3, 6)),
}

UNITS = {
    "each its own": [0, 1, 2, 3, 4, 5],
    "several channels each": [0, 0, 2, 1, 1, 1],
    "some of none": [3, -1, 2, -1, 1, -1],
}

OFFSETS = {name for name in LAYERS if name not in {"1x1, padded", "strided", "strided and dilated", "grouped"}} - {
    "depthwise",
    "reflect",
    "circular",
    "replicate",
}


@pytest.fixture
def layer(name: str) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[name][0]()


def read(name: str) -> Tensor:
    return torch.relu(torch.randn(LAYERS[name][1], generator=torch.Generator().manual_seed(1)))


def filters_last(output: Tensor, layer: nn.Module) -> Tensor:
    """(positions, O)."""
    output = output if isinstance(layer, nn.Linear) else output.movedim(1, -1)
    return output.reshape(-1, output.shape[-1])


def contributions(layer: nn.Module, inputs: Tensor, units: list[int]) -> Tensor:
    """What torch gives when all other units' channels are zero, without bias: (U, positions, O), float64."""
    double = copy.deepcopy(layer).double()
    nn.init.zeros_(double.bias)
    axis = -1 if isinstance(layer, nn.Linear) else 1
    shape = [1] * inputs.ndim
    shape[axis] = -1
    alone = [
        double(inputs.double() * (torch.tensor(units) == unit).view(shape).double()) for unit in range(max(units) + 1)
    ]
    return torch.stack([filters_last(output, layer) for output in alone]).detach()


def assert_sums(found: Statistics, z: Tensor, y: Tensor) -> None:
    """To one part in a million of the largest product of a unit with itself, or of its length with that of y."""
    matrix, target = z.flatten(1), y.flatten()
    gram = matrix @ matrix.T
    largest = float(gram.diagonal().max())
    energy = float(target @ target)
    torch.testing.assert_close(found.gram, gram, rtol=0, atol=EXACT * largest)
    torch.testing.assert_close(found.cross, matrix @ target, rtol=0, atol=EXACT * (largest * energy) ** 0.5)
    assert found.energy == pytest.approx(energy, rel=EXACT)
    of_filters = EXACT * (largest * z.shape[1]) ** 0.5
    torch.testing.assert_close(found.sums, z.sum(1).T, rtol=0, atol=of_filters)
    torch.testing.assert_close(found.target_sums, y.sum(0), rtol=0, atol=of_filters * max(1, energy / largest) ** 0.5)
    assert found.rows == y.numel()
    assert found.positions == len(y)


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("route", ["auto", "offsets", "patches", "contributions"])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_sums_are_those_of_materialised_contributions(name: str, route: str, units: str, layer: nn.Module) -> None:
    if route == "offsets" and name not in OFFSETS:
        with pytest.raises(UsageError, match="needs stride 1"):
            GramAccumulator(layer, UNITS[units], route="offsets")
        return
    inputs = read(name)
    z = contributions(layer, inputs, UNITS[units])
    accumulator = GramAccumulator(layer, UNITS[units], route=route)
    for part in inputs.split([1, len(inputs) - 1]):
        accumulator.add(part)
    assert_sums(accumulator.statistics(), z, z.sum(0))


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("route", ["auto", "patches", "contributions"])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_a_target_can_come_from_elsewhere(name: str, route: str, units: str, layer: nn.Module) -> None:
    inputs = read(name)
    target = torch.randn(layer(inputs).shape, generator=torch.Generator().manual_seed(2))
    accumulator = GramAccumulator(layer, UNITS[units], route=route)
    for part, wanted in zip(inputs.split([1, len(inputs) - 1]), target.split([1, len(inputs) - 1]), strict=True):
        accumulator.add(part, wanted)
    z = contributions(layer, inputs, UNITS[units])
    assert_sums(accumulator.statistics(), z, filters_last(target, layer).double())


@pytest.mark.parametrize("name", sorted(OFFSETS))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_the_route_of_offsets_takes_targets_too(name: str, layer: nn.Module) -> None:
    inputs, units = read(name), UNITS["some of none"]
    target = torch.randn(layer(inputs).shape, generator=torch.Generator().manual_seed(2))
    accumulator = GramAccumulator(layer, units, route="offsets")
    accumulator.add(inputs, target)
    assert_sums(accumulator.statistics(), contributions(layer, inputs, units), filters_last(target, layer).double())


@pytest.mark.parametrize("route", ["offsets", "patches", "contributions"])
def test_single_precision_is_exact_to_a_millionth_at_real_sizes(route: str) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(24, 16, 3, padding=1)
    nn.init.normal_(layer.weight, generator=generator)
    inputs = torch.relu(torch.randn(2, 24, 56, 56, generator=generator))
    single, double = (GramAccumulator(layer, range(24), route=name) for name in (route, "patches"))
    single.add(inputs)
    double.add(inputs.double())
    found, wanted = single.statistics().gram, double.statistics().gram
    assert float((found - wanted).abs().max() / wanted.abs().max()) < EXACT


@pytest.mark.parametrize("route", ["offsets", "patches", "contributions"])
def test_images_of_several_sizes_and_blocks_add_up(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows and filters give what one block gives."""
    layer = nn.Conv2d(4, 3, 3, padding=1)
    images = [torch.randn(3, 4, 6, 5), torch.randn(2, 4, 9, 7), torch.randn(0, 4, 9, 7), torch.randn(4, 8, 8)]
    whole = GramAccumulator(layer, range(4), route=route)
    for batch in images:
        whole.add(batch.double())
    for module in ("read_layer", "offsets", "patches", "contributions"):
        monkeypatch.setattr(f"secateur.criteria.reconstruction.{module}.CHUNK_ELEMENTS", 150)
    monkeypatch.setattr("secateur.criteria.reconstruction.contributions.ROWS_AT_ONCE", 2)
    parts = GramAccumulator(layer, range(4), route=route)
    for batch in images:
        parts.add(batch.double())
    for name, tensor in whole.statistics().state_dict().items():
        torch.testing.assert_close(parts.statistics().state_dict()[name], tensor)


def test_the_parts_of_a_three_by_three_kernel() -> None:
    """13 shifts of the image; along four borders three each, and four corners."""
    found = parts_of(ReadLayer.of(nn.Conv2d(2, 2, 3, padding=1), [0, 1]))
    whole = [part for part in found if all(kind == 0 for kind, _, _ in part)]
    assert len(whole) == 13
    assert len(found) == 13 + 4 * 3 + 4
    all_padding = parts_of(ReadLayer.of(nn.Conv2d(2, 2, 3, padding=2), [0, 1]))
    assert len(all_padding) == 13  # every place that touches the image is an output position


@pytest.mark.parametrize(("taps", "padding", "dilation"), list(product((1, 2, 3, 5), (0, 1, 2), (1, 2))))
def test_parts_of_one_dimension_by_hand(taps: int, padding: int, dilation: int) -> None:
    """P[k,k'] = Σ_p x[p + dk]·x[p + dk'] with one channel, counted out."""
    image = torch.arange(1.0, 10.0, dtype=torch.float64)
    layer = nn.Conv1d(1, 1, taps, padding=padding, dilation=dilation)
    padded = nn.functional.pad(image, (padding, padding))
    outputs = len(padded) - dilation * (taps - 1)
    windows = torch.stack([padded[dilation * tap : dilation * tap + outputs] for tap in range(taps)])
    read_layer = ReadLayer.of(layer, [0])
    route = Offsets(read_layer, torch.device("cpu"))
    route.add(image.view(1, 1, -1), None)
    pairs = [[float(route._pair((one,), (two,))) for two in range(taps)] for one in range(taps)]
    torch.testing.assert_close(torch.tensor(pairs, dtype=torch.float64), windows @ windows.T)


def test_a_gram_by_hand() -> None:
    """Two columns, two filters, one position: z = W·x, G = Σ_o z zᵀ."""
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    accumulator = GramAccumulator(layer, [0, 1])
    accumulator.add(torch.tensor([[3.0, 1.0]]))  # z = (3, 2) and (0, -1)
    found = accumulator.statistics()
    assert found.gram.tolist() == [[9.0, 6.0], [6.0, 5.0]]
    assert found.cross.tolist() == [15.0, 11.0]
    assert found.energy == 26.0  # y = 5 and -1
    assert found.sums.tolist() == [[3.0, 2.0], [0.0, -1.0]]
    assert found.target_sums.tolist() == [5.0, -1.0]
    assert (found.rows, found.positions) == (2, 1)


def test_statistics_add_up_and_survive_their_state() -> None:
    layer = nn.Conv2d(4, 3, 3, stride=2)
    images = torch.randn(4, 4, 9, 9)
    whole, first, rest = (GramAccumulator(layer, [0, 1, 1, 2], size=5) for _ in range(3))
    whole.add(images)
    first.add(images[:1])
    rest.add(images[1:])
    together = first.statistics() + Statistics.from_state(rest.statistics().state_dict())
    assert (together.rows, together.positions, together.size) == (4 * 4 * 4 * 3, 4 * 4 * 4, 5)
    for name, tensor in whole.statistics().state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], tensor, rtol=1e-5, atol=1e-4)
    with pytest.raises(UsageError, match="only those of one reader"):
        together + _of_linear(torch.randn(3, 2))


def test_centred_statistics_are_those_of_centred_contributions() -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1)
    inputs = torch.randn(2, 3, 6, 6).double() + 1
    target = torch.randn(2, 4, 6, 6).double()
    accumulator = GramAccumulator(layer, [0, 1, 2])
    accumulator.add(inputs, target)
    found = accumulator.statistics().centred()
    z, y = contributions(layer, inputs, [0, 1, 2]), filters_last(target, layer)
    matrix, wanted = (z - z.mean(1, keepdim=True)).flatten(1), (y - y.mean(0)).flatten()
    torch.testing.assert_close(found.gram, matrix @ matrix.T)
    torch.testing.assert_close(found.cross, matrix @ wanted)
    assert found.energy == pytest.approx(float(wanted @ wanted))
    assert not found.sums.any()
    assert not found.target_sums.any()


def test_a_layer_behind_a_flatten_never_holds_products_of_columns() -> None:
    """64 units of 49 columns: 3,136² products would be 75 MiB; the statistics and a block are a few."""
    layer = nn.Linear(64 * 49, 32)
    units = torch.arange(64).repeat_interleave(49)
    inputs = torch.randn(8, 64 * 49)
    accumulator = GramAccumulator(layer, units)
    accumulator.add(inputs)
    assert accumulator.route == "contributions"
    z = torch.einsum("ncp,ocp->cno", inputs.double().view(8, 64, 49), layer.weight.detach().double().view(32, 64, 49))
    assert_sums(accumulator.statistics(), z, z.sum(0))


def test_state_does_not_grow_with_images() -> None:
    """What the accumulator keeps is the same after one image and after many."""

    def kept(accumulator: GramAccumulator) -> int:
        route = accumulator._route
        assert route is not None
        return sum(value.numel() for value in vars(route).values() if isinstance(value, Tensor))

    for name, (made, shape) in LAYERS.items():
        del name
        accumulator = GramAccumulator(made(), UNITS["each its own"])
        images = torch.randn(1, *shape[1:])
        accumulator.add(images)
        before = kept(accumulator)
        for _ in range(3):
            accumulator.add(images)
        assert kept(accumulator) == before


def test_python_holds_no_inputs_back() -> None:
    accumulator = GramAccumulator(nn.Conv2d(4, 4, 3, padding=1), range(4))
    accumulator.add(torch.randn(2, 4, 16, 16))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            accumulator.add(torch.randn(2, 4, 16, 16))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000


def test_the_cheapest_route_is_taken() -> None:
    def taken(layer: nn.Module, channels: int, *shape: int) -> str:
        accumulator = GramAccumulator(layer, range(channels))
        accumulator.add(torch.zeros(1, *shape))
        return accumulator.route

    assert taken(nn.Conv2d(16, 16, 3, padding=1), 16, 16, 12, 12) == "offsets"
    assert taken(nn.Conv2d(16, 64, 3, stride=2), 16, 16, 12, 12) == "patches"
    assert taken(nn.Conv2d(16, 32, 3, padding=1, groups=16), 16, 16, 12, 12) == "patches"
    assert taken(nn.Conv2d(16, 2, 3, stride=2), 16, 16, 12, 12) == "contributions"


def test_half_precision_and_autocast_are_summed_in_single() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1)
    inputs = torch.randn(2, 4, 8, 8).half()
    plain, cast = GramAccumulator(layer, range(4)), GramAccumulator(layer, range(4))
    plain.add(inputs.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast.add(inputs)
    torch.testing.assert_close(cast.statistics().gram, plain.statistics().gram, rtol=0, atol=0)


def test_what_inference_mode_gives_can_be_added() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1)
    inputs = torch.randn(3, 4, 8, 8)
    plain, inferred = GramAccumulator(layer, range(4)), GramAccumulator(layer, range(4))
    plain.add(inputs)
    plain.add(inputs)
    with torch.inference_mode():
        inferred.add(inputs * 1)
    inferred.add(inputs)
    torch.testing.assert_close(inferred.statistics().gram, plain.statistics().gram, rtol=0, atol=0)


def _of_linear(inputs: Tensor) -> Statistics:
    accumulator = GramAccumulator(nn.Linear(inputs.shape[1], 3), range(inputs.shape[1]))
    accumulator.add(inputs)
    return accumulator.statistics()


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda: GramAccumulator(nn.ConvTranspose2d(2, 2, 3), [0, 1]), "not defined for ConvTranspose2d; give one of"),
        (lambda: GramAccumulator(nn.Linear(3, 2), [0, 1]), r"has shape \(2,\), but the layer has 3 columns"),
        (lambda: GramAccumulator(nn.Linear(2, 2), [-1, -1]), "no one of the 2 columns belongs to a unit"),
        (lambda: GramAccumulator(nn.Linear(2, 2), [0, 4], size=3), "goes up to 4, but there are only 3 units"),
        (lambda: GramAccumulator(nn.Linear(2, 2), [0, 1], route="patch"), "did you mean 'patches'"),
        (lambda: GramAccumulator(nn.Linear(2, 2), [0, 1]).statistics(), "no images were added"),
        (lambda: _of_two_columns(torch.zeros(1, 3)), r"have shape \(1, 3\); give \(\.\.\., 2\)"),
        (lambda: _of_two_columns(torch.zeros(1, 2), torch.zeros(1, 5)), r"target has shape \(1, 5\)"),
        (lambda: _of_three_by_three(torch.zeros(1, 3, 4, 4)), r"give \(N, 2\) and 2 spatial"),
        (lambda: _of_three_by_three(torch.zeros(1, 2, 2, 2)), r"an input of \(2, 2\) is too small"),
        (lambda: _sometimes_a_target(), "give it always or never"),
    ],
)
def test_mistakes_get_one_sentence(mistake: Callable[[], object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        mistake()


def _of_two_columns(*inputs: Tensor) -> None:
    GramAccumulator(nn.Linear(2, 2), [0, 1]).add(*inputs)


def _of_three_by_three(inputs: Tensor) -> None:
    GramAccumulator(nn.Conv2d(2, 2, 3), [0, 1]).add(inputs)


def _sometimes_a_target() -> None:
    accumulator = GramAccumulator(nn.Linear(2, 2), [0, 1])
    accumulator.add(torch.zeros(1, 2), torch.zeros(1, 2))
    accumulator.add(torch.zeros(1, 2))
