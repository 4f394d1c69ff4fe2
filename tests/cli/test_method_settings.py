"""Every method from the command line, with settings by name."""

from typing import Any

import pytest

from secateur.cli import choices, method_choices
from secateur.cli.method_options import MethodOptions
from secateur.cli.options import BudgetOptions, TrainingOptions
from secateur.errors import UsageError
from secateur.methods import METHODS
from secateur.methods.gate_decorator.phases import FINETUNE


def chosen(name: str, *settings: str, training: TrainingOptions | None = None, **options: Any) -> Any:
    given = MethodOptions(method=name, setting=list(settings), **options)  # type: ignore[arg-type]
    return method_choices.method(given, seed=3, training=training or TrainingOptions())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_made_from_options_that_are_left_alone(name: str) -> None:
    assert isinstance(chosen(name), METHODS[name])


def test_a_setting_is_reached_by_its_name_and_read_as_in_a_recipe() -> None:
    assert chosen("gate_decorator", "tick_subset=0.1", "lock=[layer1.*]").lock == ("layer1.*",)
    assert chosen("gate_decorator", "tock.learning_rate=0.02").tock.learning_rate == 0.02
    assert chosen("network_slimming", "start=scratch", "penalty=1e-5").start == "scratch"


@pytest.mark.parametrize(("setting", "sentence"), [
    ("tick_sub=3", "did you mean 'tick_subset'"),
    ("tick_subset", "is not key=value"),
    ("name=l1", "would choose another method"),
    ("tock_epochs=many", "tock_epochs is 'many', but should be a whole number"),
    ("tick_subset=0", "tick_subset is 0; give a number of training samples"),
])  # fmt: skip
def test_a_setting_that_cannot_be_is_refused_in_one_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        chosen("gate_decorator", setting)
    assert sentence in str(refused.value)


def test_a_method_with_published_training_keeps_it_unless_asked_otherwise() -> None:
    published = chosen("gate_decorator")
    assert (published.finetune, published.finetune_epochs) == (FINETUNE, 40)
    shorter = chosen("gate_decorator", training=TrainingOptions(epochs=3))
    assert (shorter.finetune, shorter.finetune_epochs) == (FINETUNE, 3)
    other = chosen("gate_decorator", training=TrainingOptions(learning_rate=0.02))
    assert (other.finetune.learning_rate, other.finetune_epochs) == (0.02, 40)
    assert chosen("magnitude").finetune_epochs == TrainingOptions().epochs


def test_a_ratio_among_the_settings_stands_in_for_a_budget() -> None:
    options = MethodOptions(method="network_slimming", setting=["ratio=0.5"])
    assert choices.budget(BudgetOptions(), options) is None
    assert chosen("network_slimming", "ratio=0.5").ratio == 0.5


def test_an_option_of_several_methods_names_them() -> None:
    with pytest.raises(
        UsageError, match="--criterion is a setting of the methods magnitude, global, blocks, not of l1"
    ):
        chosen("l1", criterion="fpgm")
