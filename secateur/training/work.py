"""What one call of ``train`` is asked to do."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import cast

from pydantic import JsonValue
from torch import Tensor, nn

from secateur.training.settings import TrainSettings
from secateur.training.task import Step


@dataclass(frozen=True, kw_only=True)
class Work:
    """The checked arguments of one call of ``train``."""

    name: str  # of the phase
    model: nn.Module
    epochs: int
    settings: TrainSettings
    seed: int
    indices: Tensor | None  # of the training samples used, (samples,); None: all
    frozen: tuple[str, ...]
    step: Step | None
    hooks: tuple[object, ...]

    def settings_as_json(self) -> dict[str, JsonValue]:
        """Return the settings as JSON."""
        return cast(dict[str, JsonValue], json.loads(json.dumps(dataclasses.asdict(self.settings))))

    def as_json(self, data: str) -> dict[str, JsonValue]:
        """Return everything that a run which continues this phase must ask for in the same way.

        Args:
            data: names the training samples.
        """
        subset = "all"
        if self.indices is not None:
            digest = hashlib.blake2b(self.indices.numpy().tobytes(), digest_size=6).hexdigest()
            subset = f"{len(self.indices)} samples ({digest})"
        return {
            "epochs": self.epochs,
            "seed": self.seed,
            "data": data,
            "subset": subset,
            "frozen": ", ".join(sorted(self.frozen)),
            "hooks": ", ".join(type(hook).__name__ for hook in self.hooks),
            "replaced step": self.step is not None,
            **self.settings_as_json(),
        }
