"""Hear what some layers of a model read, and end a forward whose rest nobody needs."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Self

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from secateur.criteria.batch_runs import left_as_it_was
from secateur.graph.inputs import run
from secateur.graph.slots import mode_of, randomness_preserved, stored_tensors

Heard = Callable[[str, int, Tensor], None]
"""Called with the path of a layer, how often it has run before in this forward, and what it reads, samples first."""


@contextlib.contextmanager
def left_at_rest(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode inside the block, and leave everything of it as it was, with all random states."""
    with randomness_preserved(stored_tensors(model)), left_as_it_was(model, set()), mode_of(model, training=False):
        yield


class _AllRead(Exception):  # noqa: N818 (it is no error: it ends a forward)
    """The last layer has read."""


class Listener:
    """Hooks on some layers of a model, for a number of forwards.

    Where the first forward has run each of them once, the others end when all have read. Where one ran more often, or
    not at all, nobody can tell which time is the last, and every forward runs to its end.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str], heard: Heard) -> None:
        """Prepare to listen to the convolutions and linear layers at ``paths``."""
        self.model = model
        self._paths = tuple(dict.fromkeys(paths))
        self._heard = heard
        self._handles: list[RemovableHandle] = []
        self._runs: dict[str, int] = {}
        self._once: bool | None = None  # whether the first forward ran each of them once
        self._ended = False

    def __enter__(self) -> Self:
        """Put up the hooks."""
        for path in self._paths:
            module = self.model.get_submodule(path)
            self._handles.append(module.register_forward_pre_hook(partial(self._reads, path), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def run(self, call: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        """Run the model, the first time to its end, then as far as anything is heard."""
        self._runs, self._ended = dict.fromkeys(self._paths, 0), False
        with contextlib.suppress(_AllRead):
            run(self.model, call)
        if self._once is None:
            self._once = set(self._runs.values()) == {1}

    def _reads(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        data = args[0] if args else kwargs.get("input")
        if self._ended or not isinstance(data, Tensor):
            return  # ended, if code of the model has caught what was to end it
        number = self._runs[path]
        self._runs[path] += 1
        least = len(module.kernel_size) + 2 if isinstance(module, _ConvNd) else 2
        data = data.detach()
        self._heard(path, number, data.unsqueeze(0) if data.dim() == least - 1 else data)
        if self._once and all(self._runs.values()):
            self._ended = True
            raise _AllRead
