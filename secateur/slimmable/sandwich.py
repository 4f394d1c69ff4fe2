"""One training step of a network of many widths: the sandwich rule, with the widest network as the teacher."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from secateur.criteria.accumulator import present_processes
from secateur.errors import DataError, UsageError
from secateur.graph import ChannelGraph, Plan
from secateur.graph.narrowing import Narrowable
from secateur.randomness import generator_for
from secateur.returned import described, with_article
from secateur.slimmable.gradients import average_gradients
from secateur.slimmable.norm_statistics import batch_statistics
from secateur.slimmable.switchable import SwitchableNorms
from secateur.slimmable.widths import Widths, WidthSpace, plan_of
from secateur.training import IGNORED, Batch
from secateur.training.segmentation import split_outputs

Loss = Callable[[nn.Module, Batch], Tensor]


class Sandwich:
    """A training step for ``task.train(…, step=…)``: several widths of one network, one step of the optimiser.

    The widest network learns the labels; the narrowest, and others drawn at random for each batch, learn what the
    widest gives for the same images (in-place distillation: cross entropy with its softmax, through which no gradient
    flows). The gradients of all add up, and the optimiser takes one step, so learning rates mean what they mean for one
    network. Batch norm uses the batch itself, and running statistics are left alone; afterwards each width gets its own
    (:func:`secateur.slimmable.post_statistics`).

    Draws come from torch's default generator, which the training loop seeds anew for every step and process, and from
    the process's number: under ``torchrun`` each process trains other networks, and gradients are averaged over all
    images of the step when every backward pass is done, so that the processes' networks stay equal bit for bit.

    With ``fixed`` widths nothing is drawn: all of them are trained together in every step, the largest by its
    multiply-adds as the teacher. A :class:`~secateur.slimmable.SwitchableNorms` of the same widths then brings norms of
    their own, which also keep running statistics.

    Source: Yu & Huang 2019, "Universally slimmable networks", arXiv:1903.05134, sections 3.2 and 3.3: sandwich rule
    and in-place distillation; "AutoSlim", arXiv:1903.11728: every layer's width by itself.

    Attributes:
        losses: of the latest step, detached: of the largest network, then of the others in the order in which they ran.
        drawn: the widths that the latest step drew at random.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        space: WidthSpace | None = None,
        *,
        loss: Loss | None = None,
        samples: int = 4,
        distil: bool = True,
        seed: int = 0,
        fixed: Sequence[Widths] | None = None,
        allow_approximate: bool = False,
    ) -> None:
        """Prepare the step.

        Args:
            graph: of the widest network.
            space: the widths to draw from; left out where they are ``fixed``.
            loss: of a network and a batch, called once for the widest network, such as ``task.loss`` (with the task's
                label smoothing and precision, in which the other networks then compute as well); cross entropy of the
                logits if left out.
            samples: networks per step: 1 trains the widest alone, 2 the narrowest as well, more add random ones.
            distil: False trains all of them by ``loss``.
            seed: of the draws.
            fixed: train these widths in every step instead.
            allow_approximate: also cut groups where cutting is not the same as zeroing.

        Raises:
            UsageError: there is neither a space nor a list of widths, or both, or too few samples.
            PlanError: the space or a list was made for another graph.
        """
        if (space is None) == (not fixed):
            raise UsageError("give Sandwich either a space of widths to draw from or a list of fixed widths")
        if samples < 1:
            raise UsageError(f"samples is {samples}, but a step trains at least 1 network")
        self.losses: tuple[Tensor, ...] = ()
        self.drawn: tuple[Widths, ...] = ()
        self._loss: Loss = loss if loss is not None else cross_entropy
        self._distil, self._seed, self._space, self._graph = distil, seed, space, graph
        self._approximate = allow_approximate
        self._random = 0 if space is None else max(0, samples - 2)
        chosen: list[Widths]
        if space is None:
            chosen = list(fixed or ())
            plans = list(map(self._plan, chosen))
            order = sorted(range(len(plans)), key=lambda number: -graph.macs(plans[number]))
        else:
            space.check(graph)
            chosen = [*[space.largest(), space.smallest()][:samples]]
            plans = list(map(self._plan, chosen))
            order = list(range(len(plans)))
        self._always = tuple((number, plans[number]) for number in order)
        self._fixed = None if space is not None else tuple(dict(widths) for widths in chosen)

    def __call__(self, network: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
        """Take the step and return the sum of the losses, which is what it descends, detached.

        Args:
            network: the widest network, a :class:`SwitchableNorms`, or either in its data-parallel wrapper.
            batch: inputs and labels; under several processes this one's part.
            optimizer: of its parameters.

        Raises:
            PlanError: the graph was another model's.
            UsageError: a :class:`SwitchableNorms` has other widths.
            DataError: the network returns something else than logits.
        """
        model: nn.Module = network.module if isinstance(network, DistributedDataParallel) else network
        for parameter in model.parameters():
            parameter.grad = None
        runs = self._runs(model)
        inputs, labels = batch
        heard = _Heard()
        with runs[0] as largest:
            handle = largest.register_forward_hook(heard)
            try:
                loss = self._loss(largest, batch)
            finally:
                handle.remove()
        loss.backward()  # type: ignore[no-untyped-call]
        losses = [loss.detach()]
        for run in runs[1:]:
            with run as narrow:
                if self._distil:
                    with heard.precision():
                        loss = soft_cross_entropy(logits_of(narrow(inputs)), heard.logits, labels)
                else:
                    loss = self._loss(narrow, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        average_gradients(model, len(labels), present_processes())
        optimizer.step()
        self.losses = tuple(losses)
        return torch.stack(losses).sum()

    def _runs(self, model: nn.Module) -> list[AbstractContextManager[nn.Module]]:
        """Return, in the order in which they run, blocks in which ``model`` runs at one width each."""
        if isinstance(model, SwitchableNorms):
            if model.widths != self._fixed:
                raise UsageError(
                    "these SwitchableNorms have other widths than the step; give Sandwich fixed=norms.widths"
                )
            return [model.at(number) for number, _ in self._always]
        plans = [plan for _, plan in self._always]
        if self._space is not None and self._random:
            number = int(torch.randint(2**62, ()).item())
            generator = generator_for(self._seed, "sandwich", present_processes().rank, number)
            self.drawn = tuple(self._space.sample(generator) for _ in range(self._random))
            plans += map(self._plan, self.drawn)
        looked_through = Narrowable(model)
        return [_by_batch(looked_through, plan) for plan in plans]

    def _plan(self, widths: Widths) -> Plan:
        return plan_of(self._graph, widths, allow_approximate=self._approximate)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross entropy of a model's logits and the labels, (N,) or masks (N, H, W)."""
    return F.cross_entropy(_at_least_single(logits_of(model(batch[0]))), batch[1], ignore_index=IGNORED)


def soft_cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return −Σ softmax(teacher) · log softmax(student) over classes, averaged over the batch, in nats.

    Args:
        student: logits, (N, classes), or per pixel (N, classes, H, W).
        teacher: logits of the same shape; no gradient flows into them.
        labels: only to leave out pixels without a class.
    """
    target = _at_least_single(teacher.detach()).softmax(dim=1)
    loss = F.cross_entropy(_at_least_single(student), target, reduction="none")
    if loss.shape != labels.shape:
        return loss.mean()
    counted = labels != IGNORED
    return (loss * counted).sum() / counted.sum().clamp(min=1)


def logits_of(outputs: Any) -> Tensor:
    """Return the main logits among what a network returned: itself, its part ``out``, or the first of several.

    Raises:
        DataError: that is no tensor with a dimension of classes.
    """
    found = outputs[0] if isinstance(outputs, tuple | list) and outputs else split_outputs(outputs)[0]
    if not isinstance(found, Tensor) or found.dim() < 2:
        raise DataError(
            f"the network returned {with_article(described(outputs))}, but the step needs logits of shape (N, classes) "
            "or (N, classes, H, W); wrap the network in a module that returns them"
        )
    return found


def _at_least_single(logits: Tensor) -> Tensor:
    """Return logits in float32, where autocast gave fewer bits."""
    return logits if logits.dtype == torch.float64 else logits.float()


class _Heard:
    """A hook that keeps the logits of a network and the precision that it was run in."""

    def __init__(self) -> None:
        self.logits = torch.empty(0)
        self._cast: torch.dtype | None = None
        self._device = "cpu"

    def __call__(self, _module: nn.Module, _inputs: Any, outputs: Any) -> None:
        self.logits = logits_of(outputs).detach()
        self._device = self.logits.device.type
        on = torch.is_autocast_enabled(self._device)
        self._cast = torch.get_autocast_dtype(self._device) if on else None

    def precision(self) -> AbstractContextManager[Any]:
        """Compute in the same precision inside the block."""
        return nullcontext() if self._cast is None else torch.autocast(self._device, dtype=self._cast)


@contextmanager
def _by_batch(model: Narrowable, plan: Plan) -> Iterator[nn.Module]:
    """Run a model at the width of ``plan`` inside the block, normalised by the batch."""
    # Around the narrow block, which then need not cut running statistics.
    with batch_statistics(model.model), model.at(plan) as narrow:
        yield narrow
