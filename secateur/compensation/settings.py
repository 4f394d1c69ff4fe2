"""What is restored right after a cut, before any training, and from how many images."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from pydantic import ConfigDict

from secateur.errors import UsageError
from secateur.names import unknown_name

How = Literal["none", "mean", "scale", "both"]
"""What the layers that read a cut one get: nothing, a bias, a factor per input channel, or both."""


@dataclass(frozen=True, kw_only=True)
class RestoreSettings:
    """What brings accuracy back after a cut without training; by default nothing.

    ``compensate`` re-fits the layers that read what was cut, so that they give the output of the model before the cut
    as nearly as they can: ``mean`` by a bias alone, ``scale`` by one factor per input channel (least squares), ``both``
    by factors and bias together. ``batch_norm_images`` above 0 then measures the running means and variances of batch
    norm anew.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    compensate: How = "none"  # none, mean, scale or both
    images: int = 512  # of the training split, to re-fit on
    batch_norm_images: int = 0  # of the training split, to measure running statistics on; 0 leaves them

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if self.compensate not in get_args(How):
            raise UsageError(unknown_name("setting of restore.compensate", str(self.compensate), get_args(How)))
        for name in ("images", "batch_norm_images"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int):
                raise UsageError(f"restore.{name} is {count!r}, but must be a whole number of images, such as 512")
        if self.images < 1:
            raise UsageError(f"restore.images is {self.images}, but must be at least 1")
        if self.batch_norm_images < 0 or self.batch_norm_images == 1:
            raise UsageError(
                f"restore.batch_norm_images is {self.batch_norm_images}, but must be 0 (off) or at least 2, because "
                "one image has no variance; some hundreds are usual"
            )

    @property
    def is_off(self) -> bool:
        """Whether nothing is restored."""
        return self.compensate == "none" and self.batch_norm_images == 0


RESTORE_NOTHING = RestoreSettings()
"""The default of every method."""
