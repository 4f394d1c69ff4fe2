"""What mini-batches have shown so far: one sum per unit of each site."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.criteria.criterion import Criterion
from secateur.criteria.gradients import GradientReader
from secateur.criteria.readings import Readings
from secateur.criteria.sites import Model, Site
from secateur.errors import TrainingError, UsageError
from secateur.training import Processes, sum_over_processes

_SCALED = 1.5  # a loss that is multiplied by more is scaled for half precision, not weighted for uneven parts


class Observation:
    """Looks at each mini-batch and adds up what a criterion makes of it, in double precision."""

    def __init__(self, criterion: Criterion, model: Model, root: nn.Module, sites: Sequence[Site]) -> None:
        """Prepare to look at ``sites`` of ``root``."""
        self.criterion = criterion
        self.sites = list(sites)
        self._sizes = [site.size for site in sites]
        self._gradients = GradientReader(criterion, model, sites) if criterion.needs == "gradients" else None
        self._readings = (
            Readings(criterion, model, root, sites) if criterion.needs_data and self._gradients is None else None
        )
        self._scale: Tensor | None = None
        self._total = torch.zeros(sum(self._sizes), dtype=torch.float64)
        self._weight = torch.zeros(len(self.sites), dtype=torch.float64)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters whose gradients are read, by name."""
        return {} if self._gradients is None else self._gradients.parameters

    def watch(self, *, without_gradients: bool = False) -> None:
        """Put up the hooks that are needed.

        Args:
            without_gradients: also count runs without autograd.
        """
        if self._readings is not None:
            self._readings.without_gradients = without_gradients
            self._readings.watch()

    def unwatch(self) -> None:
        """Take the hooks away, and forget a mini-batch that has not ended."""
        if self._readings is not None:
            self._readings.unwatch()

    def scaled_by(self, scale: Tensor) -> None:
        """Remember what the loss of this mini-batch is multiplied by before the backward pass."""
        self._scale = scale.detach()
        if self._readings is not None:
            self._readings.scaled_by(self._scale)

    def end_batch(self, processes: Processes) -> None:
        """Add what the mini-batch has shown.

        Args:
            processes: those that look at parts of it; gradients are already averaged over them.

        Raises:
            UsageError: it has shown nothing.
        """
        with torch.no_grad():
            if self._gradients is not None:
                added = self._gradients.read()
                weight = torch.tensor(self._gradients.reached(), dtype=torch.float64, device=added.device)
            elif self._readings is not None:
                added, weight = self._joined(self._readings.take(), processes)
            else:
                return
            if self._scale is not None:  # gradients that overflow are skipped, as the optimiser skips them
                fine = torch.isfinite(added).all() | (self._scale.to(added.device).abs() <= _SCALED)
                added, weight = torch.where(fine, added, 0.0), torch.where(fine, weight, 0.0)
                self._scale = None
            self._total, self._weight = self._total.to(added.device), self._weight.to(added.device)
            self._total += added
            self._weight += weight

    def end_empty_batch(self, processes: Processes) -> None:
        """Take part in a mini-batch of which this process has no sample."""
        if self._readings is not None:
            self._joined([None] * len(self.sites), processes, needed=False)

    def values(self) -> list[Tensor | None]:
        """Return the values of each site, shape (units,), float64, on the CPU; None where nothing was seen.

        Raises:
            UsageError: no mini-batch was seen.
        """
        weight = self._weight.cpu()
        if self.sites and not weight.any():
            raise UsageError(
                f"criterion {self.criterion.name!r} has seen no mini-batch; give batches, or train with it as a hook"
            )
        found: list[Tensor | None] = []
        for total, count in zip(torch.split(self._total.cpu(), self._sizes), weight.tolist(), strict=True):
            mean = total / count if self.criterion.over_batches == "mean" and count else total.clone()
            found.append(mean if count else None)
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was added up: sums of all units, and how much each site has seen."""
        return {"total": self._total.clone(), "weight": self._weight.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state_dict` returned; nothing saved means nothing seen.

        Raises:
            TrainingError: it was saved for another model or criterion.
        """
        own = self.state_dict()
        if not state:
            state = {name: torch.zeros_like(values) for name, values in own.items()}
        for name, values in own.items():
            if name not in state or state[name].shape != values.shape:
                found = tuple(state[name].shape) if name in state else None
                raise TrainingError(
                    f"what criterion {self.criterion.name!r} has added up has shape {tuple(values.shape)} for this "
                    f"model, but the saved {name} has {found}; continue with the model and settings that began the run"
                )
        self._total, self._weight = (state[name].detach().clone().double() for name in ("total", "weight"))

    def _joined(
        self, found: Sequence[tuple[Tensor, int] | None], processes: Processes, *, needed: bool = True
    ) -> tuple[Tensor, Tensor]:
        seen = [entry for entry in found if entry is not None]
        if needed and not seen and self.sites:
            raise UsageError(
                f"criterion {self.criterion.name!r} has seen nothing of this mini-batch in the model it was made for; "
                "enter it (with …:) before training, and train this very model with autograd"
            )
        device = seen[0][0].device if seen else self._total.device
        parts = [
            torch.zeros(size, dtype=torch.float64, device=device) if entry is None else entry[0]
            for entry, size in zip(found, self._sizes, strict=True)
        ]
        counts = [0.0 if entry is None else float(entry[1]) for entry in found]
        weight = torch.tensor(counts, dtype=torch.float64, device=device)
        if processes.world_size == 1:
            return torch.cat(parts), weight
        both = sum_over_processes(torch.cat([*parts, weight]), processes)
        return both[: -len(counts)], both[-len(counts) :]
