"""What the compact file of a run that prunes weights holds."""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from secateur.errors import UsageError
from secateur.names import unknown_name
from secateur.sparse.codebook import WIDEST
from secateur.sparse.coding import Width
from secateur.sparse.container import VALUES, Values
from secateur.sparse.relative import check_width
from secateur.training import TrainSettings

SHARED_TRAINING = TrainSettings(optimizer="adamw", learning_rate=1e-4, weight_decay=0.0)
"""How shared values are trained. Their gradients are sums over few or over many weights; Adam's steps do not depend on
that, so one learning rate does for all of them."""


@dataclass(frozen=True, kw_only=True)
class Compact:
    """How weights are stored in the compact file beside the model file, which stays exact.

    With ``values`` codebook the weights of a layer share values, found by k-means and, with ``codebook_epochs``,
    trained by the sums of their gradients (Han et al. 2016, arXiv:1510.00149, §3). What the file decodes to is then
    evaluated.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    values: Values = "fp32"  # fp32 keeps every bit, fp16 rounds, codebook shares values
    bits: Width | None = None  # of an index, 1 to 16, or best; None: 5 for matrices and 8 for others
    codebook_bits: int | None = None  # of a shared value's number, 1 to 8; None: 5 for matrices and 8 for others
    entropy: bool = True  # compress indices and values further
    codebook_epochs: int = 0  # passes over the training data for the shared values
    codebook_training: TrainSettings = SHARED_TRAINING  # of these

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, or that would do nothing."""
        if self.values not in VALUES:
            raise UsageError(unknown_name("kind of values", self.values, VALUES))
        if isinstance(self.bits, int):
            check_width(self.bits, "compact.bits")
        if self.codebook_bits is not None and not 1 <= self.codebook_bits <= WIDEST:
            raise UsageError(f"compact.codebook_bits is {self.codebook_bits}; give 1 to {WIDEST} bits")
        if self.codebook_epochs < 0:
            raise UsageError(f"compact.codebook_epochs is {self.codebook_epochs}, but must be at least 0")
        if self.values != "codebook" and (self.codebook_bits is not None or self.codebook_epochs):
            name = "codebook_bits" if self.codebook_bits is not None else "codebook_epochs"
            raise UsageError(
                f"compact.{name} is {getattr(self, name)}, but compact.values is {self.values}, which has no codebook; "
                "give values codebook, or leave it out"
            )
        if self.codebook_training.distillation is not None:
            raise UsageError(
                "compact.codebook_training has a distillation, but shared values learn from the labels; leave it out"
            )


AS_IT_IS = Compact()
"""Every bit of the model file."""
