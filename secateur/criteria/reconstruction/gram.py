"""The Gram matrix of contributions over all positions of all images, in memory that does not grow with them."""

import math
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from secateur.criteria.reconstruction.contributions import Contributions
from secateur.criteria.reconstruction.offsets import Offsets
from secateur.criteria.reconstruction.patches import Patches
from secateur.criteria.reconstruction.read_layer import ReadLayer, Units
from secateur.criteria.reconstruction.statistics import Statistics
from secateur.errors import UsageError
from secateur.names import unknown_name

RouteName = Literal["auto", "offsets", "patches", "contributions"]

STATE_ELEMENTS = 2**27
"""Numbers that a route may keep between batches before one that keeps fewer is taken: 1 GiB in double precision."""


class Route(Protocol):
    """A way to the sums over all positions; all ways agree."""

    def add(self, images: Tensor, target: Tensor | None) -> None:
        """Add all positions of ``images``, (N, C, *spatial); ``target``, (N, O, *positions), always or never."""
        ...

    def gram(self) -> Tensor:
        """Return Σ z_u·z_v, shape (U, U)."""
        ...

    def sums(self) -> Tensor:
        """Return Σ z_u of each filter, shape (O, U)."""
        ...

    def cross(self) -> Tensor:
        """Return Σ z_u·y, shape (U,), where targets were given."""
        ...


class GramAccumulator:
    """Statistics of what the units contribute to one reader, over every position of every image that is added.

    The ICCV paper draws ten positions per image (Luo et al. 2017, §3.2.1) and keeps a matrix of as many rows; the sums
    that its selection needs can be had over all positions, exactly, without any row being kept. Three routes lead
    there, and the cheapest by arithmetic that needs at most 1 GiB is taken (of those that need more, the smallest):

    * ``offsets``: stride 1, one group, padding with zeros. Two taps of a kernel see the same two images at every
      position, shifted by the difference of their places, so 13 products of the image with itself, shifted, serve all
      81 pairs of taps of a 3 × 3 kernel, and narrow bands along the border the rest.
    * ``patches``: every layer. Rows are materialised, block by block.
    * ``contributions``: every layer. z itself is materialised, block by block of filters; for linear layers that read
      many columns at few positions.

    Products of one block are in the precision of the inputs, at least single; they are added in double precision. With
    single precision G is right to some 1e-7 of the products of taps that it sums; give inputs in double precision
    where that is not enough.
    """

    def __init__(self, module: nn.Module, units: Units, *, size: int | None = None, route: RouteName = "auto") -> None:
        """Prepare to look at ``module``.

        Args:
            module: the reader, a convolution or linear layer. Leave its weights as they are until the statistics are
                taken.
            units: unit of each input channel (each column of a linear layer), -1 for those that are none's; several
                may share one, as after a flatten.
            size: number of units; the highest and one if None.
            route: as above; all give the same sums.

        Raises:
            UsageError: contributions are not defined for such a module, ``units`` does not fit it, or the route does
                not exist or lead there.
        """
        if route not in get_args(RouteName):
            raise UsageError(unknown_name("route", route, get_args(RouteName)))
        self._layer = ReadLayer.of(module, units, size)
        self._named: RouteName = route
        if route == "offsets" and not Offsets.leads_to(self._layer):
            raise UsageError(
                "route 'offsets' needs stride 1, one group and padding with zeros; take 'patches' or 'auto' here"
            )
        self._route: Route | None = None
        self._positions = 0
        self._targets: tuple[Tensor, Tensor] | None = None  # Σ y² and Σ y of each filter

    @property
    def route(self) -> str:
        """The route that is taken: known once something was added, the one that was asked for before."""
        return self._named if self._route is None else _NAMES[type(self._route)]

    def add(self, inputs: Tensor, target: Tensor | None = None) -> None:
        """Add all positions of a batch.

        Args:
            inputs: what the module reads, not padded, shape (N, C, *spatial), or (..., columns) of a linear layer.
            target: y where it is not the units' own sum, shaped like the module's output, without bias.

        Raises:
            UsageError: a shape does not fit, or a target is given with some batches only.
        """
        # Sums that are made in inference mode could not be added to outside of it.
        with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            images = self._layer.images(inputs)
            if images.device.type == "mps":
                images = images.cpu()  # Apple's devices have no double precision to sum in
            if images.shape[0] == 0:
                return
            outputs = self._layer.output_size(images.shape[2:])
            wanted = None if target is None else self._layer.targets(target, images)
            if self._route is not None and (wanted is None) != (self._targets is None):
                raise UsageError("a target was given with some batches and not with others; give it always or never")
            if self._route is None:
                self._route = self._chosen(tuple(images.shape[2:]), images.device)
            if wanted is not None:
                self._add_targets(wanted)
            self._route.add(images, wanted)
            self._positions += images.shape[0] * math.prod(outputs)

    @torch.no_grad()
    def statistics(self) -> Statistics:
        """Return the sums over all that was added so far, on the inputs' device.

        Raises:
            UsageError: nothing was added.
        """
        if self._route is None:
            raise UsageError("no images were added, so there are no statistics; add at least one batch")
        gram, sums = self._route.gram(), self._route.sums()
        gram = (gram + gram.T) / 2
        rows = self._positions * self._layer.filters
        if self._targets is None:
            return Statistics.of_own_output(gram, sums, rows=rows, positions=self._positions)
        return Statistics(
            gram=gram,
            cross=self._route.cross(),
            energy=float(self._targets[0]),
            rows=rows,
            sums=sums,
            target_sums=self._targets[1].clone(),
            positions=self._positions,
        )

    def _chosen(self, spatial: tuple[int, ...], device: torch.device) -> Route:
        layer = self._layer
        if self._named != "auto":
            return _ROUTES[self._named](layer, device)
        positions = math.prod(layer.output_size(spatial))
        costs: dict[type[Patches | Contributions | Offsets], tuple[int, int]] = {
            Patches: (positions * Patches.macs_per_position(layer), Patches.state_elements(layer)),
        }
        if layer.groups == 1:  # `contributions` takes one group after the other
            costs[Contributions] = (
                positions * Contributions.macs_per_position(layer),
                Contributions.state_elements(layer),
            )
        if Offsets.leads_to(layer):
            costs[Offsets] = (Offsets.macs_per_image(layer, spatial), Offsets.state_elements(layer))
        within = [route for route, (_, elements) in costs.items() if elements <= STATE_ELEMENTS]
        if not within:
            return min(costs, key=lambda route: costs[route][1])(layer, device)
        return min(within, key=lambda route: costs[route])(layer, device)

    def _add_targets(self, target: Tensor) -> None:
        dims = [0, *range(2, target.ndim)]
        sums = target.sum(dims, dtype=torch.float64)
        energy = target.square().sum(dtype=torch.float64)
        if self._targets is None:
            self._targets = (torch.zeros_like(energy), torch.zeros_like(sums))
        self._targets[0].add_(energy)
        self._targets[1].add_(sums)


_ROUTES: dict[str, type[Patches | Contributions | Offsets]] = {
    "offsets": Offsets,
    "patches": Patches,
    "contributions": Contributions,
}
_NAMES: dict[type[Route], str] = {kind: name for name, kind in _ROUTES.items()}
