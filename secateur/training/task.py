"""What a compression method needs of a user's training, and what training needs of data: protocols only."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.names import unknown_name
from secateur.record import Evaluation, TrainResult
from secateur.training.settings import TrainSettings

if TYPE_CHECKING:
    from secateur.training.store import Phase

Split: TypeAlias = Literal["train", "validation", "test"]
TaskName: TypeAlias = Literal["classification", "segmentation"]
Batch: TypeAlias = tuple[Tensor, Tensor]  # inputs (N, C, H, W) and class indices (N,), or (N, H, W) of segmentation
Subset: TypeAlias = int | float | Sequence[int] | Tensor  # a number of samples, a share in (0, 1], or indices
Step: TypeAlias = Callable[[nn.Module, Batch, torch.optim.Optimizer], Tensor]


class DataSource(Protocol):
    """Labelled images in three splits.

    A source whose labels are a class per pixel says so by an attribute ``task = "segmentation"``, see :func:`task_of`.
    """

    @property
    def name(self) -> str:
        """What the data set is called."""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in the order of the labels."""

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one sample."""

    def size(self, split: Split) -> int:
        """Return the number of samples in ``split``."""

    def batches(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int | None = None,
        augment: bool = False,
        device: torch.device | str = "cpu",
        start: int = 0,
        limit: int | None = None,
        indices: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch]:
        """Yield the split once in batches.

        Args:
            split: which samples.
            batch_size: samples per batch over all processes together; the last batch may have fewer.
            seed: ``None`` gives the stored order; a seed gives an order, and with ``augment`` augmentations,
                that depend on (seed, batch number) alone.
            augment: whether samples are augmented.
            device: where the tensors are wanted.
            start: batches to skip; the others are the same as without.
            limit: the most batches to yield.
            indices: only these samples of the split.
            rank: number of this process; it gets its part of each batch, the parts of a batch differing by at
                most one sample.
            world_size: number of processes.
        """


def task_of(data: object) -> TaskName:
    """Return what a data source is labelled for: its attribute ``task``, classification where it has none.

    * ``"classification"``: labels are class indices (N,), models return logits (N, classes).
    * ``"segmentation"``: labels are class indices (N, H, W), 255 where a pixel has none; models return logits
      (N, classes, H, W), or a dict with these under ``out`` and perhaps more under ``aux``.

    Raises:
        DataError: it says something else.
    """
    said = getattr(data, "task", "classification")
    for known in get_args(TaskName):
        if said == known:
            name: TaskName = known
            return name
    raise DataError(f"{type(data).__name__}.task: {unknown_name('task', str(said), get_args(TaskName))}")


class Hook:
    """What may happen beside the ordinary training step; a hook is any object with some of these methods.

    There is no need to inherit: this class documents the names. Each may be left out.

    * ``begin(model, optimizer)`` runs once per call of ``train`` that takes a step, before the first one, and so
      again where a killed run continues: weights, the optimiser's state and what the hook has accumulated are
      then those of the checkpoint. The place to look up parameters, and to keep the optimiser whose state a
      later moment changes; SGD's momentum is there already, Adam's moments come with the first step.
    * ``loss(model, batch, loss) -> loss`` changes the loss before the backward pass, for example by a
      penalty.
    * ``after_backward(model)`` sees and may change the gradients, already unscaled and averaged over
      processes.
    * ``after_step(model)`` runs after the optimiser, for example to apply masks again.
    * ``after_epoch(model, epoch)`` runs at the end of each epoch, before it is evaluated.
    * ``state_dict() -> dict[str, Tensor]`` and ``load_state_dict(state)``, given together: what the hook has
      accumulated, saved with each checkpoint. A hook without them must not remember anything from step to
      step, or a continued run differs from an unbroken one. Under several processes the state saved is that
      of the first, so a hook adds up values that it has reduced over the processes.
    """


@runtime_checkable
class Task(Protocol):
    """A user's training, as far as a compression method needs it."""

    @property
    def example_inputs(self) -> Tensor:
        """A small batch of inputs on the task's device, (2, C, H, W), to trace a model with."""

    def train(
        self,
        model: nn.Module,
        *,
        epochs: int,
        settings: TrainSettings | None = None,
        subset: Subset | None = None,
        frozen: Iterable[str] = (),
        step: Step | None = None,
        hooks: Sequence[object] = (),
    ) -> TrainResult:
        """Train ``model`` in place for some passes over the training split.

        Args:
            model: what to train; its train/eval flags and ``requires_grad`` are afterwards as they were.
            epochs: passes over the data; 0 does nothing.
            settings: how to train in this phase; ``None`` takes the task's own settings.
            subset: train on some samples only: a number of them, a share in (0, 1], or their indices.
            frozen: names of parameters, or of modules, that stay bitwise as they are.
            step: replaces the whole step (gradients to ``None``, forward, backward, optimiser); returns the
                loss.
            hooks: objects as described in :class:`Hook`, called in this order.
        """

    def evaluate(self, model: nn.Module, split: Split = "validation") -> Evaluation:
        """Return the averages per sample over ``split``; only a final report asks for ``"test"``."""

    def batches(self, n: int, split: Split = "train") -> Iterator[Batch]:
        """Yield up to ``n`` batches of ``split``, the same ones on every call, shuffled but not augmented."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the scalar loss of one batch, which can be differentiated."""


@runtime_checkable
class PhasedTask(Task, Protocol):
    """A task whose training can be continued in the middle of a phase."""

    def in_phase(self, phase: "Phase") -> Task:
        """Return a task that trains as ``phase``: continues it if it was begun, skips it if it is done."""
