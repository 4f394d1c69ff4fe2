"""Who reads a group, and what one pass over images tells of it; the model stays as it was."""

import copy
import socket
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from own_process import run_here, start
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.criteria.reconstruction import Reader, Statistics, Target, collect, readers_of
from secateur.errors import DataError, PlanError, UsageError
from secateur.graph import trace

SCRIPT = Path(__file__).parent / "collected_run.py"


class Several(nn.Module):
    """One group read by a strided convolution, a grouped one and, beside another group, by one on a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.other = nn.Conv2d(3, 5, 3, padding=1)
        self.strided = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=2, bias=False)
        self.joined = nn.Conv2d(13, 6, 1, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(6 * 16, 4)
        self.forwards = 0
        self.ends = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        stem, other = torch.relu(self.stem(x)), torch.relu(self.other(x))
        both = self.strided(stem) + self.grouped(stem) + self.joined(torch.cat([stem, other], 1))
        found = self.linear(self.drop(torch.relu(self.norm(both))).flatten(1))
        self.ends += 1
        return found


def batches(*sizes: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    images = torch.randn(sum(sizes), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return [(part, torch.zeros(len(part), dtype=torch.long)) for part in images.split(sizes)]


def by_hand(module: nn.Module, reads: Tensor, units: np.ndarray, size: int, target: Tensor | None = None) -> Statistics:
    """Run the layer on the channels of one unit at a time, in double precision."""
    module, reads = copy.deepcopy(module).double().requires_grad_(False), reads.double()
    parts = []
    for unit in range(size):
        mask = torch.from_numpy((units == unit).astype(float))
        if isinstance(module, nn.Linear):
            parts.append(F.linear(reads * mask, module.weight))
        else:
            parts.append(module._conv_forward(reads * mask[:, None, None], module.weight, None).movedim(1, -1))
    z = torch.stack(parts, -1).flatten(0, -3)  # (positions, filters, units)
    y = z.sum(2) if target is None else target
    rows = z.flatten(0, 1)
    return Statistics(
        gram=rows.mT @ rows,
        cross=rows.mT @ y.flatten(),
        energy=float(y.square().sum()),
        rows=len(rows),
        sums=z.sum(0),
        target_sums=y.sum(0),
        positions=len(z),
    )


def assert_same(found: Statistics, expected: Statistics, tolerance: float = 1e-5) -> None:
    scale = float(expected.gram.abs().max())
    for name in ("gram", "cross"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=tolerance, atol=tolerance * scale
        )
    assert found.energy == pytest.approx(expected.energy, rel=10 * tolerance)
    for name in ("sums", "target_sums"):
        size = float(expected.sums.abs().max())
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=tolerance, atol=tolerance * size)
    assert (found.rows, found.positions) == (expected.rows, expected.positions)


def read_by(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What each layer is given, in eval mode."""
    found: dict[str, Tensor] = {}
    watched = copy.deepcopy(model).eval()
    for path, module in watched.named_modules():
        module.register_forward_pre_hook(lambda _m, args, path=path: found.setdefault(path, args[0].clone()))
    with torch.no_grad():
        watched(images)
    return found


def test_every_reader_of_a_group_is_found_with_the_unit_of_each_channel() -> None:
    model = Several()
    graph = trace(model, torch.zeros(2, 3, 8, 8))
    group = next(entry for entry in graph.groups if entry.name == "stem")
    found = {reader.path: reader for reader in readers_of(graph, model, "stem")}
    assert list(found) == ["strided", "grouped", "joined"]
    assert all(reader.size == group.size for reader in found.values())
    assert found["joined"].units.tolist()[8:] == [-1] * 5
    assert found["grouped"].units.size == 8  # as the layer's input, not as its weight
    assert set(found["strided"].units.tolist()) == set(range(group.size))
    (linear,) = readers_of(graph, model, "strided")
    assert linear.units.size == 96
    assert np.bincount(linear.units).tolist() == [96 // linear.size] * linear.size


@pytest.mark.parametrize("group", ["stem", "other", "strided"])
def test_statistics_are_those_of_the_layer_run_on_one_unit_at_a_time(group: str) -> None:
    model = Several().eval()
    graph = trace(model, torch.zeros(2, 3, 8, 8))
    data = batches(5, 4, 1)
    readers = readers_of(graph, model, group)
    found = collect(model, {group: readers}, data)[group]
    reads = read_by(model, torch.cat([inputs for inputs, _ in data]))
    assert list(found) == [reader.path for reader in readers]
    for reader in readers:
        module = model.get_submodule(reader.path)
        assert_same(found[reader.path], by_hand(module, reads[reader.path], reader.units, reader.size))


def test_statistics_do_not_depend_on_how_images_are_split() -> None:
    model = Several()
    graph = trace(model, torch.zeros(2, 3, 8, 8))
    readers = {group: readers_of(graph, model, group) for group in ("stem", "strided")}
    once, often = (collect(model, readers, batches(*sizes)) for sizes in ([12], [5, 1, 4, 2]))
    for group, found in once.items():
        for path, statistics in found.items():
            assert_same(often[group][path], statistics, 1e-6)


def test_the_model_stays_as_it_was_and_forwards_end_early() -> None:
    model = Several().train()
    model.norm.eval()
    model.linear.weight.requires_grad_(False)
    model.strided.weight.grad = torch.ones_like(model.strided.weight)
    graph = trace(model, torch.zeros(2, 3, 8, 8))
    before = copy.deepcopy(model.state_dict())
    modes = {path: module.training for path, module in model.named_modules()}
    hooks = {path: len(module._forward_pre_hooks) for path, module in model.named_modules()}
    counted = {"forwards": 0, "ends": 0}
    model.register_forward_pre_hook(lambda *_: counted.__setitem__("forwards", counted["forwards"] + 1))
    model.norm.register_forward_pre_hook(lambda *_: counted.__setitem__("ends", counted["ends"] + 1))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    collect(model, {"stem": readers_of(graph, model, "stem")}, batches(2, 2, 2, 2))
    assert counted == {"forwards": 4, "ends": 1}  # the first forward shows where the others may end
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert {path: module.training for path, module in model.named_modules()} == modes
    assert torch.equal(model.strided.weight.grad, torch.ones_like(model.strided.weight))
    assert model.strided.weight.requires_grad
    assert not model.linear.weight.requires_grad
    assert {path: len(module._forward_pre_hooks) for path, module in model.named_modules()} == {
        path: count + (path in ("", "norm")) for path, count in hooks.items()
    }
    assert model.forwards == 0


def test_a_layer_that_runs_twice_adds_both_runs_and_forwards_run_to_their_end() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.first = nn.Conv2d(3, 4, 3, padding=1)
            self.again = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.again(torch.relu(self.again(torch.relu(self.first(x))))).mean((2, 3))

    model = Twice().eval()
    reader = Reader("again", "again.weight", np.arange(4), 4)
    ends = []
    model.register_forward_hook(lambda *_: ends.append(1))
    found = collect(model, {"any": [reader]}, batches(2, 3))["any"]["again"]
    assert len(ends) == 2
    with torch.no_grad():
        one = torch.relu(model.first(torch.cat([inputs for inputs, _ in batches(2, 3)])))
        two = torch.relu(model.again(one))
    assert_same(found, by_hand(model.again, torch.cat([one, two]), reader.units, 4))


def test_code_that_catches_what_ends_a_forward_changes_nothing() -> None:
    class Stubborn(Several):
        def forward(self, x: Tensor) -> Tensor:
            try:
                return super().forward(x)
            except Exception:
                return super().forward(x)

    plain, stubborn = Several(), Stubborn()
    readers = {"stem": readers_of(trace(plain, torch.zeros(2, 3, 8, 8)), plain, "stem")}
    one, other = (collect(model, readers, batches(3, 3, 3))["stem"]["strided"] for model in (plain, stubborn))
    assert torch.equal(one.gram, other.gram)
    assert one.rows == other.rows


def test_another_model_gives_the_target() -> None:
    model, dense = Several().eval(), Several().eval()
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    readers = readers_of(trace(model, torch.zeros(2, 3, 8, 8)), model, "stem")
    joined = next(reader for reader in readers if reader.path == "joined")
    data = batches(4, 2)
    images = torch.cat([inputs for inputs, _ in data])
    mine, theirs = read_by(model, images)["joined"], read_by(dense, images)["joined"]
    ours = torch.from_numpy(joined.units >= 0).double()[:, None, None]
    weight = dense.joined.weight.detach().double()
    # The same input channels to all filters; the channels of the other group are left out.
    restricted = F.conv2d(theirs.double() * ours, weight, stride=2).movedim(1, -1).flatten(0, 2)
    found = collect(model, {"stem": [joined]}, data, target_model=dense)["stem"]["joined"]
    assert_same(found, by_hand(model.joined, mine, joined.units, joined.size, restricted))
    # All channels, shifted.
    offset = torch.arange(6, dtype=torch.float64)
    whole = F.conv2d(theirs.double(), weight, stride=2).movedim(1, -1).flatten(0, 2) + offset
    target = {"joined": Target(None, None, offset)}
    found = collect(model, {"stem": [joined]}, data, target_model=dense, targets=target)["stem"]["joined"]
    assert_same(found, by_hand(model.joined, mine, joined.units, joined.size, whole))


def test_sampled_rows_tend_to_all_rows_and_repeat() -> None:
    model = Several().eval()
    readers = {"strided": readers_of(trace(model, torch.zeros(2, 3, 8, 8)), model, "strided")}
    exact = collect(model, readers, batches(8, 8))["strided"]["linear"]
    one, again, other = (
        collect(model, readers, batches(8, 8), rows_per_image=500, seed=seed)["strided"]["linear"] for seed in (0, 0, 1)
    )
    assert one.rows == 8000
    assert torch.equal(one.gram, again.gram)
    assert not torch.equal(one.gram, other.gram)
    mean, expected = one.gram / one.rows, exact.gram / exact.rows
    assert float((mean - expected).norm() / expected.norm()) < 0.1


def test_what_cannot_be_rebuilt_is_refused_in_one_sentence() -> None:
    class Upwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.up = nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.first(x))

    class Own(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    inputs = torch.zeros(2, 3, 8, 8)
    model: nn.Module = Upwards()
    with pytest.raises(PlanError, match=r"'first' cannot be rebuilt: up.weight belongs to a ConvTranspose2d, which is"):
        readers_of(trace(model, inputs), model, "first")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Own(4, 2, 1))
    with pytest.raises(PlanError, match="1 is a Own with a forward of its own"):
        readers_of(trace(model, inputs), model, "0")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 2, 1)))
    with pytest.raises(PlanError, match=r"is computed from 1\.parametrizations\.weight\.original"):
        readers_of(trace(model, inputs), model, "0")
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(PlanError, match="no convolution or linear layer reads group '0'"):
        readers_of(trace(model, inputs), model, "0")
    with pytest.raises(PlanError, match="unknown group 'nought'"):
        readers_of(trace(model, inputs), model, "nought")


def test_what_cannot_be_collected_is_refused_in_one_sentence() -> None:
    model = Several()
    readers = {"stem": readers_of(trace(model, torch.zeros(2, 3, 8, 8)), model, "stem")}
    with pytest.raises(DataError, match="no batches"):
        collect(model, readers, [])
    with pytest.raises(UsageError, match="rows_per_image is 0"):
        collect(model, readers, batches(2), rows_per_image=0)
    with pytest.raises(UsageError, match="leave out rows_per_image, or target_model"):
        collect(model, readers, batches(2), rows_per_image=10, target_model=Several())
    idle = nn.Sequential(nn.Conv2d(3, 2, 1))
    idle.unused = nn.Conv2d(2, 2, 1)
    idle.forward = lambda x: idle[0](x)  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="unused never ran"):
        collect(idle, {"any": [Reader("unused", "unused.weight", np.arange(2), 2)]}, batches(2))


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    alone, together = tmp_path / "alone.safetensors", tmp_path / "together.safetensors"
    pair = [start(SCRIPT, together, RANK=rank, LOCAL_RANK=rank, **shared) for rank in (0, 1)]
    run_here(SCRIPT, alone)
    for process in pair:
        process.end()
    one, two = safetensors.torch.load_file(alone), safetensors.torch.load_file(together)
    assert one.keys() == two.keys()
    assert len(one) > 6
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=1e-5, atol=1e-5 * float(values.abs().max()), msg=name)
