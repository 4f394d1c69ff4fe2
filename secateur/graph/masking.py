"""``masked``: the original model, run with removed channels zeroed where operators contract them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import VerificationError
from secateur.graph.flow import Call, Flow
from secateur.graph.labels import IntArray, Labels, attach, labels_of
from secateur.graph.plan import Plan
from secateur.graph.rules.contractions import CONTRACTIONS
from secateur.graph.slots import StoredTensor, alike, module_names, preserved, refuse_wrappers, stored_tensors, swapped
from secateur.graph.surgery import check_fits


@contextlib.contextmanager
def masked(model: nn.Module, plan: Plan) -> Iterator[nn.Module]:
    """Run ``model`` inside this block as if the channels that ``plan`` removes were zero.

    Removed indices of activations are zeroed at the inputs of convolutions and matrix products, where a zero counts
    for nothing. No parameter is edited: zeroing weights would be wrong for products of activations and behind
    functions with f(0) ≠ 0. The run has no gradients, and buffers (batch statistics) are copies.

    Args:
        model: the model that the plan was made for.
        plan: what to remove.

    Yields:
        The model.

    Raises:
        PlanError: the plan was made for another model.
        VerificationError: while running, a removed channel met an operator or tensor that keeps it.
    """
    refuse_wrappers(model)
    stored = stored_tensors(model)
    check_fits(stored, type(model).__qualname__, plan)
    masker = Masker(module_names(model))

    def marked(entry: StoredTensor) -> Tensor:
        data = entry.tensor.detach()
        tensor = alike(entry.tensor, data if entry.is_parameter else data.clone())
        dims: list[IntArray] = [np.zeros(size, dtype=np.int64) for size in tensor.shape]
        for cut in plan.cuts_of.get(entry.name, ()):
            dims[cut.dim][cut.removed] = 1
        attach(tensor, Labels(tuple(dims), from_weights=True, parameter=entry.name))
        return tensor

    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
        preserved(model),
        swapped(stored, marked),
        masker,
    ):
        yield model


class Masker(Flow):  # type: ignore[no-untyped-call]
    """Lets marks of removed channels flow by the same rules as atoms, and zeroes them at contractions."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__(_Marks(), names)

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

    def unify(self, first: IntArray, second: IntArray) -> None:
        """Channels that go together must be marked together."""
        if first is not second and not np.array_equal(first, second):
            raise VerificationError("the plan removes a channel in one place and keeps it where it is tied to it")

    def lock(self, atoms: IntArray, reason: str) -> None:
        """A locked channel must not be marked."""
        if atoms.any():
            raise VerificationError(f"the plan removes a channel that is locked: {reason}")

    def approximate(self, atoms: IntArray, reason: str) -> None:
        """Statistics across channels are left as they are: the difference is what ``verify`` measures."""

    def summed(self, atoms: IntArray) -> None:
        """What is summed does not matter to a mask."""

    def locked(self, count: int, reason: str) -> IntArray:
        """Channels without a parameter stay."""
        del reason
        return np.zeros(count, dtype=np.int64)


def masked_call(model: nn.Module, plan: Plan, call: Call) -> Any:
    """Return what ``model`` computes for ``call`` with the channels that ``plan`` removes zeroed."""
    with masked(model, plan):
        return model(*call[0], **call[1])
