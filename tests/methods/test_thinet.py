"""ThiNet: counts, order, what is chosen and weighted, and what the record says."""

from pathlib import Path

import pytest
import torch
from quick import SETTINGS
from torch import Tensor, nn

from secateur.compensation import first_images
from secateur.cost import Budget
from secateur.criteria.reconstruction.statistics import Statistics
from secateur.data import load_data
from secateur.errors import BudgetError, PlanError, TrainingError, UsageError
from secateur.graph import ChannelGraph, apply, trace
from secateur.methods import Compressed, ThiNet
from secateur.methods.thinet.choosing import explained_alone, joined, loss_without
from secateur.methods.thinet.layers import check_longer, epochs_after, in_forward_order, kept_counts, stretches
from secateur.models import build_model
from secateur.training import Store, SupervisedTask

UNTRAINED = {"layer_epochs": 0, "finetune_epochs": 0, "finetune": None}


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return SupervisedTask(load_data("digits"), settings=SETTINGS, seed=1, device="cpu")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("digits-resnet")


class Chain(nn.Module):
    """Two convolutions, a linear layer behind flattening, and another; registered in another order than run."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 10)
        self.hidden = nn.Linear(8 * 16, 6)
        self.second = nn.Conv2d(10, 8, 3, padding=1, stride=2)
        self.first = nn.Conv2d(1, 10, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        logits: Tensor = self.out(torch.relu(self.hidden(x.flatten(1))))
        return logits


def chain() -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(3)
    made = Chain().eval()
    return made, trace(made, torch.zeros(2, 1, 8, 8))


def small_of(result: Compressed) -> dict[str, Tensor]:
    return dict(result.model.state_dict())


def digits_of(task: SupervisedTask) -> Tensor:
    return torch.cat([inputs for inputs, _ in task.data.batches("train", batch_size=256)])


# ----------------------------------------------------------------- how many, in which order


@pytest.mark.parametrize(("share", "kept"), [(0.5, (5, 4, 3)), (0.7, (7, 5, 4)), (0.3, (3, 2, 1)), (0.29, (2, 2, 1))])
def test_counts_are_int_of_size_times_share(share: float, kept: tuple[int, ...]) -> None:
    _, graph = chain()
    layers = [graph.group(name) for name in ("first", "second", "hidden")]
    assert tuple(kept_counts(graph, layers, {"*": share}, streams=False).values()) == kept


def test_a_share_counts_as_the_decimal_number_that_it_is() -> None:
    net = nn.Sequential(nn.Linear(3, 100), nn.Linear(100, 2))
    graph = trace(net, torch.zeros(2, 3))
    # 100 · 0.29 is 28.999999999999996 in floating point.
    assert kept_counts(graph, [graph.group("0")], {"0": 0.29}, streams=False) == {"0": 29}


def test_the_first_pattern_decides_and_a_whole_layer_is_no_cut() -> None:
    _, graph = chain()
    layers = [graph.group(name) for name in ("first", "second", "hidden")]
    assert kept_counts(graph, layers, {"second": 1.0, "*": 0.5}, streams=False) == {"first": 5, "hidden": 3}
    assert kept_counts(graph, layers, {"hidden": 0.1}, streams=False) == {"hidden": 1}
    assert kept_counts(graph, layers, {"*": 0.1}, streams=False, min_units=2) == {"first": 2, "second": 2, "hidden": 2}


def test_layers_go_in_the_order_in_which_they_run() -> None:
    _, graph = chain()
    assert in_forward_order(graph, ["hidden", "second", "first"]) == ["first", "second", "hidden"]


def test_both_convolutions_of_a_bottleneck_stand_together_and_other_layers_alone() -> None:
    with torch.device("meta"):
        bottlenecks = build_model("resnet50").eval()
    graph = trace(bottlenecks.to_empty(device="cpu"), torch.zeros(2, 3, 32, 32))
    names = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2", "layer1.2.conv1"]
    assert [len(part) for part in stretches(graph, names, by_block=True)] == [1, 2, 2, 1]
    assert [len(part) for part in stretches(graph, names, by_block=False)] == [1] * 6
    _, plain = chain()
    assert [len(part) for part in stretches(plain, ["first", "second"], by_block=True)] == [1, 1]


def test_longer_holds_for_its_layers_unless_there_is_no_training_at_all() -> None:
    _, graph = chain()
    assert epochs_after(["first"], 1, {"second": 2}) == 1
    assert epochs_after(["first", "second"], 1, {"second": 2}) == 2
    assert epochs_after(["second"], 0, {"second": 2}) == 0
    with pytest.raises(PlanError, match="did you mean 'second'"):
        check_longer(graph, {"secand": 2})


# ----------------------------------------------------------------- what is chosen, by arithmetic of our own


def contributions(model: Chain, images: Tensor) -> dict[str, Tensor]:
    """Return what each unit gives to the outputs of the next layer, a column per unit: by running one at a time."""
    with torch.no_grad():
        maps = torch.relu(model.first(images))
        layers = {"first": (model.second, maps)}
        maps = torch.relu(model.second(maps))
        layers["second"] = (model.hidden, maps)
        layers["hidden"] = (model.out, torch.relu(model.hidden(maps.flatten(1))))
        found = {}
        for name, (reader, inputs) in layers.items():
            columns = []
            for unit in range(inputs.shape[1]):
                alone = torch.zeros_like(inputs)
                alone[:, unit] = inputs[:, unit]
                read = alone.flatten(1) if isinstance(reader, nn.Linear) else alone
                given = reader(read) - reader(torch.zeros_like(read))
                columns.append(given.flatten().double())
            found[name] = torch.stack(columns, 1)
        return found


def greedily(columns: Tensor, keep: int) -> tuple[int, ...]:
    """Remove one column after the other, each time the one that makes the sum of all removed smallest."""
    gone: list[int] = []
    for _ in range(columns.shape[1] - keep):
        left = [unit for unit in range(columns.shape[1]) if unit not in gone]
        gone.append(min(left, key=lambda unit: float(columns[:, [*gone, unit]].sum(1).square().sum())))
    return tuple(unit for unit in range(columns.shape[1]) if unit not in gone)


def test_without_training_it_is_direct_greedy_and_least_squares_layer_by_layer(task: SupervisedTask) -> None:
    model, graph = chain()
    method = ThiNet(keep={"*": 0.5}, images=40, **UNTRAINED)
    result = method.compress(model, task, None, store=Store.temporary())
    images = torch.cat([inputs for inputs, _ in task.batches(1)])[:40]
    now, plan = model, graph.plan({})
    for name, keep in (("first", 5), ("second", 4), ("hidden", 3)):
        columns = contributions(now, images)[name]  # type: ignore[arg-type]
        kept = greedily(columns, keep)
        assert result.plan.kept[name] == kept
        weights = torch.linalg.lstsq(columns[:, kept], columns.sum(1, keepdim=True)).solution.flatten()
        plan = graph.plan({**plan.kept, name: kept})
        before = graph.plan({layer: units for layer, units in plan.kept.items() if layer != name})
        now = apply(now, graph.after(before).plan({name: kept}), verify_with=None)
        reader = {"first": "second", "second": "hidden", "hidden": "out"}[name]
        weight = now.get_parameter(f"{reader}.weight")
        per_unit = weight.shape[1] // keep
        with torch.no_grad():
            factors = weights.repeat_interleave(per_unit).to(weight.dtype)
            weight *= factors.reshape(1, -1, *(1,) * (weight.dim() - 2))
    torch.testing.assert_close(small_of(result), dict(now.state_dict()), rtol=1e-4, atol=1e-6)


def test_weights_never_make_the_next_layer_worse(task: SupervisedTask) -> None:
    model, _ = chain()
    images = digits_of(task)
    model.requires_grad_(False)
    wanted = model.second(torch.relu(model.first(images)))  # type: ignore[operator]
    errors = {}
    for reweight in (False, True):
        method = ThiNet(keep={"first": 0.4}, reweight=reweight, images=10_000, **UNTRAINED)
        small = method.compress(model, task, None, store=Store.temporary()).model.requires_grad_(False)
        errors[reweight] = float((small.second(torch.relu(small.first(images))) - wanted).square().mean())  # type: ignore[operator]
    assert 0 < errors[True] < errors[False]


def test_the_variants_choose_as_they_say_and_only_thinets_reweight(task: SupervisedTask) -> None:
    model, _ = chain()
    assert isinstance(model, Chain)
    kept = {}
    for variant in ("thinet", "thinet_tpami", "weight_sum", "random", "apoz"):
        method = ThiNet(variant=variant, keep={"first": 0.5}, images=100, **UNTRAINED)  # type: ignore[arg-type]
        result = method.compress(model, task, None, store=Store.temporary())
        kept[variant] = result.plan.kept["first"]
        same = torch.equal(result.model.second.weight, model.second.weight[:, list(kept[variant])])  # type: ignore[union-attr,arg-type]
        assert same is not method.reweights
        assert method.reweights is variant.startswith("thinet")
    norms = model.first.weight.detach().abs().sum((1, 2, 3))
    assert kept["weight_sum"] == tuple(sorted(norms.topk(5).indices.tolist()))
    images = torch.cat([inputs for inputs, _ in task.batches(1)])[:100]
    alive = (model.first(images) > 0).float().mean((0, 2, 3))
    assert kept["apoz"] == tuple(sorted(alive.topk(5).indices.tolist()))
    assert len({*kept.values()}) > 2


def test_sampled_rows_depend_on_the_seed_alone(task: SupervisedTask) -> None:
    model, _ = chain()

    def weights(seed: int) -> dict[str, Tensor]:
        method = ThiNet(statistics="rows", images=50, rows_per_image=4, keep={"*": 0.5}, seed=seed, **UNTRAINED)
        return small_of(method.compress(model, task, None, store=Store.temporary()))

    one, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_stream_is_cut_by_the_sum_of_what_its_readers_give_and_each_is_weighted(
    task: SupervisedTask, model: nn.Module
) -> None:
    task.train(model, epochs=1)
    told: list[str] = []
    method = ThiNet(residual="group", keep={"conv1": 0.5}, images=64, **UNTRAINED)
    result = method.compress(model, task, None, store=Store.temporary(), progress=told.append)
    assert list(result.plan.kept) == ["conv1"]
    readers = [line for line in told if line.startswith("conv1: what")]
    assert len(readers) == 4
    assert any("residual streams are cut" in note for note in result.record.notes)
    kept = list(result.plan.kept["conv1"])
    for reader in ("layer1.0.conv1", "layer2.0.shortcut.0"):
        ratio = result.model.get_parameter(f"{reader}.weight") / model.get_parameter(f"{reader}.weight")[:, kept]
        per_unit = ratio.detach().transpose(0, 1).flatten(1)
        torch.testing.assert_close(per_unit, per_unit[:, :1].expand_as(per_unit), rtol=1e-4, atol=1e-5)
        assert float((per_unit[:, 0] - 1).abs().max()) > 1e-3


# ----------------------------------------------------------------- the run


def test_each_layer_is_decided_on_the_model_as_training_has_left_it(task: SupervisedTask) -> None:
    model, _ = chain()
    common = {"keep": {"first": 0.5, "second": 0.5}, "images": 100, "finetune_epochs": 0, "finetune": None}
    result = ThiNet(layer_epochs=1, recover=SETTINGS, longer={"first": 2}, **common).compress(  # type: ignore[arg-type]
        model, task, None, store=Store.temporary()
    )
    assert [(phase.phase, len(phase.epochs)) for phase in result.record.phases] == [("recover-1", 2)]
    assert result.record.trained_between_cuts
    assert [step.phase for step in result.record.steps] == ["dense", "recover-1"]
    untrained = ThiNet(layer_epochs=0, longer={"first": 2}, **common).compress(  # type: ignore[arg-type]
        model, task, None, store=Store.temporary()
    )
    assert untrained.record.phases == ()
    assert untrained.record.trained_between_cuts  # re-weighting changes weights too
    assert untrained.record.steps[1].scores != result.record.steps[1].scores


def test_a_block_is_trained_once_for_all_of_its_layers(task: SupervisedTask) -> None:
    torch.manual_seed(0)
    net = Bottlenecks()
    method = ThiNet(
        keep={"*.conv[12]": 0.5},
        together="block",
        layer_epochs=0.1,
        recover=SETTINGS,
        images=32,
        finetune_epochs=0,
        finetune=None,
    )
    result = method.compress(net, task, None, store=Store.temporary())
    assert [phase.phase for phase in result.record.phases] == ["recover-2"]
    assert [next(iter(step.scores)) for step in result.record.steps] == ["a.conv1", "a.conv2", "b.conv1", "b.conv2"]


class Bottleneck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv3(torch.relu(self.conv2(torch.relu(self.conv1(x)))))
        return y


class Bottlenecks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = nn.Conv2d(1, 8, 3), Bottleneck(), Bottleneck(), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.b(self.a(self.stem(x))).mean((2, 3)))
        return logits


def test_scores_of_the_record_are_lowest_for_what_was_cut(task: SupervisedTask) -> None:
    model, _ = chain()
    result = ThiNet(keep={"*": 0.5}, images=64, **UNTRAINED).compress(model, task, None, store=Store.temporary())
    assert [step.removed for step in result.record.steps] == [5, 4, 3]
    for step in result.record.steps:
        ((name, scores),) = step.scores.items()
        kept = result.plan.kept[name]
        gone = [score for unit, score in enumerate(scores) if unit not in kept]
        assert max(gone) <= min(scores[unit] for unit in kept)
        assert step.accuracy is not None


def test_a_run_that_lost_its_weights_says_so(task: SupervisedTask, tmp_path: Path) -> None:
    model, _ = chain()
    method = ThiNet(keep={"first": 0.5}, images=64, **UNTRAINED)
    first = method.compress(model, task, None, store=Store(tmp_path))
    again = method.compress(model, task, None, store=Store(tmp_path))
    torch.testing.assert_close(small_of(again), small_of(first), rtol=0, atol=0)
    (tmp_path / "data" / "chosen-1.safetensors").unlink()
    with pytest.raises(TrainingError, match="holds the decision of cut 1 but not chosen-1"):
        method.compress(model, task, None, store=Store(tmp_path))


def test_another_order_of_the_shares_is_another_run(task: SupervisedTask, tmp_path: Path) -> None:
    model, _ = chain()
    settings = {"images": 64, **UNTRAINED}
    ThiNet(keep={"first": 0.5, "*": 0.8}, **settings).compress(model, task, None, store=Store(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="was decided for keep = "):
        ThiNet(keep={"*": 0.8, "first": 0.5}, **settings).compress(model, task, None, store=Store(tmp_path))  # type: ignore[arg-type]


def test_notes_say_what_is_not_as_in_the_paper(task: SupervisedTask) -> None:
    model, _ = chain()
    plain = ThiNet(keep={"first": 0.5}, statistics="rows", images=20, finetune_epochs=0, layer_epochs=0)
    notes = plain.compress(model, task, None, store=Store.temporary()).record.notes
    assert len(notes) == 2
    assert "images are drawn from the whole training split" in notes[0]
    assert "training is not the authors'" in notes[1]
    other = ThiNet(variant="random", reweight=True, images=20, finetune_epochs=0)
    notes = other.compress(model, task, Budget(macs=0.6), store=Store.temporary()).record.notes
    for words in ("re-weighted though random", "statistics of the next layer are exact", "a budget decides"):
        assert any(words in note for note in notes)
    unweighted = ThiNet(reweight=False, keep={"first": 0.5}, images=20, finetune_epochs=0)
    notes = unweighted.compress(model, task, None, store=Store.temporary()).record.notes
    assert any("w/o w" in note for note in notes)


# ----------------------------------------------------------------- decide, budgets, refusals


def test_decide_leaves_the_counts_of_the_run_and_needs_no_data(task: SupervisedTask, model: nn.Module) -> None:
    graph = trace(model, task.example_inputs)
    for variant in ("thinet", "apoz", "random"):
        method = ThiNet(variant=variant, keep={"*.conv1": 0.5}, images=32, **UNTRAINED)  # type: ignore[arg-type]
        plan = method.decide(graph, model, None)
        done = method.compress(model, task, None, store=Store.temporary()).plan
        assert plan.kept_sizes() == done.kept_sizes()
    norms = model.get_parameter("layer1.0.conv1.weight").detach().abs().sum((1, 2, 3))
    stand_in = ThiNet(keep={"layer1.0.conv1": 0.5}).decide(graph, model, None)
    assert stand_in.kept["layer1.0.conv1"] == tuple(sorted(norms.topk(8).indices.tolist()))


def test_a_budget_takes_the_same_share_of_every_layer(model: nn.Module) -> None:
    graph = trace(model, torch.zeros(2, 1, 8, 8))
    plan = ThiNet(residual="inner").decide(graph, model, Budget(macs=0.5))
    shares = [len(kept) / plan.sizes[name] for name, kept in plan.kept.items()]
    assert not any(graph.group(name).is_stream for name in plan.kept)
    assert max(shares) - min(shares) <= 1 / 16 + 1e-9
    assert graph.macs(plan) <= 0.5 * graph.macs()


@pytest.mark.parametrize(("settings", "budget", "error", "words"), [
    ({}, None, BudgetError, "needs to know how much to cut"),
    ({"keep": {"*": 0.5}}, Budget(macs=0.5), BudgetError, "only one of them can decide"),
    ({"keep": {"layer9.*": 0.5}}, None, PlanError, "layer9"),
    ({"keep": {"conv1": 0.5}}, None, PlanError, "is a residual stream that several layers produce"),
    ({"keep": {"layer1.0.conv1": 0.5}, "skip": ("layer1.*",)}, None, PlanError, "layer1.0.conv1 is skipped"),
    ({"keep": {"linear": 0.5}}, None, PlanError, "linear"),
])  # fmt: skip
def test_what_cannot_be_cut_is_refused(
    model: nn.Module, settings: dict[str, object], budget: Budget | None, error: type[Exception], words: str
) -> None:
    graph = trace(model, torch.zeros(2, 1, 8, 8))
    with pytest.raises(error, match=words):
        ThiNet(**settings).decide(graph, model, budget)  # type: ignore[arg-type]


def test_shares_that_keep_all_leave_nothing_to_do(task: SupervisedTask) -> None:
    model, _ = chain()
    with pytest.raises(BudgetError, match="nothing to cut"):
        ThiNet(keep={"*": 1.0}).compress(model, task, None, store=Store.temporary())


class TransposedReader(nn.Module):
    """What the first convolution gives is read by a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up, self.head = nn.Conv2d(1, 6, 3), nn.ConvTranspose2d(6, 4, 2), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.up(self.first(x)).mean((2, 3)))
        return logits


def test_a_layer_whose_reader_is_no_convolution_is_named_before_anything_runs() -> None:
    net = TransposedReader()
    graph = trace(net, torch.zeros(2, 1, 8, 8))
    with pytest.raises(PlanError, match=r"(?s)'first'.*leave that layer alone \(skip, --lock 'first'\)"):
        ThiNet(keep={"first": 0.5}).decide(graph, net, None)
    by_norms = ThiNet(variant="weight_sum", keep={"first": 0.5}).decide(graph, net, None)
    assert by_norms.kept_sizes() == {"first": 3}
    assert ThiNet(skip=("first",)).decide(graph, net, Budget(params=0.9)).kept_sizes().keys() == {"up"}


def test_layers_that_can_be_cut_are_suggested_before_those_that_cannot() -> None:
    net, graph = chain()  # out gives the logits, so that it is locked
    with pytest.raises(PlanError, match=r"unknown layer to cut 'conv\*'; choose one of: first, hidden, second$"):
        ThiNet(keep={"conv*": 0.5}).decide(graph, net, None)
    with pytest.raises(PlanError, match="unknown layer to skip 'firsst'; did you mean 'first'"):
        ThiNet(keep={"*": 0.5}, skip=("firsst",)).decide(graph, net, None)
    with pytest.raises(PlanError, match="unknown layer in longer 'hiden'; did you mean 'hidden'"):
        ThiNet(keep={"*": 0.5}, longer={"hiden": 2}).decide(graph, net, None)


@pytest.mark.parametrize(("settings", "words"), [
    ({"variant": "thinnet"}, "did you mean 'thinet'"),
    ({"statistics": "row"}, "did you mean 'rows'"),
    ({"together": "blocks"}, "did you mean 'block'"),
    ({"residual": "shortcut"}, "residual"),
    ({"keep": {"*": 0.0}}, "above 0 up to 1"),
    ({"keep": {"*": 1.5}}, "keep for '\\*' is 1.5"),
    ({"images": 0}, "images is 0"),
    ({"rows_per_image": 0}, "rows_per_image is 0"),
    ({"images": True}, "images is True, but must be a number"),
    ({"keep": {"*": True}}, "keep for .* is True; it is the share"),
    ({"layer_epochs": 1.5}, "layer_epochs is 1.5"),
    ({"layer_epochs": float("inf")}, "layer_epochs is inf"),
    ({"longer": {"a": -1}}, "longer for 'a' is -1"),
    ({"finetune_epochs": -1}, "finetune_epochs is -1"),
    ({"rows_per_image": 4}, "rows_per_image is 4, but statistics exact takes every position, so .*: rows$"),
    ({"keep": {"*": 0.5}, "round_to": 8}, "round_to is 8, but keep decides .*; leave it out, or give a budget"),
    ({"keep": {"*": 0.5}, "scope": "global"}, "scope is global, but keep decides how many filters each layer keeps"),
    ({"variant": "random", "statistics": "rows"}, "statistics is rows, but the variant random"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ThiNet(**settings)  # type: ignore[arg-type]


def test_what_says_something_is_taken() -> None:
    assert ThiNet(statistics="rows", rows_per_image=4).rows_per_image == 4
    assert ThiNet(round_to=8, scope="global").scope == "global"
    assert ThiNet(keep={"*": 0.5}, scope="local", round_to=1, rows_per_image=10, min_units=4).min_units == 4
    assert ThiNet(variant="random", images=50).images == 50  # so that variants can be compared by nothing else


# ----------------------------------------------------------------- the parts, by hand


def statistics(columns: Tensor) -> Statistics:
    y = columns.sum(1)
    return Statistics(
        gram=columns.T @ columns,
        cross=columns.T @ y,
        energy=float(y @ y),
        rows=len(columns),
        sums=columns.sum(0, keepdim=True),
        target_sums=y.sum().reshape(1),
        positions=len(columns),
    )


def test_losses_by_hand() -> None:
    # Three units and two rows: (1, 0), (0, 2), (0, −1); they sum to (1, 1) with an energy of 2.
    columns = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, -1.0]], dtype=torch.float64)
    one = statistics(columns)
    # Unit 0 goes first with a loss of 1, as unit 2 would; then unit 2: (1, −1), a loss of 2; then all: 2 again.
    torch.testing.assert_close(loss_without(one), torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64))
    # Alone: 1·1 of 2; (2·1)²/4 of 2; (−1·1)²/1 of 2.
    torch.testing.assert_close(explained_alone(one), torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64))
    silent = statistics(torch.zeros(2, 3, dtype=torch.float64))
    assert loss_without(silent).tolist() == explained_alone(silent).tolist() == [0, 0, 0]


def test_the_statistics_of_two_readers_are_those_of_one_with_all_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    together, both = statistics(rows), joined([statistics(rows[:8]), statistics(rows[8:])])
    torch.testing.assert_close(both.gram, together.gram)
    torch.testing.assert_close(both.cross, together.cross)
    assert both.energy == pytest.approx(together.energy)
    assert joined([together]) is together


def test_as_many_images_as_asked_for_are_read(task: SupervisedTask) -> None:
    assert sum(len(inputs) for inputs, _ in first_images(task, 300)) == 300
    assert [len(labels) for _, labels in first_images(task, 10)] == [10]
    everything = task.data.size("train")
    assert sum(len(inputs) for inputs, _ in first_images(task, 10**6)) == everything
