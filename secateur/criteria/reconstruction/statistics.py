"""What a reader's output owes to each unit, as sums over positions: all that selection and re-weighting need."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.errors import UsageError

_TENSORS = ("gram", "cross", "energy", "sums", "target_sums", "counts")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Second moments of the contributions z of U units to the outputs of O filters, and of the target y.

    z_u at image n, position p and filter o is the part of the reader's output, before its bias, that comes from unit
    u; y is their sum, or what was given from outside. All sums run over (n, p, o), those per filter over (n, p). The
    matrix of all z would have ``rows`` rows; greedy selection, least squares and errors need only these sums (Luo et
    al., ICCV 2017, arXiv:1707.06342, §3.2, where the matrix is sampled).

    Attributes:
        gram: Σ z_u·z_v, shape (U, U), float64.
        cross: Σ z_u·y, shape (U,), float64.
        energy: Σ y².
        rows: number of (n, p, o).
        sums: Σ z_u of each filter, shape (O, U), float64.
        target_sums: Σ y of each filter, shape (O,), float64.
        positions: number of (n, p).
    """

    gram: Tensor
    cross: Tensor
    energy: float
    rows: int
    sums: Tensor
    target_sums: Tensor
    positions: int

    @classmethod
    def of_own_output(cls, gram: Tensor, sums: Tensor, *, rows: int, positions: int) -> "Statistics":
        """Return the statistics whose target is the sum of all units: the reader's own output before its bias."""
        return cls(
            gram=gram,
            cross=gram.sum(1),
            energy=float(gram.sum()),
            rows=rows,
            sums=sums,
            target_sums=sums.sum(1),
            positions=positions,
        )

    @property
    def size(self) -> int:
        """Number of units."""
        return self.gram.shape[0]

    def __add__(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both sets of images together.

        Raises:
            UsageError: they belong to readers of different shape.
        """
        if self.sums.shape != other.sums.shape:
            raise UsageError(
                f"statistics of {tuple(self.sums.shape)} filters and units cannot be added to those of "
                f"{tuple(other.sums.shape)}; add only those of one reader"
            )
        return Statistics(
            gram=self.gram + other.gram,
            cross=self.cross + other.cross,
            energy=self.energy + other.energy,
            rows=self.rows + other.rows,
            sums=self.sums + other.sums,
            target_sums=self.target_sums + other.target_sums,
            positions=self.positions + other.positions,
        )

    def centred(self) -> "Statistics":
        """Return the statistics of z and y less their mean per filter: what is left to weights beside the best bias.

        With weights w on the units the best bias of filter o is (target_sums_o − sums_o·w) / positions; put in, it
        leaves the error that these statistics give. Their own sums per filter are zero.
        """
        return replace(
            self,
            gram=self.gram - self.sums.T @ self.sums / self.positions,
            cross=self.cross - self.sums.T @ self.target_sums / self.positions,
            energy=max(0.0, self.energy - float(self.target_sums.square().sum()) / self.positions),
            sums=torch.zeros_like(self.sums),
            target_sums=torch.zeros_like(self.target_sums),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return all of it as tensors that add up: over processes, and in a file.

        Numbers of rows and positions are in float64 too, exact up to 2⁵³.
        """
        return {
            "gram": self.gram,
            "cross": self.cross,
            "energy": torch.tensor(self.energy, dtype=torch.float64, device=self.gram.device),
            "sums": self.sums,
            "target_sums": self.target_sums,
            "counts": torch.tensor([self.rows, self.positions], dtype=torch.float64, device=self.gram.device),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Statistics":
        """Return what :meth:`state_dict` was made of.

        Raises:
            UsageError: a tensor is missing.
        """
        missing = [name for name in _TENSORS if name not in state]
        if missing:
            raise UsageError(f"the state of statistics lacks {', '.join(missing)}; give all of {', '.join(_TENSORS)}")
        rows, positions = (round(number) for number in state["counts"].tolist())
        return cls(
            gram=state["gram"],
            cross=state["cross"],
            energy=float(state["energy"]),
            rows=rows,
            sums=state["sums"],
            target_sums=state["target_sums"],
            positions=positions,
        )
