"""The numbers that a run produces: evaluations, epochs, phases, costs, proofs.

All of them are frozen dataclasses that pydantic reads from JSON; a key that a type does not have is refused.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict, JsonValue

# A network that was cut too deep has an infinite loss, and JSON has no infinity: it is written as a string.
STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

TOP1, MEAN_IOU = "top-1", "mIoU"
"""What the scores of images with one class, and of images with a class per pixel, are called."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well a model does on one split, whatever the batches.

    Of images with one class each, the averages per sample: ``top1`` and ``top5``. Of images with a class per pixel,
    ``mean_iou`` and ``pixel_accuracy`` over all labelled pixels of the split; those marked as ignored count nowhere.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    loss: float  # mean cross entropy in nats, per sample or per labelled pixel
    samples: int  # images
    top1: float | None = None  # share of samples whose most likely class is right, in [0, 1]
    top5: float | None = None  # share of samples whose class is among the five most likely, in [0, 1]
    mean_iou: float | None = None  # mean over classes of intersection / union, in [0, 1]
    pixel_accuracy: float | None = None  # share of labelled pixels whose most likely class is right, in [0, 1]

    @property
    def score(self) -> float:
        """What models are compared by, in [0, 1]: the mean IoU where there is one, otherwise the top-1."""
        found = self.top1 if self.mean_iou is None else self.mean_iou
        return math.nan if found is None else found

    @property
    def score_name(self) -> str:
        """What :attr:`score` is called."""
        return TOP1 if self.mean_iou is None else MEAN_IOU

    def in_words(self) -> str:
        """Return score and loss, such as ``top-1 93.40 %, loss 0.2345``."""
        accuracy = "" if self.pixel_accuracy is None else f", pixel accuracy {100 * self.pixel_accuracy:.2f} %"
        return f"{self.score_name} {100 * self.score:.2f} %{accuracy}, loss {self.loss:.4f}"


@dataclass(frozen=True, kw_only=True)
class EpochMeasurement:
    """What one pass over the training data gave."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epoch: int  # from 0
    train_loss: float  # mean per sample of the loss that was minimised, hooks included
    learning_rate: float  # of the last step
    samples: int
    seconds: float  # training only, without evaluation and checkpoints
    images_per_s: float
    validation: Evaluation | None = None


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What one call of ``Task.train`` did. The model is the one of the last epoch, never of the best."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    phase: str
    settings: dict[str, JsonValue] = field(default_factory=dict)
    epochs: tuple[EpochMeasurement, ...] = ()
    resumed: int = 0  # times that the phase was continued after an interruption
    bit_for_bit: bool = True  # the result is guaranteed to equal that of an unbroken run
    notes: tuple[str, ...] = ()

    @property
    def last(self) -> EpochMeasurement | None:
        """The last epoch, which is what gets reported; ``None`` where nothing was trained."""
        return self.epochs[-1] if self.epochs else None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Repeated timings of one forward pass."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    median_ms: float
    spread_ms: float  # distance between the first and the third quartile
    repeats: int
    batch_size: int = 1
    threads: int = 1
    device: str = "cpu"
    runtime: str = "torch"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one model costs and how well it does; a value that was not measured is ``None``."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    validation: Evaluation | None = None
    test: Evaluation | None = None
    macs: int | None = None  # multiply-adds of convolutions and matrix products, per sample
    params: int | None = None
    nonzeros: int | None = None  # of the parameters, those that are stored; None where no weights were pruned
    size_bytes: int | None = None  # of the saved file
    activation_bytes: int | None = None  # peak, per sample
    latency: Latency | None = None  # of one sample
    batch_latency: Latency | None = None  # of a larger batch


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How far the cut model is from the masked original."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    verdict: str  # such as "exact", "approximate", "cannot tell"
    relative_error: float  # max |masked − cut| / max |original − masked|, float64, worst output and weights
    float32_error: float  # the same difference relative to the output, in float32
    drift: float | None = None  # of an approximate cut: max |zeroed − cut| / max |original − zeroed|
    drift_of_output: float | None = None  # of an approximate cut: max |zeroed − cut| / max |original|


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the exported file agrees with the torch model on the same samples."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    samples: int  # images, or labelled pixels where each pixel has a class
    equal: int  # of these, how many have the same most likely class
    max_difference: float  # of two logits
    scale: float  # largest absolute logit
