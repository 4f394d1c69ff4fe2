"""The recipe of a run: every setting that decides its result, in one frozen object."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pydantic import ConfigDict, JsonValue, TypeAdapter

from secateur.cost import Budget, parse_amount
from secateur.cost.budget import NO_TABLE
from secateur.data import augmentation_named, normalization_named
from secateur.data.splits import check_share
from secateur.data.train_share import check_train_share
from secateur.data.workers import check_workers
from secateur.errors import BudgetError, UsageError
from secateur.methods import AnyMethod, Magnitude
from secateur.methods.smallest import check_search, refuse_search_around
from secateur.models import head_of
from secateur.recipe.compact import AS_IT_IS, Compact
from secateur.recipe.quantizing.settings import Quantize
from secateur.training import Distillation, TrainSettings
from secateur.training.devices import check_threads

FORMAT = 1
"""Of recipes; one of another format is refused."""

BUDGET_OPTIONS = ("macs", "params", "nonzeros", "size_bytes", "activation_bytes", "latency_ms")

DENSE_TRAINING = TrainSettings()
"""How a dense model without weights is trained."""

FINE_TUNING = TrainSettings(learning_rate=0.01, weight_decay=5e-4)
"""How a trained network is fine-tuned after the cut: SGD with momentum, a tenth of the usual rate, cosine to zero."""


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which network, and with which weights."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    spec: str  # as in secateur.models.build_model
    weights: str | None = None  # path of a weight file
    weights_fingerprint: str | None = None  # of that file's bytes, so that another file is not mistaken for it
    new_head: bool = False  # take the weights of all layers but the last, which is trained anew, as for other classes
    code_fingerprint: str | None = None  # of the user's file that builds it, where ``spec`` is file.py:function
    num_classes: int | None = None  # None: as many as the data has
    fold_weight_standardisation: bool = False  # hold standardised weights as plain ones, which can be cut

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.num_classes is not None and self.num_classes < 1:
            raise UsageError(f"num_classes is {self.num_classes}; give a whole number of at least 1")
        if self.new_head:
            head_of(self.spec)
            if self.weights is None:
                raise UsageError(
                    "new_head is for weights that were trained with another last layer, and there are none; give "
                    "--weights (model.weights in a recipe), or leave --new-head out"
                )


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """Which data."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    spec: str  # as in secateur.data.load_data
    root: str = "data"
    normalize: str | None = None  # None: what suits the data, or else the model
    augmentation: str | None = None  # of training images; None: what suits the data
    validation_share: float = 0.1  # of the training data, where the data brings no validation split
    train_share: float = 1.0  # of what is left of the training data, for short trials
    download: bool = False  # fetch what is missing, where there is internet
    fingerprint: str | None = None  # of the data's files, or of the user's file that makes the data

    def __post_init__(self) -> None:
        """Refuse settings that no data can be read with."""
        check_share(self.validation_share, "validation")
        check_train_share(self.train_share)
        if self.normalize is not None:
            normalization_named(self.normalize)
        if self.augmentation is not None:
            augmentation_named(self.augmentation)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a job runs; none of it belongs to what the job is, so that another machine may continue it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    threads: int | None = None  # of one operator; None: as torch chooses
    device: str = "auto"
    workers: int = 2  # reading processes of data that streams

    def __post_init__(self) -> None:
        """Refuse settings that no machine has; whether the device is there is known when the job starts."""
        if self.threads is not None:
            check_threads(self.threads)
        check_workers(self.workers)


@dataclass(frozen=True, kw_only=True)
class MaxDrop:
    """The smallest model whose validation accuracy stays within some points of the dense one's, in place of a budget.

    Found by bisection over budgets; each candidate is cut and given the same short recovery.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    points: float  # of top-1 accuracy, or mean IoU where each pixel has a class, in percent points
    amount: str = "macs"  # what is made small: a name of BUDGET_OPTIONS
    recovery_epochs: int = 1  # of fine-tuning that every candidate gets
    tolerance: float = 0.02  # width of the last bracket, as a share of the original

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_search(
            max_drop_points=self.points,
            amount=self.amount,
            recovery_epochs=self.recovery_epochs,
            tolerance=self.tolerance,
            least=None,
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Train, prune, fine-tune or distil, export, evaluate: one run from a dense model to a proved smaller one."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    secateur: int = FORMAT  # format of the recipe
    title: str = ""  # one line that says what it is
    model: ModelChoice
    data: DataChoice
    train_epochs: int = 0  # of the dense model, before the cut; needed where there are no weights
    train: TrainSettings = DENSE_TRAINING  # of the dense model, and of the control
    budget: Budget | None = None  # what the result may cost; None where ratios or max_drop decide
    latency_table: str | None = None  # path of what `secateur measure` wrote, for a budget in milliseconds
    latency_table_fingerprint: str | None = None  # of its content, so that another table is not mistaken for it
    max_drop: MaxDrop | None = None  # the smallest model within so many points
    method: AnyMethod = field(default_factory=lambda: Magnitude(finetune=FINE_TUNING))
    control: Literal["scratch"] | None = None  # scratch: train what the method found from random weights instead
    compact: Compact = AS_IT_IS  # what the compact file holds, where weights are pruned
    export: tuple[Literal["onnx"], ...] = ("onnx",)  # files beside the model file
    quantize: Quantize | None = None  # bring the result to INT8; its ONNX file is then what ships
    seed: int = 0
    machine: Machine = Machine()

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.secateur != FORMAT:
            raise UsageError(
                f"the recipe has format {self.secateur}, but this version of Secateur reads format {FORMAT}; use the "
                "version that it was made for, or write it anew from `secateur recipe --schema`"
            )
        if self.train_epochs < 0:
            raise UsageError(f"train_epochs is {self.train_epochs}, but must be at least 0")
        begins_anew = getattr(self.method, "start", None) == "scratch"
        if self.model.weights is None and self.train_epochs == 0 and not begins_anew:
            raise UsageError(
                "the model has no weights: give the file of a trained model with --weights (model.weights in a "
                "recipe), or train it first with --train-epochs"
            )
        if self.model.new_head and self.train_epochs == 0:
            raise UsageError(
                "the last layer is new (new_head) and nothing trains it; give --train-epochs (train_epochs in a recipe)"
            )
        if self.model.weights is not None and self.train_epochs > 0 and not self.model.new_head:
            raise UsageError(
                f"there are weights ({self.model.weights}) and train_epochs is {self.train_epochs}, which would train "
                "them anew; leave out --weights or --train-epochs"
            )
        for name in ("ratios", "ratio", "keep", "quality"):
            if getattr(self.method, name, None):
                self._refuse_beside(name)
        self._check_latency()
        if self.max_drop is not None:
            refuse_search_around(self.method)
        if self.compact != AS_IT_IS and self.method.reduces != "weights":
            raise UsageError(
                "compact says what the compact file of pruned weights holds, but the method "
                f"{self.method.name} removes channels or blocks and writes none; leave it out, or take "
                "weights_and_connections"
            )
        if self.control is not None and self.method.finetune_epochs == 0:
            raise UsageError(
                "the control trains as long as the method fine-tunes, and finetune_epochs is 0; give --epochs"
            )

    def _check_latency(self) -> None:
        """Refuse a budget in milliseconds that nothing could predict or measure.

        Raises:
            BudgetError: there is no table, or one without a budget, or the method makes nothing faster.
            UsageError: no ONNX file is asked for, which would be timed.
        """
        timed = self.budget is not None and self.budget.latency_ms is not None
        if timed and self.latency_table is None:
            raise BudgetError(NO_TABLE)
        if self.latency_table is not None and not timed:
            raise BudgetError(
                f"there is a latency table ({self.latency_table}), but no budget in milliseconds; give --latency-ms "
                "(budget.latency_ms in a recipe), such as 0.5x or 3.2ms, or leave the table out"
            )
        if timed and self.method.reduces == "weights":
            raise BudgetError(
                f"the method {self.method.name} makes weights zero, which runtimes multiply like any others, so no "
                "budget in milliseconds can be met; give nonzeros, or take a method that removes channels"
            )
        if timed and "onnx" not in self.export:
            raise UsageError(
                "a budget in milliseconds is checked on the ONNX file, and export does not name it; add onnx to export"
            )

    def _refuse_beside(self, name: str) -> None:
        if self.budget is not None:
            other = f"a budget ({self.budget.describe()})"
        elif self.max_drop is not None:
            other = f"an accuracy (max_drop: {self.max_drop.points:g} points)"
        else:
            return
        given = {"ratio": "is a ratio", "keep": "are shares to keep", "quality": "are thresholds"}.get(
            name, "are ratios"
        )
        raise BudgetError(
            f"there {given} (method.{name}) and {other}, and only one of them can decide how much is cut; leave one out"
        )

    @property
    def distills(self) -> bool:
        """Whether fine-tuning also learns from the dense model."""
        return self.method.finetune is not None and self.method.finetune.distillation is not None

    def to_json(self) -> dict[str, JsonValue]:
        """Return all settings as JSON."""
        values: dict[str, JsonValue] = RECIPE.dump_python(self, mode="json")
        return values


RECIPE: TypeAdapter[Recipe] = TypeAdapter(Recipe)
"""Reads and writes recipes."""


def budget_from(amounts: Mapping[str, str | None]) -> Budget:
    """Read a budget as a user writes it.

    Args:
        amounts: names of :data:`BUDGET_OPTIONS` with texts such as ``0.5``, ``50%`` or ``60M``; None is not asked for.

    Raises:
        BudgetError: nothing is asked for, or an amount is no number or out of range.
    """
    given = {name: parse_amount(name, text) for name, text in amounts.items() if text is not None}
    if not given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in BUDGET_OPTIONS)
        raise BudgetError(f"there is no budget; give at least one of {options}, for example --macs 0.5")
    return Budget(**given)


def fine_tuning(
    *,
    learning_rate: float = FINE_TUNING.learning_rate,
    batch_size: int = FINE_TUNING.batch_size,
    schedule: str = FINE_TUNING.schedule,
    weight_decay: float = FINE_TUNING.weight_decay,
    label_smoothing: float = 0.0,
    distill: bool = False,
    temperature: float = 4.0,
    weight: float = 0.9,
) -> TrainSettings:
    """Return the settings of fine-tuning; ``distill`` makes the dense model its teacher.

    Raises:
        UsageError: a value is out of range.
    """
    return TrainSettings(
        learning_rate=learning_rate,
        batch_size=batch_size,
        schedule=schedule,  # type: ignore[arg-type]  # refused by TrainSettings itself
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        distillation=Distillation(temperature=temperature, weight=weight) if distill else None,
    )


def dense_training(learning_rate: float, batch_size: int) -> TrainSettings:
    """Return the settings of training the dense model.

    Raises:
        UsageError: a value is out of range.
    """
    return replace(DENSE_TRAINING, learning_rate=learning_rate, batch_size=batch_size)
