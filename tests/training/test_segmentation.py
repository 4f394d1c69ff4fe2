"""Training on masks: it learns, it continues, it distils, several processes agree, and it can be cut."""

import ast
import math
import socket
from pathlib import Path

import pytest
import torch
from own_process import run, run_here, start
from safetensors import safe_open
from segmentation_data import boxes, small_fcn
from torch import Tensor, nn

import secateur
from secateur.errors import DataError
from secateur.training import Distillation, Store, SupervisedTask, TrainSettings
from secateur.training.losses import SupervisedLoss

SCRIPT = Path(__file__).with_name("segmentation_run.py")
SETTINGS = TrainSettings(batch_size=4, learning_rate=0.1)


def task(**more: object) -> SupervisedTask:
    return SupervisedTask(boxes(), settings=SETTINGS, device="cpu", **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    model = small_fcn()
    task().train(model, epochs=12)
    return model


def test_training_reduces_the_loss_and_finds_the_boxes() -> None:
    model, work = small_fcn(keys=("out", "aux_missing")), task()
    before = work.evaluate(model)
    result = work.train(model, epochs=12)
    losses = [epoch.train_loss for epoch in result.epochs]
    assert losses[-1] < 0.5 * losses[0]
    assert [epoch.samples for epoch in result.epochs] == [20] * 12
    found = result.epochs[-1].validation
    assert found == work.evaluate(model)
    assert found is not None
    assert found.samples == 7
    assert found.mean_iou is not None
    assert before.mean_iou is not None
    assert found.mean_iou > max(0.6, before.mean_iou)
    assert work.evaluate(model, "test").samples == 5


def test_killed_and_continued_equals_unbroken(tmp_path: Path) -> None:
    unbroken, continued = tmp_path / "unbroken.safetensors", tmp_path / "continued.safetensors"
    run_here(SCRIPT, tmp_path / "one", unbroken)
    # 5 steps make an epoch, and there is a checkpoint every 2: this is in the second one, one step after a checkpoint.
    run(SCRIPT, tmp_path / "other", continued, 8, killed=True)
    assert not continued.exists()
    run(SCRIPT, tmp_path / "other", continued)
    assert continued.read_bytes() == unbroken.read_bytes()


def test_two_processes_evaluate_as_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = tmp_path / "together.safetensors"
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [start(SCRIPT, tmp_path / "two", out, RANK=rank, LOCAL_RANK=rank, **shared) for rank in (0, 1)]
    for process in processes:
        process.end()
    with safe_open(out, "pt") as file:
        together = ast.literal_eval(file.metadata()["measured"])
    alone = task().evaluate(small_fcn(keys=("out", "aux")))
    assert (together["samples"], together["mean_iou"], together["pixel_accuracy"]) == (
        alone.samples,
        alone.mean_iou,
        alone.pixel_accuracy,
    )
    assert together["loss"] == pytest.approx(alone.loss, rel=1e-6)


class Fixed(nn.Module):
    def __init__(self, outputs: object) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, _: Tensor) -> object:
        return self.outputs


def test_auxiliary_logits_count_as_in_the_reference() -> None:
    even = torch.zeros(1, 2, 2, 2)
    batch = (torch.zeros(1, 3, 2, 2), torch.tensor([[[0, 1], [1, 255]]]))
    cpu = torch.device("cpu")
    loss = SupervisedLoss(TrainSettings(), cpu, task="segmentation", classes=2)
    assert loss(Fixed(even), batch).item() == pytest.approx(math.log(2))
    assert loss(Fixed({"out": even, "aux": even}), batch).item() == pytest.approx(1.5 * math.log(2))
    light = SupervisedLoss(TrainSettings(pixel_auxiliary_weight=0.2), cpu, task="segmentation", classes=2)
    assert light(Fixed({"out": even, "aux": even}), batch).item() == pytest.approx(1.2 * math.log(2))


def test_a_teacher_teaches_each_labelled_pixel() -> None:
    student = torch.zeros(1, 2, 1, 2)
    teacher = torch.tensor([0.0, 2 * math.log(3)]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    settings = TrainSettings(distillation=Distillation(temperature=2.0, weight=0.75))
    loss = SupervisedLoss(
        settings, torch.device("cpu"), task="segmentation", classes=2, teacher=Fixed({"out": teacher, "aux": teacher})
    )
    value = loss(Fixed(student), (torch.zeros(1, 3, 1, 2), torch.tensor([[[1, 255]]])))
    soft = 4 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert value.item() == pytest.approx(0.25 * math.log(2) + 0.75 * soft, abs=1e-6)


def test_distillation_trains(trained: nn.Module) -> None:
    settings = TrainSettings(batch_size=4, learning_rate=0.1, distillation=Distillation(temperature=2.0, weight=0.9))
    work = SupervisedTask(boxes(), settings=settings, device="cpu", teacher=trained)
    result = work.train(small_fcn(), epochs=6)
    assert result.epochs[-1].train_loss < 0.5 * result.epochs[0].train_loss


def test_a_classifier_is_refused() -> None:
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    with pytest.raises(DataError, match="the data has a class per pixel, so the model must return logits"):
        task().evaluate(classifier)
    with pytest.raises(DataError, match="the data has a class per pixel, so the model must return logits"):
        task().train(classifier, epochs=1)


@pytest.mark.parametrize("keys", [(), ("out",), ("out", "aux")])
def test_a_cut_is_proved_and_computes_what_the_masked_network_computes(keys: tuple[str, ...]) -> None:
    model, work = small_fcn(keys=keys), task()
    model.eval()
    graph = secateur.trace(model, work.example_inputs)
    plan = secateur.allocate(graph, secateur.score(graph, model, "l1"), secateur.Budget(macs=0.5))
    small = secateur.apply(model, plan, verify_with=work.example_inputs)
    assert graph.macs(plan) <= 0.5 * graph.macs()
    assert small.conv1.out_channels < model.conv1.out_channels
    with secateur.masked(model, plan):
        masked = work.evaluate(model)
    assert work.evaluate(small).mean_iou == pytest.approx(masked.mean_iou, abs=1e-3)


def test_l1_prunes_and_the_fine_tuning_mends_it(trained: nn.Module, tmp_path: Path) -> None:
    work = task()
    method = secateur.L1(finetune_epochs=6)
    found = method.compress(trained, work, secateur.Budget(macs=0.5), store=Store(tmp_path))
    after = found.record.after_cut
    assert after is not None
    assert after.mean_iou is not None
    tuned = work.evaluate(found.model)
    assert tuned.mean_iou is not None
    assert tuned.mean_iou > after.mean_iou - 0.05
    assert tuned.mean_iou > 0.5
    assert found.record.proof is not None
    assert found.record.proof.verdict == "exact"
    again = method.compress(trained, work, secateur.Budget(macs=0.5), store=Store(tmp_path))
    assert again.record == found.record
