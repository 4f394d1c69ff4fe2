"""How a model is brought to integers."""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from secateur.errors import UsageError
from secateur.quantization import calibrator_named, profile_named, repairs_named

COMPARED = ("max", "percentile-99.9", "percentile-99.99", "percentile-99.999", "entropy", "mse")
"""Calibrators that a comparison tries; of equally good ones the first is picked."""

USUAL = "entropy"
MOST_POINTS = 100.0


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """How a model is brought to integers; activations have 8 bits, which is what the file's operators take."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    calibrate: str | None = None  # name of a calibrator; None: entropy, or the one that the comparison picks
    compare: bool = False  # try all calibrators on the validation split and pick
    images: int = 1024  # training images to calibrate on; all of them where there are fewer
    target: str = "cpu"  # what is to execute the integers, see secateur.quantization.PROFILES
    weight_bits: int = 8  # fewer are stored as int8 all the same
    per_tensor_weights: bool = False  # one step for a whole weight, instead of one per output channel
    repair: tuple[str, ...] = ()  # repairs without labels, see secateur.quantization.REPAIRS; their order is fixed
    max_drop: float | None = None  # layers stay in float until at most so many points of validation score are lost
    diagnose: bool = False  # measure noise and each layer alone, and draw the ranges
    batch: int = 32  # samples of the second latency, beside that of one
    openvino: bool | None = None  # also run the file in OpenVINO; None: where it is installed

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            UsageError: a name is not known, or a number is out of range.
            QuantizationError: there is no such target or repair, or bits are out of range.
        """
        calibrator_named(self.calibrate or USUAL)
        if self.calibrate is not None and self.compare:
            raise UsageError(
                f"the calibrator is {self.calibrate}, and a comparison is to pick one; leave out --calibrate or "
                "--compare (calibrate or compare in a recipe)"
            )
        profile_named(self.target).with_bits(weight_bits=self.weight_bits, activation_bits=8)
        # In the order in which they run: other orders of the same names are no other settings.
        object.__setattr__(self, "repair", repairs_named(self.repair))
        if self.max_drop is not None and not 0 <= self.max_drop <= MOST_POINTS:
            raise UsageError(f"max_drop is {self.max_drop:g}, but it is in points of the validation score, 0 to 100")
        for name, value in (("images", self.images), ("batch", self.batch)):
            if value < 1:
                raise UsageError(f"{name} is {value}, but must be at least 1")

    @property
    def calibrators(self) -> tuple[str, ...]:
        """The calibrators to try: one, or all that a comparison tries."""
        return COMPARED if self.compare else (self.calibrate or USUAL,)
