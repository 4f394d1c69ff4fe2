"""Values of criteria that need what modules read, and its gradients, of one mini-batch at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from secateur.criteria.criterion import Criterion
from secateur.criteria.gradients import called
from secateur.criteria.sites import Model, Site
from secateur.errors import UsageError
from secateur.graph.inputs import batch_size_of


@dataclass(eq=False)
class _Call:
    """One run of a module in the current mini-batch: what it read, and the gradient of that."""

    read: Tensor
    version: int
    samples: int
    gradient: Tensor | None = None


class Readings:
    """Hooks on the modules that read the units of some sites.

    A gradient is that along one module's reading alone. Where one module reads a feature map, it is the gradient of the
    map; where several read a residual stream, each sees its own part, so that no path counts twice.
    """

    def __init__(self, criterion: Criterion, model: Model, root: nn.Module, sites: Sequence[Site]) -> None:
        """Prepare to look at ``sites``.

        Args:
            criterion: whose function is called with what was read.
            model: where the modules are looked up.
            root: the model, whose own call tells how many samples a mini-batch has.
            sites: where to look.
        """
        self.without_gradients = False  # whether runs without autograd count, which in training are evaluations
        self._criterion = criterion
        self._root = root
        self._sites = list(sites)
        self._wants_gradients = criterion.needs_loss
        self._modules = {path: model.modules[path] for site in sites for path in site.modules}
        self._sites_of: dict[str, list[int]] = {path: [] for path in self._modules}
        for number, site in enumerate(sites):
            for path in site.modules:
                self._sites_of[path].append(number)
        self._handles: list[RemovableHandle] = []
        self._samples: int | None = None  # of the call of the whole model that is under way
        self._scale: Tensor | None = None  # of the loss, in mixed precision
        self._calls: dict[str, list[_Call]] = {}
        self._values: dict[int, tuple[Tensor, int]] = {}  # of this mini-batch: site → (Σ samples · value, samples)

    def watch(self) -> None:
        """Put up the hooks."""
        self._handles.append(self._root.register_forward_pre_hook(self._model_runs, with_kwargs=True))
        for path, module in self._modules.items():
            self._handles.append(module.register_forward_pre_hook(partial(self._module_reads, path), with_kwargs=True))

    def unwatch(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._forget()

    def scaled_by(self, scale: Tensor) -> None:
        """Remember what the loss of this mini-batch is multiplied by before the backward pass."""
        self._scale = scale

    def take(self) -> list[tuple[Tensor, int] | None]:
        """Return (Σ samples · value, samples) of each site for the mini-batch that has ended, and forget it.

        None stands for a site that was not read, or that no gradient reached.
        """
        for path in list(self._calls):
            self._evaluate(path)
        found = [self._values.get(number) for number in range(len(self._sites))]
        self._forget()
        return found

    def _forget(self) -> None:
        self._calls, self._values, self._samples, self._scale = {}, {}, None, None

    def _model_runs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        self._samples = batch_size_of((args, kwargs))

    def _module_reads(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        del module
        differentiable = torch.is_grad_enabled()
        if not differentiable and (self._wants_gradients or not self.without_gradients):
            return None
        data = args[0] if args else kwargs.get("input")
        if not isinstance(data, Tensor) or not data.is_floating_point():
            return None
        if not self._wants_gradients:
            self._add(path, [_Call(data.detach(), data._version, self._samples_in(path, data))])
            return None
        # Another name for the same values: its gradient is that of this reading alone. Where nothing before is
        # trained, the gradient begins here.
        alias = data.view_as(data) if data.requires_grad else data.detach().requires_grad_()
        call = _Call(data.detach(), data._version, self._samples_in(path, data))
        self._calls.setdefault(path, []).append(call)
        alias.register_hook(partial(self._gradient_arrives, path, call))  # type: ignore[no-untyped-call]
        return ((alias, *args[1:]), kwargs) if args else (args, {**kwargs, "input": alias})

    def _gradient_arrives(self, path: str, call: _Call, gradient: Tensor) -> None:
        if call.read._version != call.version:
            raise UsageError(
                f"what {path} reads is changed in place before its gradient is known, so criterion "
                f"{self._criterion.name!r} cannot see it; write that operation without in-place"
            )
        call.gradient = gradient.detach()
        if all(other.gradient is not None for other in self._calls.get(path, ())):
            self._evaluate(path)

    def _evaluate(self, path: str) -> None:
        """Turn the calls of a module that have their gradients into values."""
        calls = [call for call in self._calls.pop(path, ()) if call.gradient is not None]
        if calls:
            self._add(path, calls)

    def _add(self, path: str, calls: Sequence[_Call]) -> None:
        """Add the values of what was read in ``calls``, which are seen side by side, as positions of one map."""
        for samples in sorted({call.samples for call in calls}):
            self._add_maps(path, [call for call in calls if call.samples == samples], samples)

    def _add_maps(self, path: str, calls: Sequence[_Call], samples: int) -> None:
        module = self._modules[path]
        read = torch.cat([_as_maps(module, call.read, samples) for call in calls], 2)
        arguments: tuple[Tensor, ...] = (read,)
        if self._wants_gradients:
            gradients = [_as_maps(module, call.gradient, samples) for call in calls if call.gradient is not None]
            # The loss is a mean over samples: that of one sample has as many times the gradient.
            factor = samples if self._scale is None else samples / self._scale.to(read.dtype)
            arguments = (read, torch.cat(gradients, 2) * factor)
        for number in self._sites_of[path]:
            site = self._sites[number]
            if site.units.size != read.shape[1]:
                raise UsageError(
                    f"{path} reads {read.shape[1]} channels where the graph has {site.units.size}; trace this model "
                    "again"
                )
            value = called(self._criterion, tuple(_of_units(site, maps) for maps in arguments), site.size) * samples
            before, count = self._values.get(number, (torch.zeros_like(value), 0))
            self._values[number] = (before + value, count + samples)

    def _samples_in(self, path: str, data: Tensor) -> int:
        """Return the samples in what a module reads: those of the mini-batch, or its first dimension."""
        rows = 1 if data.dim() == _least_dimensions(self._modules[path]) - 1 else data.shape[0]
        return self._samples if self._samples and rows % self._samples == 0 else rows


def _least_dimensions(module: nn.Module) -> int:
    """Return the dimensions of an input with samples."""
    return len(module.kernel_size) + 2 if isinstance(module, _ConvNd) else 2


def _as_maps(module: nn.Module, data: Tensor, samples: int) -> Tensor:
    """Return an input, or its gradient, as (samples, channels, positions), at least in single precision."""
    if data.dtype in (torch.float16, torch.bfloat16):
        data = data.float()
    if data.dim() == _least_dimensions(module) - 1:
        data = data.unsqueeze(0)
    maps = data.flatten(2) if isinstance(module, _ConvNd) else data.reshape(len(data), -1, data.shape[-1]).mT
    if len(maps) == samples:
        return maps
    # Windows of images, or patches: several rows per sample, one after another.
    return maps.reshape(samples, -1, *maps.shape[1:]).transpose(1, 2).flatten(2)


def _of_units(site: Site, maps: Tensor) -> Tensor:
    """Return (samples, units, positions of all indices of one) from (samples, indices, positions)."""
    return maps if site.places is None else maps[:, site.places.to(maps.device)].flatten(2)
