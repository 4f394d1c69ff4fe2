"""The numbers that a run produces: evaluations, epochs, phases, costs, proofs.

All of them are frozen dataclasses that pydantic reads from JSON; a key that a type does not have is refused.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict, JsonValue

# A network that was cut too deep has an infinite loss, and JSON has no infinity: it is written as a string.
STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Averages per sample over one split; every sample counts once, whatever its batch."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    loss: float  # mean cross entropy per sample, in nats
    top1: float  # share of samples whose most likely class is right, in [0, 1]
    top5: float  # share of samples whose class is among the five most likely, in [0, 1]
    samples: int


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
    size_bytes: int | None = None  # of the saved file
    activation_bytes: int | None = None  # peak, per sample
    latency: Latency | None = None


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

    samples: int
    equal: int  # samples for which the most likely class is the same
    max_difference: float  # of two logits
    scale: float  # largest absolute logit
