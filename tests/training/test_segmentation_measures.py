"""What is measured of a class per pixel, by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.errors import DataError
from secateur.record import Evaluation, Measurement, RunRecord, environment, read_record, write_record
from secateur.training import evaluate_segmentation, task_of
from secateur.training.segmentation import (
    confusion_of,
    evaluated_batch_size,
    mean_iou,
    pixel_accuracy,
    pixel_cross_entropy,
    pixel_distillation_loss,
)

MASK = torch.tensor([[[0, 0, 1], [1, 1, 255]]])
PREDICTED = torch.tensor([[[0, 1, 1], [1, 0, 0]]])


def logits_for(predicted: Tensor, classes: int, sure: float = 5.0) -> Tensor:
    """Return logits, (N, classes, H, W), whose most likely class is ``predicted``."""
    return sure * F.one_hot(predicted, classes).movedim(-1, 1).float()


def test_two_classes_by_hand() -> None:
    # Of class 0: one right, one taken for 1. Of class 1: two right, one taken for 0. The ignored pixel counts nowhere.
    confusion = confusion_of(PREDICTED, MASK, 2)
    assert confusion.tolist() == [[1, 1, 0], [1, 2, 0]]
    # IoU: 1 / (2 + 2 − 1) and 2 / (3 + 3 − 2).
    assert mean_iou(confusion) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert pixel_accuracy(confusion) == pytest.approx(3 / 5)
    found = evaluate_segmentation(lambda inputs: logits_for(PREDICTED, 2), [(torch.zeros(1, 3, 2, 3), MASK)], classes=2)
    right, wrong = math.log(1 + math.exp(-5)), math.log(1 + math.exp(5))
    assert found.samples == 1
    assert found.mean_iou == pytest.approx(5 / 12)
    assert found.pixel_accuracy == pytest.approx(3 / 5)
    assert found.loss == pytest.approx((3 * right + 2 * wrong) / 5, rel=1e-6)
    assert (found.top1, found.top5) == (None, None)


def test_a_class_that_never_occurs_is_left_out_of_the_mean() -> None:
    assert mean_iou(confusion_of(PREDICTED, MASK, 5)) == pytest.approx(5 / 12)
    # One that is predicted but not there has an IoU of 0, and takes pixels from the others.
    predicted = torch.where(MASK == 0, 3, PREDICTED)
    assert mean_iou(confusion_of(predicted, MASK, 5)) == pytest.approx((0 + 2 / 3 + 0) / 3)


def test_a_prediction_beyond_the_classes_of_the_data_is_wrong() -> None:
    predicted = torch.tensor([[[0, 9, 1], [1, 7, 3]]])
    confusion = confusion_of(predicted, MASK, 2)
    assert confusion.tolist() == [[1, 0, 1], [0, 2, 1]]
    assert mean_iou(confusion) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert pixel_accuracy(confusion) == pytest.approx(3 / 5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_the_measures_do_not_depend_on_the_batches(batch_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(7, 4, 5, 6, generator=generator), torch.randint(4, (7, 5, 6), generator=generator)
    masks[torch.rand(7, 5, 6, generator=generator) < 0.3] = 255
    masks[2] = 255  # an image without any label
    place = iter(range(0, 7, batch_size))

    def model(inputs: Tensor) -> dict[str, Tensor]:
        first = next(place)
        return {"out": logits[first : first + len(inputs)], "aux": torch.zeros(1)}

    found = evaluate_segmentation(model, [(part, part) for part in masks.split(batch_size)], classes=4)
    labelled, predicted = masks != 255, logits.argmax(1)
    ious = []
    for label in range(4):
        truth, taken = (masks == label) & labelled, (predicted == label) & labelled
        ious.append(int((truth & taken).sum()) / int((truth | taken).sum()))
    assert found.mean_iou == pytest.approx(sum(ious) / 4, abs=1e-15)
    assert found.pixel_accuracy == int(((predicted == masks) & labelled).sum()) / int(labelled.sum())
    assert found.loss == pytest.approx(F.cross_entropy(logits, masks, ignore_index=255).item(), rel=1e-6)
    assert found.samples == 7


def test_the_mean_iou_is_that_of_the_split_not_the_mean_of_its_images() -> None:
    masks = torch.tensor([[[0, 0, 0, 1]], [[1, 1, 1, 1]]])
    predicted = torch.tensor([[[0, 0, 0, 0]], [[1, 1, 1, 1]]])
    batches = [(mask[None], mask[None]) for mask in masks]
    answers = iter(predicted)
    found = evaluate_segmentation(lambda _: logits_for(next(answers)[None], 2), batches, classes=2)
    assert found.mean_iou == pytest.approx((3 / 4 + 4 / 5) / 2)


def test_the_loss_is_the_mean_over_labelled_pixels() -> None:
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    masks = torch.randint(3, (2, 4, 5))
    masks[0, 1:] = 255
    for smoothing in (0.0, 0.1):
        expected = F.cross_entropy(logits, masks, ignore_index=255, label_smoothing=smoothing)
        torch.testing.assert_close(pixel_cross_entropy(logits, masks, label_smoothing=smoothing), expected)
    nothing = pixel_cross_entropy(logits, torch.full_like(masks, 255))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad is not None
    assert int(logits.grad.count_nonzero()) == 0


def test_distillation_per_pixel_by_hand() -> None:
    # As for one image: T = 2 turns (0, 2 ln 3) into (1/4, 3/4) and (0, 0) into (1/2, 1/2). The second pixel is ignored.
    student = torch.zeros(1, 2, 1, 2, requires_grad=True)
    teacher = torch.tensor([0.0, 2 * math.log(3)]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    value = pixel_distillation_loss(student, teacher, torch.tensor([[[1, 255]]]), temperature=2.0)
    assert value.item() == pytest.approx(4 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5)), abs=1e-6)
    value.backward()
    assert student.grad is not None
    assert student.grad[..., 0].count_nonzero() == 2
    assert student.grad[..., 1].count_nonzero() == 0
    assert pixel_distillation_loss(student, teacher, torch.full((1, 1, 2), 255), temperature=2.0).item() == 0


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        (
            torch.zeros(1, 2),
            r"must return logits of shape \(N, classes, H, W\), or a dict with them under 'out'",
        ),
        ({"logits": torch.zeros(1, 2, 2, 3)}, "returned a dict with 'logits' .*; give a segmentation network"),
        (
            torch.zeros(1, 2, 1, 1),
            r"shape \(1, 2, 1, 1\) for masks of shape \(1, 2, 3\); let it end with an inter",
        ),
        (
            {"out": torch.zeros(1, 1, 2, 3)},
            "the model has 1 outputs per pixel, but the data has 2 classes; build it",
        ),
    ],
)
def test_outputs_that_do_not_fit_are_refused(outputs: object, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        evaluate_segmentation(lambda _: outputs, [(MASK, MASK)], classes=2)


def test_nothing_to_evaluate_is_refused() -> None:
    with pytest.raises(DataError, match="no pixel of the 1 masks has a class"):
        evaluate_segmentation(lambda _: logits_for(PREDICTED, 2), [(MASK, torch.full_like(MASK, 255))], classes=2)
    with pytest.raises(DataError, match="the split has no samples"):
        evaluate_segmentation(lambda _: logits_for(PREDICTED, 2), [], classes=2)


def test_the_task_is_what_the_data_says() -> None:
    class Said:
        task = "segmentatoin"

    assert task_of(object()) == "classification"
    with pytest.raises(DataError, match=r"Said\.task: unknown task 'segmentatoin'; did you mean 'segmentation'"):
        task_of(Said())


def test_evaluated_batches_of_large_images_are_small() -> None:
    assert evaluated_batch_size(256, (3, 512, 512)) == 8
    assert evaluated_batch_size(256, (3, 64, 64)) == 256
    assert evaluated_batch_size(256, (3, 4096, 4096)) == 1


def test_a_record_keeps_the_measures_and_old_ones_are_still_read(tmp_path: Path) -> None:
    new = Evaluation(loss=0.5, samples=3, mean_iou=0.4, pixel_accuracy=0.8)
    assert (new.score, new.score_name) == (0.4, "mIoU")
    assert new.in_words() == "mIoU 40.00 %, pixel accuracy 80.00 %, loss 0.5000"
    record = RunRecord(
        run_id="r", command=(), environment=environment(), measurements={"dense": Measurement(validation=new)}
    )
    write_record(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json") == record
    # As versions before wrote it.
    text = (tmp_path / "record.json").read_text()
    start, end = text.index('"loss"'), text.index("}", text.index('"loss"'))
    (tmp_path / "old.json").write_text(
        text[:start] + '"loss": 0.5, "top1": 0.75, "top5": 1.0, "samples": 4\n' + text[end:]
    )
    old = read_record(tmp_path / "old.json").measurements["dense"].validation
    assert old == Evaluation(loss=0.5, top1=0.75, top5=1.0, samples=4)
    assert (old.score, old.score_name, old.in_words()) == (0.75, "top-1", "top-1 75.00 %, loss 0.5000")
