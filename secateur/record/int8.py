"""What was found when a model was brought to integers: calibration, what runs how, and agreement with the file."""

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict

from secateur.record.measurements import STRICT, Agreement, Evaluation


@dataclass(frozen=True, kw_only=True)
class CalibratorTrial:
    """What the simulation with one calibrator's ranges does on the validation split."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    calibrator: str
    divergence_nats: float  # mean Kullback–Leibler divergence from the predicted distribution of the float model
    validation: Evaluation
    fallbacks: int = 0  # sites where the largest value was taken instead


@dataclass(frozen=True, kw_only=True)
class FloatOperator:
    """An operator of the file that does not run in integers."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    kind: str  # of ONNX, such as ``Softmax``
    module: str  # path of the module that it belongs to
    reason: str


@dataclass(frozen=True, kw_only=True)
class Int8:
    """How the INT8 file was made, and how it runs."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    target: str
    weight_bits: int
    per_tensor_weights: bool
    calibrator: str  # whose ranges are in the file
    picked: bool  # whether it was picked on the validation split, as the one of least divergence
    trials: tuple[CalibratorTrial, ...] = ()  # of all calibrators, where they were compared
    seed: int  # that calibration images were drawn by
    indices: tuple[int, ...]  # of the calibration images in the training split
    repairs: tuple[str, ...] = ()  # a line on each repair, with what it brought
    left_in_float: tuple[str, ...] = ()  # operators that stay in float for the sake of accuracy
    sites: int  # where activations and weights are rounded
    site_notes: dict[str, str] = field(default_factory=dict)  # site → how its range was found, where there is a reason
    runtime: str  # name and version of what ran the file
    operators: dict[str, int] = field(default_factory=dict)  # kind → how many there are
    in_integers: dict[str, int] = field(default_factory=dict)  # kind → how many of these run in integers
    in_float: tuple[FloatOperator, ...] = ()
    agreement: Agreement  # of the file with the simulation, on the test split
    sqnr_db: float  # energy of the simulation's outputs over that of the file's differences, on calibration images
    masked_weights: int | None = None  # weights that masks removed and that are 0 in the file; None without masks
    openvino: str | None = None  # its version and precision, where it ran the file
