"""``masked``: the original model, run with removed channels zeroed where operators contract them."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import VerificationError
from secateur.graph.blocks import Drop
from secateur.graph.copying import forget_kept
from secateur.graph.flow import Call, Flow, tensors_in
from secateur.graph.labels import IntArray, Labels, attach, labels_of
from secateur.graph.operations import SUMS
from secateur.graph.plan import Plan
from secateur.graph.rules import Rule
from secateur.graph.rules.contractions import CONTRACTIONS
from secateur.graph.slots import StoredTensor, alike, module_names, preserved, refuse_wrappers, stored_tensors, swapped
from secateur.graph.statistics import OVER_KEPT, MeansOver
from secateur.graph.surgery import check_fits

_ASIDE = "_secateur_aside"


@contextlib.contextmanager
def masked(model: nn.Module, plan: Plan, *, means: MeansOver = "all") -> Iterator[nn.Module]:
    """Run ``model`` inside this block as if the channels that ``plan`` removes were zero.

    Removed indices of activations are zeroed at the inputs of convolutions and matrix products, where a zero counts
    for nothing. No parameter is edited: zeroing weights would be wrong for products of activations and behind
    functions with f(0) ≠ 0. The branch of a dropped block is replaced by zeros where it meets its shortcut. The run
    has no gradients, and buffers (batch statistics) are copies.

    Args:
        model: the model that the plan was made for.
        plan: what to remove.
        means: over which channels means and norms across channels are taken, where the plan cuts approximate
            groups: ``all``, as if the removed ones were zero, or those that are ``kept``, as in the cut model.

    Yields:
        The model.

    Raises:
        PlanError: the plan was made for another model.
        VerificationError: while running, a removed channel met an operator or tensor that keeps it.
    """
    refuse_wrappers(model)
    stored = stored_tensors(model)
    check_fits(stored, type(model).__qualname__, plan)
    masker = Masker(module_names(model), plan.drops, means)

    def marked(entry: StoredTensor) -> Tensor:
        data = entry.tensor.detach()
        tensor = alike(entry.tensor, data if entry.is_parameter else data.clone())
        dims: list[IntArray] = [np.zeros(size, dtype=np.int64) for size in tensor.shape]
        for cut in plan.cuts_of.get(entry.name, ()):
            dims[cut.dim][cut.removed] = 1
        attach(tensor, Labels(tuple(dims), from_weights=True, parameter=entry.name))
        if entry.name in plan.dropped_tensors:
            set_aside(tensor)
        return tensor

    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
        preserved(model),
        swapped(stored, marked),
        masker,
    ):
        forget_kept(model)
        yield model


class Masker(Flow):  # type: ignore[no-untyped-call]
    """Lets marks of removed channels flow by the same rules as atoms, and zeroes them at contractions.

    What is computed from parameters of a dropped block is set aside: it has no marks of its own, is checked against
    none, and ends in zeros where the block's branch is added.
    """

    def __init__(self, names: dict[int, str], drops: Iterable[Drop] = (), means: MeansOver = "all") -> None:
        super().__init__(_Marks(), names)
        self._means = means
        self._branches = {(drop.sum.module, drop.sum.number): drop.sum.operand for drop in drops}
        self._sums: Counter[str] = Counter()

    def see(
        self, func: Any, name: str, rule: Rule | None, inputs: list[Tensor], call: Call, run: Callable[[Call], Any]
    ) -> Any:
        """See :class:`Flow`; put zeros in the place of a dropped branch, and run aside what is computed in it."""
        if not self._branches:
            return super().see(func, name, rule, inputs, call, run)
        if name in SUMS:
            operand = self._branches.get((self.module_path, self._sums[self.module_path]))
            self._sums[self.module_path] += 1
            if operand is not None:
                call = self._without_branch(func, call, operand)
                inputs = list(tensors_in(call))
        if not any(_is_aside(tensor) for tensor in inputs):
            return super().see(func, name, rule, inputs, call, run)
        result = run(call)
        for tensor in tensors_in(((result,), {})):
            attach(tensor, Labels((None,) * tensor.dim(), from_weights=False))
            set_aside(tensor)
        return result

    def _without_branch(self, func: Any, call: Call, operand: int) -> Call:
        args = list(call[0])
        branch, shortcut = args[operand], args[1 - operand]
        if not (isinstance(branch, Tensor) and isinstance(shortcut, Tensor) and branch.shape == shortcut.shape):
            raise VerificationError("the plan drops a block whose branch is not added to a tensor of its own shape")
        if operand == 0 and func._schema.name.endswith("_"):
            branch.zero_()  # the sum is written into it, so it must stay this tensor
            set_aside(branch, aside=False)
        else:
            args[operand] = branch = torch.zeros_like(branch)
        attach(branch, Labels(self.dims(shortcut), from_weights=False))
        return tuple(args), call[1]

    def run(self, func: Any, name: str, call: Call) -> Any:
        """Run the operator, one that mixes channels on the kept ones alone if statistics are to be theirs."""
        if self._means == "kept" and name in OVER_KEPT:
            return OVER_KEPT[name](func, call[0], call[1], self.dims)
        return super().run(func, name, call)

    def before(self, name: str, call: Call) -> Call:
        """Zero removed channels where this operator contracts them."""
        places = CONTRACTIONS.get(name)
        if places is None:
            return call
        args, kwargs = list(call[0]), dict(call[1])
        chosen = [(place, axis, _argument(call, place)) for place, axis in places(call[0], call[1])]
        activations = [entry for entry in chosen if not _from_weights(entry[2])]
        for place, axis, tensor in activations or chosen:  # zero times a weight is zero already
            marks = self.dims(tensor)[axis]
            if marks is None or not marks.any():
                continue
            zeroed = _zeroed(tensor, axis, marks)
            attach(zeroed, Labels(self.dims(tensor), from_weights=False))
            if isinstance(place, str):
                kwargs[place] = zeroed
            else:
                args[place] = zeroed
        return tuple(args), kwargs


def set_aside(tensor: Tensor, *, aside: bool = True) -> None:
    """Mark what is computed in a dropped branch."""
    setattr(tensor, _ASIDE, aside)


def _is_aside(tensor: Tensor) -> bool:
    return getattr(tensor, _ASIDE, False)


def _argument(call: Call, place: int | str) -> Tensor:
    argument: Tensor = call[1][place] if isinstance(place, str) else call[0][place]
    return argument


def _from_weights(tensor: Tensor) -> bool:
    labels = labels_of(tensor)
    return labels is not None and labels.from_weights


def _zeroed(tensor: Tensor, axis: int, marks: IntArray) -> Tensor:
    removed = torch.from_numpy(np.flatnonzero(marks)).to(tensor.device)
    return tensor.index_fill(axis, removed, 0)


class _Marks:
    """The bookkeeper of a masked run: labels are 0/1 marks, and every claim of a rule is checked against them."""

    def carries(self, atoms: IntArray) -> bool:
        """Along which dimension unmarked channels lie can no longer be told after a view, and does not matter."""
        return bool(atoms.any())

    def unify(self, first: IntArray, second: IntArray) -> None:
        """Channels that go together must be marked together."""
        if first is not second and not np.array_equal(first, second):
            raise VerificationError("the plan removes a channel in one place and keeps it where it is tied to it")

    def lock(self, atoms: IntArray, reason: str) -> None:
        """A locked channel must not be marked."""
        if atoms.any():
            raise VerificationError(f"the plan removes a channel that is locked: {reason}")

    def approximate(self, atoms: IntArray, reason: str) -> None:
        """What statistics are taken over is decided where they are computed (:meth:`Masker.run`)."""

    def summed(self, atoms: IntArray) -> None:
        """What is summed does not matter to a mask."""

    def locked(self, count: int, reason: str) -> IntArray:
        """Channels without a parameter stay."""
        del reason
        return np.zeros(count, dtype=np.int64)

    def selected(self, path: str, source: IntArray, chosen: IntArray, places: Tensor) -> None:
        """A selection must not pass on a removed channel."""
        if (source[places.cpu().numpy()] > chosen).any():
            raise VerificationError(f"the plan removes a channel that the selection {path!r} passes on")


def masked_call(model: nn.Module, plan: Plan, call: Call, means: MeansOver = "all") -> Any:
    """Return what ``model`` computes for ``call`` with the channels that ``plan`` removes zeroed."""
    with masked(model, plan, means=means):
        return model(*call[0], **call[1])
