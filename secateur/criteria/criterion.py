"""What a criterion is: a pure function, what it needs to be called with, and how its values become scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from secateur.errors import UsageError
from secateur.names import unknown_name

Combine = Literal["mean", "sum", "max", "l2"]
"""How the members of a group combine to one score per unit; l2 is the root of the sum of squares."""

Needs = Literal["weights", "gradients", "activations", "activation_gradients"]
"""What a criterion is a function of: the model alone, or what runs of mini-batches show."""

Place = Literal["producers", "scales", "scales_or_producers"]
"""Which parameters a criterion of weights or gradients looks at: those of the layers that produce a group's channels,
or the scales behind them: gates where there are any, else norms."""

Scores = dict[str, Tensor]
"""Group name → score of each unit, shape (units,); higher means keep."""


@dataclass(frozen=True)
class Criterion:
    """A way to score channels.

    ``slices`` is a pure function. What it is called with depends on ``needs``; n is the number of channels that are
    scored, and it returns one score for each, shape (n,):

    * ``weights``: (slices), one row of weights per channel, shape (n, elements). None draws at random.
    * ``gradients``: (values, gradients), both (n, elements): parameters and the gradients of one mini-batch's mean
      loss, each row by itself, because rows of several layers may come in one call.
    * ``activations``: (activations), of one mini-batch, shape (samples, n, positions).
    * ``activation_gradients``: (activations, gradients), both (samples, n, positions); the gradients are those of
      each sample's own loss.

    Attributes:
        name: as given on the command line.
        slices: the function.
        source: where it comes from.
        globally_comparable: whether scores of different groups are on one scale as they are.
        needs: what the function is called with.
        looks_at: which parameters it sees, where it needs weights or gradients.
        combine: how members of a group combine where the caller does not say.
        over_batches: whether mini-batches are summed, or averaged (weighted by samples, where it needs activations).
        per_layer_l2: whether the values of each member are divided by their Euclidean norm before members combine.
    """

    name: str
    slices: Callable[..., Tensor] | None
    source: str
    globally_comparable: bool = False
    needs: Needs = "weights"
    looks_at: Place = "producers"
    combine: Combine = "mean"
    over_batches: Literal["sum", "mean"] = "mean"
    per_layer_l2: bool = False

    def __post_init__(self) -> None:
        """Refuse what no criterion can be."""
        for kind, value, known in (
            ("needs of a criterion", self.needs, get_args(Needs)),
            ("place of a criterion", self.looks_at, get_args(Place)),
            ("combination", self.combine, get_args(Combine)),
            ("reduction over batches", self.over_batches, ("sum", "mean")),
        ):
            if value not in known:
                raise UsageError(unknown_name(kind, value, known))
        if self.slices is None and self.needs != "weights":
            raise UsageError(
                f"the criterion {self.name!r} needs {self.needs}, but has no function of them; give slices"
            )

    @property
    def needs_data(self) -> bool:
        """Whether the model has to be run on batches."""
        return self.needs != "weights"

    @property
    def needs_loss(self) -> bool:
        """Whether a loss has to be differentiated."""
        return self.needs in ("gradients", "activation_gradients")


def combination(criterion: Criterion, combine: str | None) -> Combine:
    """Return how members combine: as asked for, else as the criterion has it.

    Raises:
        UsageError: there is no such combination; the nearest is suggested.
    """
    if combine is None:
        return criterion.combine
    for known in get_args(Combine):
        if combine == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(unknown_name("combination", combine, get_args(Combine)))


def found_in(table: Mapping[str, Criterion], criterion: str | Criterion) -> Criterion:
    """Return a criterion given by itself or by its name in ``table``.

    Raises:
        UsageError: there is none of this name; the nearest name is suggested.
    """
    if isinstance(criterion, Criterion):
        return criterion
    if criterion not in table:
        raise UsageError(unknown_name("criterion", criterion, table))
    return table[criterion]
