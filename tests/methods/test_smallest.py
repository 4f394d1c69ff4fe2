"""Searches over real cuts and real training on the digits; run as a script, this file is one that gets killed."""

import copy
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from own_process import run, run_here
from safetensors.torch import load_file, save_file
from torch import nn

from secateur.cost import Budget
from secateur.data import load_data
from secateur.errors import ArtifactError, BudgetError, TrainingError, UsageError
from secateur.graph import trace
from secateur.methods import L1, Compressed, Magnitude
from secateur.methods.smallest import (
    NothingNearError,
    Search,
    easiest_budget,
    read_search,
    smallest_within,
    write_search,
)
from secateur.models import build_model
from secateur.record import TrainResult
from secateur.training import Batch, Store, SupervisedTask, TrainSettings

SETTINGS = TrainSettings(batch_size=64, learning_rate=0.05)
VALIDATION_SHARE = 0.3
GROUPS = Magnitude(residual="group")  # so that a model this small loses little enough


class Watched:
    """The digits, and a list of the splits that were read."""

    def __init__(self) -> None:
        self.data = load_data("digits", validation_share=VALIDATION_SHARE)
        self.splits: set[str] = set()

    def __getattr__(self, name: str) -> object:
        return getattr(self.data, name)

    def batches(self, split: str, **settings: object) -> Iterator[Batch]:
        self.splits.add(split)
        return self.data.batches(split, **settings)


class Mortal(SupervisedTask):
    """Counts its steps over all phases, and dies after one of them."""

    steps = 0
    last_step = 10**9

    def train(self, model: nn.Module, *, hooks: tuple[object, ...] = (), **settings: object) -> TrainResult:
        return super().train(model, hooks=[*hooks, StepCount()], **settings)


class StepCount:
    def after_step(self, model: nn.Module) -> None:
        Mortal.steps += 1
        if Mortal.steps == Mortal.last_step:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def data() -> Watched:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return Watched()


@pytest.fixture(scope="module")
def task(data: Watched) -> Mortal:
    return Mortal(data, settings=SETTINGS, device="cpu")


@pytest.fixture(scope="module")
def dense(task: Mortal) -> nn.Module:
    torch.manual_seed(0)
    model = build_model("digits-resnet")
    task.train(model, epochs=4)
    return model


@pytest.fixture(scope="module")
def found(task: Mortal, dense: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Search, Path, list[str]]:
    folder, told = tmp_path_factory.mktemp("search"), []
    search = smallest_within(GROUPS, dense, task, max_drop_points=6, store=Store(folder), progress=told.append)
    return search, folder, told


def quick(task: Mortal, dense: nn.Module, method: Magnitude | None = None, **settings: object) -> Search:
    """A search by tenths without recovery and, unless said otherwise, with any accuracy near enough."""
    whole = {"max_drop_points": 100, "recovery_epochs": 0, "tolerance": 0.1, "store": Store.temporary(), **settings}
    return smallest_within(method or GROUPS, dense, task, **whole)


def shares(search: Search) -> list[float]:
    return [candidate.share for candidate in search.curve]


def test_the_chosen_candidate_is_within_and_the_next_smaller_one_is_not(found: tuple[Search, Path, list[str]]) -> None:
    search = found[0]
    assert search.budget == Budget(macs=search.share)
    assert search.chosen.within
    assert search.chosen.validation.top1 >= search.dense.top1 - 0.06 - 1e-9
    verdicts = {round(50 * candidate.share): candidate.within for candidate in search.curve}
    assert verdicts[round(50 * search.share) - 1] is False
    assert shares(search) == sorted(shares(search))
    for candidate in search.curve:
        assert candidate.share == round(50 * candidate.share) / 50  # on the grid, to the last bit
        assert candidate.within == (candidate.share >= search.share)
        assert candidate.within == (candidate.drop_points <= 6)
        assert candidate.drop_points == pytest.approx(100 * (search.dense.top1 - candidate.validation.top1))


def test_candidates_are_what_the_method_makes(
    found: tuple[Search, Path, list[str]], task: Mortal, dense: nn.Module
) -> None:
    search, graph = found[0], trace(dense, task.example_inputs)
    result = replace(GROUPS, finetune_epochs=1).compress(dense, task, search.budget, store=Store.temporary())
    assert task.evaluate(result.model) == search.chosen.validation
    assert result.record.after_cut == search.chosen.after_cut
    assert (graph.macs(result.plan), graph.params(result.plan)) == (search.chosen.macs, search.chosen.params)
    for candidate in search.curve:
        assert candidate.reached == candidate.macs / graph.macs()
        assert candidate.share - 0.02 < candidate.reached <= candidate.share


def test_only_results_stay_on_disk_and_the_test_split_is_never_read(
    found: tuple[Search, Path, list[str]], data: Watched
) -> None:
    search, folder, _ = found
    assert data.splits == {"train", "validation"}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == {"data"}
    assert len(files) == 1 + len(search.curve)
    assert all(load_file(path) == {} for path in files)
    assert not (folder / "candidates").exists()


def test_every_candidate_is_told(found: tuple[Search, Path, list[str]]) -> None:
    search, _, told = found
    lines = [line for line in told if line.startswith("candidate ")]
    assert len(lines) == len(search.curve)
    first = next(candidate for candidate in search.curve if candidate.share == 0.5)
    assert lines[0].startswith(f"candidate 1, macs 0.5: top-1 {100 * first.validation.top1:.2f} % (")
    assert lines[0].endswith("near enough" if first.within else "too far")
    assert told[-1] == f"found: {search.share:g} of macs is the smallest share within 6 points"


def test_a_second_search_over_the_store_trains_nothing_even_with_another_limit(
    found: tuple[Search, Path, list[str]], task: Mortal, dense: nn.Module
) -> None:
    search, folder, _ = found
    before, steps = copy.deepcopy(dense.state_dict()), Mortal.steps
    # Weights of a finished candidate, as a kill right after its result was kept leaves them.
    Store(folder / "candidates" / "1-of-2").keep("plan-1")
    again = smallest_within(GROUPS, dense, task, max_drop_points=6, store=Store(folder))
    assert again == search
    assert not (folder / "candidates").exists()
    # A limit that parts the same candidates takes the same way.
    nearby = max(0.0, *(candidate.drop_points for candidate in search.curve if candidate.within))
    other = smallest_within(GROUPS, dense, task, max_drop_points=nearby, store=Store(folder))
    assert other.curve == search.curve
    assert Mortal.steps == steps
    torch.testing.assert_close(dict(dense.state_dict()), dict(before), rtol=0, atol=0)


def test_a_store_of_another_search_is_refused(task: Mortal, dense: nn.Module, tmp_path: Path) -> None:
    quick(task, dense, store=Store(tmp_path), least=0.85)
    with pytest.raises(TrainingError, match=r"smallest-9-of-10 was measured for settings = .*'l1'.*not .*'l2'"):
        quick(task, dense, Magnitude(criterion="l2"), store=Store(tmp_path), least=0.85)
    other = copy.deepcopy(dense)
    with torch.no_grad():
        other.linear.bias[0] += 1e-3
    with pytest.raises(TrainingError, match="another search: smallest-dense was measured for weights"):
        quick(task, other, store=Store(tmp_path), least=0.85)
    Store(tmp_path / "foreign").keep("smallest-dense", [1])
    with pytest.raises(TrainingError, match=r"smallest-dense in .* is not a result of a search"):
        quick(task, dense, store=Store(tmp_path / "foreign"))


# By hand: the grid has steps of a tenth, and any accuracy is near enough, so each half goes to the lower side.
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.1, 0.2, 0.5]),  # of 1 … 9: 5, 2, 1
        ({"least": 0.25}, [0.3, 0.4, 0.6]),  # of 3 … 9: 6, 4, 3
        ({"also": Budget(macs=0.55)}, [0.1, 0.3]),  # of 1 … 5: 3, 1
        ({"also": Budget(macs=0.6), "least": 0.6}, [0.6]),  # of 6 … 6, which rounding must not lose
        ({"tolerance": 0.3}, [0.25, 0.5]),  # the grid has quarters: 2, 1
    ],
)
def test_the_way_of_the_bisection_by_hand(
    task: Mortal, dense: nn.Module, settings: dict[str, object], expected: list[float]
) -> None:
    search = quick(task, dense, **settings)
    assert shares(search) == expected
    assert search.budget == Budget(macs=expected[0])
    assert f"{expected[0]:g} of macs is the smallest share allowed" in search.notes[-1]
    for candidate in search.curve:
        assert candidate.validation == candidate.after_cut  # there is no recovery


def test_another_amount_and_other_limits_hold_in_every_candidate(task: Mortal, dense: nn.Module) -> None:
    search = quick(task, dense, amount="params", also=Budget(macs=0.6, size_bytes=400_000))
    graph = trace(dense, task.example_inputs)
    assert search.budget == Budget(params=search.share, macs=0.6, size_bytes=400_000)
    for candidate in search.curve:
        assert candidate.macs <= 0.6 * graph.macs()
        assert candidate.params <= candidate.share * graph.params()
        assert candidate.reached == candidate.params / graph.params()


def test_what_cannot_be_cut_is_the_lower_end(task: Mortal, dense: nn.Module) -> None:
    told: list[str] = []
    search = quick(task, dense, Magnitude(min_share=0.5), progress=told.append)
    refused = [candidate for candidate in search.curve if candidate.reason is not None]
    assert refused
    assert all("cannot reach macs" in candidate.reason for candidate in refused)
    assert all(candidate.validation is None and not candidate.within for candidate in refused)
    assert max(candidate.share for candidate in refused) == pytest.approx(search.share - 0.1)
    assert any(line.startswith("candidate 2, macs 0.2: cannot be cut: cannot reach macs") for line in told)


def test_nothing_near_enough_names_the_best_and_the_way_out(task: Mortal, dense: nn.Module) -> None:
    with pytest.raises(BudgetError) as caught:
        quick(task, dense, max_drop_points=0, least=0.5, also=Budget(macs=0.6))
    best = replace(GROUPS, finetune_epochs=0).compress(dense, task, Budget(macs=0.6), store=Store.temporary())
    lost = 100 * (task.evaluate(dense).top1 - task.evaluate(best.model).top1)
    words = f"within 0 points after 0 epochs of recovery: the best, at 0.6 of macs, is {lost:.2f} points below"
    assert words in str(caught.value)
    assert "--max-drop" in str(caught.value)
    with pytest.raises(BudgetError, match=r"no share of macs that was tried can be cut; at 0.9: cannot reach macs"):
        quick(task, dense, Magnitude(min_share=1.0))


@dataclass(frozen=True, kw_only=True)
class Ordered(Magnitude):
    """Has a mapping whose order may decide."""

    ratios: dict[str, float]


def test_nothing_near_enough_leaves_what_was_measured(task: Mortal, dense: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(NothingNearError) as caught:
        quick(task, dense, GROUPS, max_drop_points=0, least=0.5, also=Budget(macs=0.6))
    search = caught.value.search
    assert (search.budget, search.share, search.chosen) == (None, None, None)
    assert shares(search)[-1] == 0.6
    write_search(tmp_path / "search.json", search)
    assert read_search(tmp_path / "search.json") == search


def test_candidates_train_after_their_last_cut_alone(task: Mortal, dense: nn.Module) -> None:
    whole = {"tolerance": 0.5, "least": 0.5}
    for method in (L1(strategy="layer-by-layer", layer_epochs=1), Magnitude(steps=2, step_epochs=1)):
        before = Mortal.steps
        search = quick(task, dense, method, **whole)
        assert Mortal.steps == before
        assert len(search.curve) == 1
        quick(task, dense, method, recovery_epochs=1, **whole)
        assert Mortal.steps == before + math.ceil(task.data.size("train") / SETTINGS.batch_size)


def test_a_search_in_another_order_of_ratios_is_another(task: Mortal, dense: nn.Module, tmp_path: Path) -> None:
    def searched(ratios: dict[str, float]) -> Search:
        return quick(task, dense, Ordered(ratios=ratios), tolerance=0.5, store=Store(tmp_path))

    first = searched({"a": 0.5, "b": 0.25})
    assert searched({"a": 0.5, "b": 0.25}) == first
    with pytest.raises(TrainingError, match="belongs to another search"):
        searched({"b": 0.25, "a": 0.5})


def test_what_cannot_work_is_refused_before_anything_is_measured(task: Mortal, dense: nn.Module) -> None:
    class Untouchable(Mortal):
        def evaluate(self, *words: object) -> None:
            raise AssertionError("something was measured")

    untouched = Untouchable(task.data, settings=SETTINGS, device="cpu")
    for settings, error, words in [
        ({"max_drop_points": -0.5}, UsageError, r"max_drop is -0.5, but must be in \[0, 100\]"),
        ({"max_drop_points": 101}, UsageError, "max_drop is 101"),
        ({"max_drop_points": math.nan}, UsageError, "max_drop is nan"),
        ({"recovery_epochs": -1}, UsageError, "recovery_epochs is -1"),
        ({"recovery_epochs": 0.5}, UsageError, "recovery_epochs is 0.5"),
        ({"tolerance": 0.0}, UsageError, "tolerance is 0.0"),
        ({"least": 1.0}, UsageError, "least is 1.0"),
        ({"amount": "mac"}, UsageError, "unknown amount 'mac'; did you mean 'macs'"),
        ({"amount": "latency_ms"}, BudgetError, "needs a latency table"),
        ({"also": Budget(params=10)}, BudgetError, r"cannot hold params ≤ 10 in any candidate: the deepest cut"),
        ({"least": 0.8, "also": Budget(macs=0.5)}, UsageError, "no share of macs to try: the smallest allowed is 0.8"),
    ]:
        with pytest.raises(error, match=words):
            quick(untouched, dense, **settings)


def test_the_easiest_budget_is_the_largest_that_is_tried(task: Mortal, dense: nn.Module) -> None:
    graph = trace(dense, task.example_inputs)
    assert easiest_budget(graph) == Budget(macs=0.98)
    assert easiest_budget(graph, amount="params", also=Budget(params=0.5, macs=0.7)) == Budget(params=0.5, macs=0.7)
    with pytest.raises(UsageError, match="unknown amount"):
        easiest_budget(graph, amount="weight")
    with pytest.raises(BudgetError, match="cannot hold macs"):
        easiest_budget(graph, also=Budget(macs=1))


def test_noise_is_told_where_it_matters(found: tuple[Search, Path, list[str]], task: Mortal, dense: nn.Module) -> None:
    search = found[0]
    samples = search.dense.samples
    right = round(search.dense.top1 * samples)
    share = (right + 1) / (samples + 2)
    assert search.standard_error_points == pytest.approx(100 * math.sqrt(share * (1 - share) / samples))
    assert 0.5 < search.standard_error_points < 3
    assert not any("standard error" in note for note in search.notes)  # against a limit of 6 points
    torch.manual_seed(1)
    untrained = build_model("digits-resnet")  # so bad that every candidate is better
    better = quick(task, untrained, max_drop_points=0.5, recovery_epochs=1, tolerance=0.5)
    assert better.chosen.drop_points < 0
    assert f"the validation split has {samples} samples: one standard error of the dense model's" in better.notes[0]


@dataclass(frozen=True, kw_only=True)
class Spoiling(Magnitude):
    """Cuts as Magnitude does, and for some budgets gives a model that always answers the same."""

    spoiled: tuple[float, ...] = ()

    def compress(self, model: nn.Module, task: SupervisedTask, budget: Budget, **rest: object) -> Compressed:
        result = super().compress(model, task, budget, **rest)
        if budget.macs in self.spoiled:
            with torch.no_grad():
                result.model.linear.weight.zero_()
        return result


def test_accuracy_that_does_not_rise_evenly_is_told(task: Mortal, dense: nn.Module) -> None:
    search = quick(task, dense, Spoiling(spoiled=(0.5,)), tolerance=0.25, recovery_epochs=1)
    assert shares(search) == [0.25, 0.5]
    small, large = (f"{100 * candidate.validation.top1:.2f} %" for candidate in search.curve)
    assert f"top-1 is {small} at 0.25 but {large} at 0.5; a share below the chosen one" in search.notes[0]
    # One that falls short at a half is looked past: bisection goes to the larger side.
    spoiled = quick(task, dense, Spoiling(spoiled=(0.5,)), tolerance=0.25, recovery_epochs=1, max_drop_points=60)
    assert [(candidate.share, candidate.within) for candidate in spoiled.curve] == [(0.5, False), (0.75, True)]


def test_a_search_reads_back_as_it_was_and_nothing_else_does(
    found: tuple[Search, Path, list[str]], tmp_path: Path
) -> None:
    path = tmp_path / "search.json"
    search = found[0]
    lost = replace(search.curve[0].validation, loss=math.inf)
    for written in (search, replace(search, curve=(replace(search.curve[0], validation=lost), *search.curve[1:]))):
        write_search(path, written)
        assert read_search(path) == written
    whole = json.loads(path.read_text())
    for change, words in [
        ({"colour": 1}, "colour: Unexpected keyword argument"),
        ({"share": 0.123}, "no candidate of its curve has the chosen share 0.123"),
        ({"format": 2}, "has search format 2, but this version reads format 1"),
        ({"budget": {"macs": -1}}, "is not a search: macs is -1"),
        ({"curve": [{"share": "much"}]}, "is not a search: curve.0.share"),
    ]:
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(ArtifactError, match=words):
            read_search(path)
    with pytest.raises(ArtifactError, match="cannot read"):
        read_search(tmp_path / "absent.json")


def test_a_search_killed_in_a_recovery_goes_on_to_the_same_bytes(
    dense: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "dense.safetensors"
    save_file(dense.state_dict(), weights)
    script = Path(__file__)
    run_here(script, weights, tmp_path / "one", tmp_path / "one.json")
    steps = int(capsys.readouterr().out)
    run(script, weights, tmp_path / "other", tmp_path / "other.json", 22, killed=True)
    # 16 steps per epoch: the second candidate is in its sixth, with a checkpoint after the fourth.
    folders = [path.name for path in (tmp_path / "other" / "candidates").iterdir()]
    assert len(folders) == 1
    assert (tmp_path / "other" / "candidates" / folders[0] / "phases" / "finetune.safetensors").exists()
    assert {path.stem for path in (tmp_path / "other" / "data").iterdir()} == {"smallest-dense", "smallest-1-of-2"}
    assert not (tmp_path / "other.json").exists()
    assert int(run(script, weights, tmp_path / "other", tmp_path / "other.json")) == steps - 16 - 4
    assert (tmp_path / "other.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert not (tmp_path / "other" / "candidates").exists()


def main(weights: str, folder: str, out: str, last_step: str = "0") -> None:
    Mortal.last_step = int(last_step) or Mortal.last_step
    model = build_model("digits-resnet")
    model.load_state_dict(load_file(weights))
    data = load_data("digits", validation_share=VALIDATION_SHARE)
    task = Mortal(data, settings=SETTINGS, device="cpu", checkpoint_steps=4)
    search = smallest_within(GROUPS, model, task, max_drop_points=6, tolerance=0.25, store=Store(folder))
    write_search(out, search)
    print(Mortal.steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
