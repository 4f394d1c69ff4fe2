import math

import pytest
from pydantic import TypeAdapter, ValidationError

from secateur.errors import UsageError
from secateur.training import Distillation, TrainSettings
from secateur.training.schedules import learning_rate


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("batch_size", 0, "at least 1"),
        ("learning_rate", -0.1, "at least 0"),
        ("learning_rate", math.nan, "at least 0"),
        ("learning_rate", math.inf, "at least 0"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("weight_decay", -1.0, "at least 0"),
        ("learning_rate_min", 0.2, "in"),
        ("milestones", (0.5, 2.5), "whole epochs"),
        ("milestones", (0.0,), "above 0"),
        ("gamma", 0.0, "above 0"),
        ("warmup_epochs", -1.0, "at least 0"),
        ("label_smoothing", 1.0, r"in \[0, 1\)"),
        ("gradient_clip", 0.0, "above 0"),
        ("evaluate_every", -1, "at least 0"),
        ("betas", (0.9, 1.0), r"in \[0, 1\)"),
        ("auxiliary_weight", -1.0, "at least 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: object, words: str) -> None:
    with pytest.raises(UsageError, match=f"{field} is .*{words}"):
        TrainSettings(**{field: value})


def test_misspelt_choices_suggest_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'cosine'"):
        TrainSettings(schedule="cosin")
    with pytest.raises(UsageError, match="did you mean 'adamw'"):
        TrainSettings(optimizer="adam")
    with pytest.raises(UsageError, match="did you mean 'bf16'"):
        TrainSettings(precision="bf-16")


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(UsageError, match="nesterov"):
        TrainSettings(nesterov=True, momentum=0.0)


def test_distillation_is_checked() -> None:
    with pytest.raises(UsageError, match=r"distillation\.temperature"):
        Distillation(temperature=0.0)
    with pytest.raises(UsageError, match=r"distillation\.weight"):
        Distillation(weight=1.5)


def test_settings_come_from_outside_through_pydantic() -> None:
    adapter = TypeAdapter(TrainSettings)
    settings = adapter.validate_python({"batch_size": 64, "distillation": {"temperature": 2}})
    assert settings == TrainSettings(batch_size=64, distillation=Distillation(temperature=2.0))
    with pytest.raises(ValidationError, match="bach_size"):
        adapter.validate_python({"bach_size": 64})
    with pytest.raises(UsageError, match="momentum"):
        adapter.validate_python({"momentum": 2.0})


def rates(settings: TrainSettings, *, epochs: int, steps_per_epoch: int) -> list[float]:
    steps = range(epochs * steps_per_epoch)
    return [learning_rate(settings, step, epochs=epochs, steps_per_epoch=steps_per_epoch) for step in steps]


def test_triangular_by_hand() -> None:
    settings = TrainSettings(schedule="triangular", learning_rate=0.9, learning_rate_min=0.1)
    assert rates(settings, epochs=2, steps_per_epoch=4) == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9, 0.7, 0.5, 0.3])


def test_linear_and_cosine_by_hand() -> None:
    linear = TrainSettings(schedule="linear", learning_rate=1.0)
    assert rates(linear, epochs=1, steps_per_epoch=4) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    cosine = TrainSettings(schedule="cosine", learning_rate=1.0, learning_rate_min=0.2)
    middle = 0.2 + 0.4 * (1 + math.cos(math.pi / 4))
    assert rates(cosine, epochs=2, steps_per_epoch=2)[:3] == pytest.approx([1.0, middle, 0.6])


def test_steps_change_between_epochs_by_share_or_by_epoch() -> None:
    shares = TrainSettings(schedule="step", learning_rate=1.0, milestones=(0.5, 0.75), gamma=0.1)
    expected = [1.0] * 4 + [0.1] * 2 + [0.01] * 2
    assert rates(shares, epochs=4, steps_per_epoch=2) == pytest.approx(expected)
    epochs = TrainSettings(schedule="step", learning_rate=1.0, milestones=(2, 3), gamma=0.1)
    assert rates(epochs, epochs=4, steps_per_epoch=2) == pytest.approx(expected)


def test_warmup_rises_to_the_schedule() -> None:
    settings = TrainSettings(schedule="constant", learning_rate=1.0, warmup_epochs=1)
    assert rates(settings, epochs=2, steps_per_epoch=4) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1, 1, 1, 1])
    cosine = TrainSettings(schedule="cosine", learning_rate=1.0, warmup_epochs=0.5)
    assert rates(cosine, epochs=1, steps_per_epoch=4) == pytest.approx([0.5, 1.0, 1.0, 0.5])
