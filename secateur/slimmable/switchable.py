"""Switchable batch norm: statistics, scale and shift of each width's own, for a list of widths known beforehand."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.errors import PlanError
from secateur.graph import ChannelGraph, Plan
from secateur.graph.narrowing import Narrowable
from secateur.graph.slots import StoredTensor, alike, stored_tensors, swapped
from secateur.graph.surgery import cut_copy, cut_stored
from secateur.slimmable.widths import Widths, plan_of


class SwitchableNorms(nn.Module):
    """A network at a list of widths, each with batch norms of its own; all else is shared.

    It is an ordinary module: its parameters train with the network's, its state dict holds them, and calling it runs
    the width that is :attr:`selected`. Running statistics are kept per width as in any network, so each width is
    evaluated as it stands. :meth:`cut` gives the network of one width for good.

    Source: Yu et al. 2018, "Slimmable neural networks", arXiv:1812.08928, section 3.3.

    Attributes:
        model: the widest network. Its own batch norms lie idle.
        widths: what was given.
        selected: which of ``widths`` a call runs; the first one to begin with.
    """

    def __init__(
        self, model: nn.Module, graph: ChannelGraph, widths: Sequence[Widths], *, allow_approximate: bool = False
    ) -> None:
        """Give each width batch norms of its own, which begin as slices of the model's.

        Args:
            model: the widest network; it is taken over, not copied.
            graph: of it.
            widths: one or more.
            allow_approximate: also cut groups where cutting is not the same as zeroing.

        Raises:
            PlanError: there are no widths, or some do not fit the graph.
        """
        super().__init__()
        if not widths:
            raise PlanError("there are no widths to switch between; give at least one")
        self.widths = tuple(dict(entry) for entry in widths)
        self.plans = tuple(plan_of(graph, entry, allow_approximate=allow_approximate) for entry in self.widths)
        self.selected = 0
        self.model = model
        Narrowable(model)  # refuses what cannot be narrowed
        self.private = nn.ModuleList(self._norms_of(plan) for plan in self.plans)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network of the selected width gives."""
        with self.at(self.selected):
            return self.model(*args, **kwargs)

    @contextlib.contextmanager
    def at(self, number: int) -> Iterator[nn.Module]:
        """Let the network run at width ``number`` inside the block, with that width's norms, and yield it.

        Raises:
            PlanError: there is no such width.
        """
        plan = self._plan(number)
        own = {entry.name: entry.tensor for entry in stored_tensors(self.private[number]).values()}
        statistics = {name: tensor for name, tensor in own.items() if not isinstance(tensor, nn.Parameter)}
        before = dict(statistics)

        def scale_or_shift(entry: StoredTensor) -> Tensor | None:
            return own.get(entry.name) if entry.is_parameter else None

        narrow = Narrowable(self.model).at(plan, statistics=statistics)
        with narrow as model, swapped(stored_tensors(model), scale_or_shift):
            yield model
        for name, tensor in before.items():  # norms write in place, but code of the user's may put new ones there
            if statistics[name] is not tensor:
                tensor.copy_(statistics[name])

    def cut(self, number: int) -> nn.Module:
        """Return the network of width ``number`` as an ordinary module of the model's class, with its own norms.

        Raises:
            PlanError: there is no such width.
        """
        small = cut_copy(self.model, self._plan(number))
        own = {entry.name: entry.tensor for entry in stored_tensors(self.private[number]).values()}
        for name, entry in stored_tensors(small).items():
            if name in own:
                for slot in entry.slots:
                    slot.put(alike(entry.tensor, own[name].detach().clone()))
        return small

    def _plan(self, number: int) -> Plan:
        if not 0 <= number < len(self.plans):
            raise PlanError(f"there is no width number {number}; there are {len(self.plans)}, numbered from 0")
        return self.plans[number]

    def _norms_of(self, plan: Plan) -> nn.Module:
        """Return slices of the model's norms, in modules nested as the model's own, so that names stay the same."""
        root = nn.Module()
        norms = {id(module) for module in self.model.modules() if isinstance(module, _BatchNorm)}
        for name, entry in stored_tensors(self.model).items():
            if not any(id(slot.module) in norms for slot in entry.slots):
                continue
            *path, attribute = name.split(".")
            place = root
            for part in path:
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            piece = alike(entry.tensor, cut_stored(name, entry.tensor.detach(), plan))
            if isinstance(piece, nn.Parameter):
                place.register_parameter(attribute, piece)
            else:
                place.register_buffer(attribute, piece, persistent=entry.is_persistent)
        return root
