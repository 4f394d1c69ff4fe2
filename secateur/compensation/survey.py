"""Which layers read a cut one, in which order they run, and where a constant could go."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from secateur.criteria.batch_runs import call_of, misfit_named
from secateur.criteria.reconstruction import NormsBehind, Reader, reader_at
from secateur.criteria.reconstruction.listening import Listener, left_at_rest
from secateur.errors import PlanError
from secateur.graph import ChannelGraph, Plan
from secateur.training import Batch


@dataclass
class Survey:
    """What one forward of the cut model has shown.

    Attributes:
        waves: readers that may be fitted together, because they read the very same tensor, in the order in which they
            run: what a reader is given depends on the readers of earlier waves alone.
        norm_behind: path of a reader → path of the batch norm right behind it.
        left: what cannot be fitted → why.
    """

    waves: list[list[Reader]] = field(default_factory=list)
    norm_behind: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def survey(small: nn.Module, graph: ChannelGraph, plan: Plan, batch: Batch) -> Survey:
    """Find the layers of a cut model that lost input channels.

    Args:
        small: the cut model.
        graph: of the model before the cut.
        plan: from that model to ``small``.
        batch: to run ``small`` on once.

    Raises:
        DataError: ``small`` does not run on it.
    """
    found = Survey()
    after = graph.after(plan)
    readers = {reader.path: reader for reader in _readers(small, graph, after, plan, found.left)}
    read: dict[tuple[int, int], list[Reader]] = {}
    held: list[Tensor] = []  # so that no other tensor gets the place of one that was read
    seen: set[str] = set()

    def heard(path: str, _number: int, inputs: Tensor) -> None:
        if path not in seen:
            held.append(inputs)
            read.setdefault((inputs.data_ptr(), inputs._version), []).append(readers[path])
            seen.add(path)

    with (
        left_at_rest(small),
        NormsBehind(small, readers) as norms,
        Listener(small, readers, heard) as listener,
        misfit_named(small, batch, 1),
    ):
        listener.run(_few(call_of(batch)))
    found.norm_behind = norms.found()
    found.waves = list(read.values())
    found.left |= {readers[path].weight: "it did not run" for path in readers if path not in seen}
    return found


def kept_filters(plan: Plan, weight: str) -> tuple[int, ...]:
    """Return which output filters of a weight ``plan`` keeps."""
    cut = next((cut for cut in plan.cuts_of.get(weight, ()) if cut.dim == 0), None)
    return tuple((np.arange(plan.shapes[weight][0]) if cut is None else cut.kept).tolist())


def _few(call: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a call on two samples where that is one on a tensor: all that is read is kept for a moment."""
    args, kwargs = call
    if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
        return (args[0][:2],), kwargs
    return call


def _readers(
    small: nn.Module, graph: ChannelGraph, after: ChannelGraph, plan: Plan, left: dict[str, str]
) -> Iterable[Reader]:
    """Yield the layers that lost input channels; what reads them otherwise goes into ``left``."""
    consumed = {(dim.parameter, dim.dim) for dim in graph.dims if dim.role == "consumes"}
    for cut in plan.cuts:
        if (cut.parameter, cut.dim) in consumed:
            try:
                yield reader_at(after, small, cut.parameter)
            except PlanError as error:
                left[cut.parameter] = str(error).partition(": ")[2] or str(error)
    for name in plan.kept:
        if not any(member.role == "consumes" for member in graph.group(name).members):
            left[name] = "no convolution or linear layer reads it"
