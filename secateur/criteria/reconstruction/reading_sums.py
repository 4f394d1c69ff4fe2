"""Sums over what readers have read, and what they were to give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.criteria.reconstruction.gram import GramAccumulator
from secateur.criteria.reconstruction.rows import sample_rows, statistics_of_rows
from secateur.criteria.reconstruction.statistics import Statistics
from secateur.errors import UsageError
from secateur.graph.units import UnitArray
from secateur.randomness import generator_for
from secateur.training import Processes, sum_over_processes


@dataclass(frozen=True, eq=False)
class Reader:
    """A module whose input channels are units.

    Attributes:
        path: of the module.
        weight: name of its weight.
        units: unit of each input channel (column of a linear layer), -1 for those of none, shape (input channels,).
        size: number of units.
    """

    path: str
    weight: str
    units: UnitArray
    size: int


@dataclass(frozen=True, eq=False)
class Target:
    """Which part of what the other model's reader gives is the target.

    Attributes:
        channels: whether each of its input channels counts, shape (input channels,); None for all.
        filters: its output filters that the reader still has, in order; None for all.
        offset: what is added for each of these filters, shape (filters,); None adds nothing.
    """

    channels: Sequence[bool] | None = None
    filters: Sequence[int] | None = None
    offset: Tensor | None = None


class Wanted:
    """What the readers of another model give, of the mini-batch that it has run on."""

    def __init__(
        self, model: nn.Module, readers: Mapping[str, Sequence[Reader]], targets: Mapping[str, Target]
    ) -> None:
        """Prepare to keep what the readers of ``model`` at the paths of ``readers`` give."""
        self.model = model
        self._parts: dict[str, list[tuple[str, Tensor, Target]]] = {}
        for group, found in readers.items():
            for reader in found:
                target = targets.get(reader.path, Target((reader.units >= 0).tolist()))
                weight = _restricted(model.get_submodule(reader.path), target)
                self._parts.setdefault(reader.path, []).append((group, weight, target))
        self._found: dict[tuple[str, str], list[Tensor]] = {}

    def read(self, path: str, number: int, inputs: Tensor) -> None:
        """Keep what a reader gives, now that it is given ``inputs``."""
        del number
        module = self.model.get_submodule(path)
        axis = -1 if isinstance(module, nn.Linear) else 1
        for group, weight, target in self._parts[path]:
            given = _without_bias(module, inputs, weight)
            if target.filters is not None:
                given = given.index_select(axis, torch.as_tensor(list(target.filters), device=given.device))
            if target.offset is not None:
                given = (given.movedim(axis, -1) + target.offset.to(given)).movedim(-1, axis)
            self._found.setdefault((group, path), []).append(given)

    def of(self, group: str, path: str, number: int) -> Tensor:
        """Return what the reader gave when it ran for the ``number``-th time, counted from 0.

        Raises:
            UsageError: it did not run so often.
        """
        given = self._found.get((group, path), [])
        if number >= len(given):
            raise UsageError(
                f"{path} runs {number + 1} times or more, but {len(given)} times in the model that gives the target; "
                "give the model that this one was cut from"
            )
        return given[number]

    def forget(self) -> None:
        """Let go of the mini-batch."""
        self._found.clear()


class ReadingSums:
    """Statistics of each reader of each group, over all that was read so far."""

    def __init__(
        self,
        model: nn.Module,
        readers: Mapping[str, Sequence[Reader]],
        rows_per_image: int | None = None,
        wanted: Wanted | None = None,
    ) -> None:
        """Prepare to add up what the readers of ``model`` read.

        Raises:
            UsageError: fewer rows than one are to be sampled, or a reader does not fit its module.
        """
        if rows_per_image is not None and rows_per_image < 1:
            raise UsageError(f"rows_per_image is {rows_per_image}, but must be at least 1; None takes all rows")
        self._model = model
        self._readers = {(group, one.path): one for group, found in readers.items() for one in found}
        self._rows_per_image = rows_per_image
        self._wanted = wanted
        self._exact = {
            key: GramAccumulator(model.get_submodule(one.path), one.units, size=one.size)
            for key, one in self._readers.items()
            if rows_per_image is None
        }
        self._sampled: dict[tuple[str, str], Statistics] = {}
        self._seen: set[tuple[str, str]] = set()
        self._samples = 0
        self._seed: tuple[int | str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the readers are."""
        return tuple(dict.fromkeys(path for _, path in self._readers))

    def begin(self, samples: int, seed: tuple[int | str, ...]) -> None:
        """Begin a mini-batch of so many samples; ``seed`` is what rows are drawn by."""
        self._samples, self._seed = samples, seed

    def end(self) -> None:
        """End it."""
        if self._wanted is not None:
            self._wanted.forget()

    def read(self, path: str, number: int, inputs: Tensor) -> None:
        """Add what a reader is given."""
        for key, reader in self._readers.items():
            if reader.path != path:
                continue
            self._seen.add(key)
            if self._rows_per_image is None:
                self._exact[key].add(inputs, None if self._wanted is None else self._wanted.of(*key, number))
            else:
                self._add_rows(key, reader, number, inputs)

    def over(self, processes: Processes) -> dict[str, dict[str, Statistics]]:
        """Return the statistics by group and path, summed over the processes.

        Raises:
            UsageError: a reader never ran.
        """
        found: dict[str, dict[str, Statistics]] = {}
        device = next((p.device for p in self._model.parameters()), torch.device("cpu"))
        for (group, path), reader in self._readers.items():
            own = self._statistics((group, path), reader).state_dict()
            if processes.world_size > 1:
                flat = torch.cat([tensor.reshape(-1).cpu() for tensor in own.values()])
                flat = sum_over_processes(flat.to(device), processes)
                parts = torch.split(flat.cpu(), [tensor.numel() for tensor in own.values()])
                own = {name: part.reshape(own[name].shape) for name, part in zip(own, parts, strict=True)}
            total = Statistics.from_state({name: tensor.cpu() for name, tensor in own.items()})
            if not total.rows:
                raise UsageError(f"{path} never ran, so what it gives cannot be rebuilt; leave its group out")
            found.setdefault(group, {})[path] = total
        return found

    def _statistics(self, key: tuple[str, str], reader: Reader) -> Statistics:
        if key in self._seen:
            return self._exact[key].statistics() if self._rows_per_image is None else self._sampled[key]
        # Rows are of any filter: their sums are those of one.
        filters = self._model.get_submodule(reader.path).get_parameter("weight").shape[0] if self._exact else 1
        sums = torch.zeros(filters, reader.size, dtype=torch.float64)
        gram = torch.zeros(reader.size, reader.size, dtype=torch.float64)
        return Statistics.of_own_output(gram, sums, rows=0, positions=0)

    def _add_rows(self, key: tuple[str, str], reader: Reader, number: int, inputs: Tensor) -> None:
        generator = generator_for(*self._seed, reader.path, number)
        count = self._samples * (self._rows_per_image or 1)
        module = self._model.get_submodule(reader.path)
        found = statistics_of_rows(sample_rows(module, reader.units, inputs, count, generator, size=reader.size))
        self._sampled[key] = self._sampled[key] + found if key in self._sampled else found


def _restricted(module: nn.Module, target: Target) -> Tensor:
    """Return the weight of ``module`` with zeros for the input channels that do not count."""
    weight = module.get_parameter("weight").detach()
    if target.channels is None or all(target.channels):
        return weight
    groups = 1 if isinstance(module, nn.Linear) else int(module.groups)  # type: ignore[arg-type]
    counts = torch.as_tensor(list(target.channels), dtype=weight.dtype, device=weight.device)
    counts = counts.reshape(groups, weight.shape[1]).repeat_interleave(weight.shape[0] // groups, 0)
    return weight * counts.reshape(*counts.shape, *(1,) * (weight.dim() - 2))


def _without_bias(module: nn.Module, inputs: Tensor, weight: Tensor) -> Tensor:
    """Return what ``module`` gives with ``weight`` and no bias, at least in single precision."""
    dtype = inputs.dtype if inputs.dtype in (torch.float32, torch.float64) else torch.float32
    inputs, weight = inputs.to(dtype), weight.to(dtype)
    with torch.autocast(inputs.device.type, enabled=False):
        if isinstance(module, nn.Linear):
            return F.linear(inputs, weight)
        given: Tensor = module._conv_forward(inputs, weight, None)  # type: ignore[operator]
        return given
