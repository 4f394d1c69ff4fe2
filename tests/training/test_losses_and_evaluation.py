import math

import pytest
import torch
from synthetic_data import SyntheticData, perceptron, small_cnn
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.errors import DataError, UsageError
from secateur.training import Distillation, SupervisedTask, TrainSettings, distillation_loss, evaluate
from secateur.training.losses import SupervisedLoss

CPU = torch.device("cpu")


class Fixed(nn.Module):
    """Returns the same logits whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits[: len(inputs)]


def test_label_smoothing_by_hand() -> None:
    # Two classes, logits (0, ln 3): probabilities 1/4 and 3/4. With ε = 0.2 the target is (0.1, 0.9).
    loss = SupervisedLoss(TrainSettings(label_smoothing=0.2), CPU)
    model = Fixed(torch.tensor([[0.0, math.log(3)]]))
    value = loss(model, (torch.zeros(1, 1), torch.tensor([1])))
    assert value.item() == pytest.approx(-0.1 * math.log(1 / 4) - 0.9 * math.log(3 / 4), abs=1e-6)


def test_distillation_by_hand() -> None:
    # T = 2 turns the teacher's (0, 2 ln 3) into (1/4, 3/4) and the student's (0, 0) into (1/2, 1/2).
    student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 2 * math.log(3)]])
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert distillation_loss(student, teacher, temperature=2.0).item() == pytest.approx(4 * divergence, abs=1e-6)


def test_distillation_is_mixed_with_the_labels_and_spares_the_teacher() -> None:
    student, teacher = Fixed(torch.zeros(2, 2)), Fixed(torch.tensor([[0.0, 2 * math.log(3)]] * 2))
    settings = TrainSettings(distillation=Distillation(temperature=2.0, weight=0.75))
    batch = (torch.zeros(2, 1), torch.tensor([0, 1]))
    value = SupervisedLoss(settings, CPU, teacher=teacher)(student, batch)
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert value.item() == pytest.approx(0.25 * math.log(2) + 0.75 * 4 * divergence, abs=1e-6)
    value.backward()
    assert teacher.logits.grad is None


def test_the_teacher_is_a_copy_that_training_never_moves() -> None:
    model = small_cnn()
    settings = TrainSettings(batch_size=8, distillation=Distillation(), learning_rate=0.05)
    task = SupervisedTask(SyntheticData(), settings=settings, device="cpu", teacher=model)
    before = task.loss(small_cnn().eval(), next(task.batches(1)))
    task.train(model, epochs=1)  # the same model, as when it is cut in place
    assert torch.equal(task.loss(small_cnn().eval(), next(task.batches(1))), before)


def test_distillation_without_a_teacher_is_refused() -> None:
    with pytest.raises(UsageError, match="teacher"):
        SupervisedTask(SyntheticData(), settings=TrainSettings(distillation=Distillation()))
    with pytest.raises(UsageError, match="label_smoothing"):
        SupervisedTask(SyntheticData(), settings=TrainSettings(label_smoothing=0.1), loss=F.cross_entropy)


def test_auxiliary_outputs_count_with_their_weight() -> None:
    class Auxiliary(nn.Module):
        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
            return torch.zeros(len(inputs), 2), None, torch.zeros(len(inputs), 2)

    value = SupervisedLoss(TrainSettings(auxiliary_weight=0.5), CPU)(
        Auxiliary(), (torch.zeros(3, 1), torch.ones(3).long())
    )
    assert value.item() == pytest.approx(1.5 * math.log(2), abs=1e-6)


def test_every_sample_counts_once_whatever_its_batch() -> None:
    model, data = perceptron(), SyntheticData(validation=21)
    inputs, labels = next(data.batches("validation", batch_size=21))
    logits = model(inputs)
    expected = F.cross_entropy(logits, labels).item()
    for batch_size in (1, 8, 20, 21):  # 21 = 2 · 8 + 5 leaves an incomplete batch
        result = evaluate(model, data.batches("validation", batch_size=batch_size))
        assert result.samples == 21
        assert result.loss == pytest.approx(expected, rel=1e-6)
        assert result.top1 == (logits.argmax(1) == labels).sum().item() / 21


def test_top5_by_hand() -> None:
    logits = torch.arange(8.0).repeat(3, 1)  # class 7 is likeliest, the best five are 3 … 7
    result = evaluate(lambda inputs: logits, [(torch.zeros(3, 1), torch.tensor([7, 3, 2]))])
    assert (result.top1, result.top5) == (1 / 3, 2 / 3)


def test_evaluation_leaves_the_model_as_it_was() -> None:
    model = small_cnn().train()
    model[1].eval()
    flags = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    SupervisedTask(SyntheticData(), device="cpu").evaluate(model)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_outputs_that_do_not_fit_are_refused() -> None:
    task = SupervisedTask(SyntheticData(classes=4), settings=TrainSettings(batch_size=8), device="cpu")
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(DataError, match="3 outputs, but the data has 4 classes"):
        task.evaluate(narrow)
    with pytest.raises(DataError, match="3 outputs, but the data has 4 classes"):
        task.train(narrow, epochs=1)
    with pytest.raises(DataError, match=r"\(N, classes\)"):
        task.evaluate(nn.Conv2d(1, 4, 3))
    with pytest.raises(DataError, match="no samples"):
        evaluate(narrow, [])
