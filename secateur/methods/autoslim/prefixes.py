"""Shared prefixes: what candidates that differ in one group have in common is computed once for all of them.

A network whose group g has fewer channels computes the same as the one it comes from, channel by channel, up to the
first operator that mixes channels of g. So the outputs of the modules that have returned by then are recorded in one
run of the common network and given back, with the leading channels of g, in the candidate's run. Batch norm must go by
the batch (:func:`secateur.slimmable.batch_statistics`).
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import SecateurError
from secateur.graph import ChannelGraph
from secateur.graph.first_readers import GivenTensor, module_calls
from secateur.graph.labels import IntArray
from secateur.methods.autoslim.skipping import Prefix, is_written_from, prefix_before
from secateur.slimmable import Widths

PREFIX_BYTES = 2**30
"""Bound on the recorded outputs that are kept at once: 1 GiB."""


class OtherCallsError(SecateurError):
    """A run called other modules than the one that was looked at, so nothing can be given back."""


class _Enough(Exception):  # noqa: N818 (no error: it ends a run of which no more is needed)
    """All that is needed has been recorded."""


@dataclass
class Recorded:
    """Outputs of the common network for one batch, by number of the call."""

    widths: Widths
    outputs: dict[int, Tensor] = field(default_factory=dict)
    shapes: dict[int, tuple[tuple[int, ...], torch.dtype, torch.device]] = field(default_factory=dict)


class Prefixes:
    """The shared prefixes of one network, found by one run of it on a few samples."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, example: Tensor) -> None:
        """Look at one run.

        Args:
            model: the widest network, in the mode in which it will be evaluated.
            graph: of it.
            example: a few samples, (N, …).
        """
        self._graph = graph
        self._seen = module_calls(model, graph, example)
        self._samples = max(1, example.shape[0])
        self._modules = {path: module for path, module in model.named_modules() if path}
        self._paths = tuple(call.path for call in self._seen.operations.calls)
        self._found: dict[str, Prefix] = {}

    def of(self, group: str) -> Prefix:
        """Return what can be shared when ``group`` shrinks."""
        if group not in self._found:
            self._found[group] = prefix_before(self._seen, self._seen.first_readers.get(group, 0))
        return self._found[group]

    def stretches(self, groups: Iterable[str], widths: Widths, samples: int, limit_bytes: int) -> list[list[str]]:
        """Divide candidates so that the recorded outputs of each stretch stay within a bound.

        Groups whose prefix ends earlier come first. Those that sharing does not help are left out: where nothing is
        shared, where their outputs alone are over the bound, and whole stretches that would save less than the run of
        the common network costs.

        Args:
            groups: names of the groups that may shrink.
            widths: of the common network.
            samples: of a batch.
            limit_bytes: bound on recorded outputs.
        """
        found: list[list[str]] = []
        held: set[int] = set()
        for name in sorted(groups, key=lambda name: self._seen.first_readers.get(name, 0)):
            needed = self.of(name).needed
            if not self.of(name).skipped or self._bytes(needed, widths, samples) > limit_bytes:
                continue
            if not found or self._bytes(held | needed, widths, samples) > limit_bytes:
                found.append([])
                held = set()
            held |= needed
            found[-1].append(name)
        return [stretch for stretch in found if sum(self.of(name).saved for name in stretch) > 1]

    def record(self, groups: Iterable[str], widths: Widths, run: Callable[[], Any]) -> Recorded:
        """Run the common network as far as candidates of ``groups`` need it, and return what they need.

        Args:
            groups: names of the candidates' groups.
            widths: of the common network.
            run: runs it.

        Raises:
            OtherCallsError: the run calls other modules than the one that was looked at.
        """
        recorded = Recorded(dict(widths))
        prefixes = [self.of(name) for name in groups]
        needed = frozenset().union(*(prefix.needed for prefix in prefixes))
        skipped = frozenset().union(*(prefix.skipped for prefix in prefixes))
        missing = set(skipped)

        def call(number: int, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            result = forward(*args, **kwargs)
            if number in skipped:
                if not isinstance(result, Tensor):
                    raise OtherCallsError(f"{self._paths[number]} returned {type(result).__name__} instead of a tensor")
                recorded.shapes[number] = (tuple(result.shape), result.dtype, result.device)
            if number in needed:
                recorded.outputs[number] = result.clone() if self._is_written_later(number) else result
            missing.discard(number)
            if not missing:
                raise _Enough
            return result

        with contextlib.suppress(_Enough), self._calls(range(1, len(self._paths)), call):
            run()
        return recorded

    @contextlib.contextmanager
    def given_back(self, group: str, count: int, recorded: Recorded) -> Iterator[None]:
        """Let modules give back what was recorded, in a run with ``count`` units of ``group`` inside this block.

        Raises:
            OtherCallsError: the run calls other modules than the one that was looked at.
        """
        prefix = self.of(group)
        narrower = {**recorded.widths, group: count}

        def call(number: int, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            if number not in prefix.skipped:
                return forward(*args, **kwargs)
            given = self._given(number)
            kept = [self._places(units, recorded.widths, narrower) for units in given.units]
            if number in prefix.needed:
                return _leading(recorded.outputs[number], kept, copied=self._is_written_later(number))
            shape, dtype, device = recorded.shapes[number]
            sizes = [size if places is None else places.size for size, places in zip(shape, kept, strict=True)]
            # Nobody reads it; if somebody did, it would show.
            absent = torch.nan if dtype.is_floating_point else 0
            return torch.full((), absent, dtype=dtype, device=device).expand(sizes)

        with self._calls(prefix.order, call):
            yield

    @contextlib.contextmanager
    def _calls(self, expected: Iterable[int], call: Callable[..., Any]) -> Iterator[None]:
        """Let ``call`` stand in for the forward of every module, told the number of the call."""
        numbers = iter(expected)

        def standing_in(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
            def stands_in(*args: Any, **kwargs: Any) -> Any:
                number = next(numbers, None)
                if number is None or self._paths[number] != path:
                    raise OtherCallsError(f"{path} was called where the run that was looked at did not call it")
                return call(number, forward, args, kwargs)

            return stands_in

        own: list[tuple[dict[str, Any], Any]] = []
        try:
            for path in dict.fromkeys(self._paths):
                if path:
                    values = vars(self._modules[path])
                    own.append((values, values.get("forward")))
                    values["forward"] = standing_in(path, self._modules[path].forward)
            yield
            if next(numbers, None) is not None:
                raise OtherCallsError("a run called fewer modules than the one that was looked at")
        finally:
            for values, forward in own:
                if forward is None:
                    values.pop("forward", None)
                else:
                    values["forward"] = forward

    def _given(self, number: int) -> GivenTensor:
        given = self._seen.given[number]
        assert given is not None
        return given

    def _is_written_later(self, number: int) -> bool:
        return is_written_from(self._seen, number)

    def _places(self, units: IntArray | None, widths: Widths, narrower: Widths) -> IntArray | None:
        """Return which indices of a dimension stay, of those that ``widths`` keep; None where all of them do."""
        if units is None or not (units >= 0).any():
            return None
        before, after = self._stay(units, widths), self._stay(units, narrower)
        return None if bool((before == after).all()) else np.flatnonzero(after[before])

    def _stay(self, units: IntArray, widths: Widths) -> np.ndarray[Any, np.dtype[np.bool_]]:
        stay = np.ones(units.size, dtype=bool)
        for group in self._graph.groups_of(units):
            if group.name in widths:
                first = group.offset + widths[group.name]
                stay &= (units < first) | (units >= group.offset + group.size)
        return stay

    def _bytes(self, numbers: Collection[int], widths: Widths, samples: int) -> int:
        total = 0.0
        for number in numbers:
            given = self._given(number)
            sizes = [
                size if units is None else int(self._stay(units, widths).sum())
                for size, units in zip(given.shape, given.units, strict=True)
            ]
            total += float(np.prod(sizes)) * given.element_bytes * samples / self._samples
        return round(total)


def _leading(tensor: Tensor, kept: list[IntArray | None], *, copied: bool) -> Tensor:
    for axis, places in enumerate(kept):
        if places is None:
            continue
        first, last = int(places[0]), int(places[-1])
        if last - first + 1 == places.size:
            tensor = tensor.narrow(axis, first, places.size)
        else:
            tensor = tensor.index_select(axis, torch.from_numpy(places).to(tensor.device))
    # Layers get memory laid out as they would without sharing.
    dense = tensor.contiguous(memory_format=torch.channels_last) if _is_channels_last(tensor) else tensor.contiguous()
    return dense.clone() if copied and dense is tensor else dense


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.stride(1) == 1 and tensor.shape[1] > 1
