"""Values of criteria that need parameters and their gradients, of one mini-batch at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.criteria.criterion import Criterion
from secateur.criteria.norms import doubled
from secateur.criteria.sites import Model, Site
from secateur.criteria.weights import slices_of
from secateur.errors import UsageError


class GradientReader:
    """Reads the gradients that a backward pass has left in the parameters of some sites.

    Scales have one value per channel, and there are many of them. They are read together, so that a training step
    costs some dozen small operations more and not some per layer.
    """

    def __init__(self, criterion: Criterion, model: Model, sites: Sequence[Site]) -> None:
        """Prepare to read at ``sites``."""
        self._criterion = criterion
        self._model = model
        self._sites = list(sites)
        together = [site for site in sites if all(model.parameters[name].dim() == 1 for name, _ in site.parameters)]
        self._together = _Scales(model, together) if together else None
        read = {id(site): number for number, site in enumerate(together)}
        self._order = [read.get(id(site)) for site in sites]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters whose gradients are read, by name."""
        return {name: self._model.parameters[name] for site in self._sites for name, _ in site.parameters}

    def reached(self) -> list[bool]:
        """Say of each site whether the mini-batch has left it a gradient: not where a layer has not run."""
        return [
            any(self._model.parameters[name].grad is not None for name, _ in site.parameters) for site in self._sites
        ]

    def read(self) -> Tensor:
        """Return the values of all sites one after another, shape (units of all sites,), float64.

        Raises:
            UsageError: a parameter is frozen, or none has a gradient.
        """
        self._refuse_frozen()
        scales = [] if self._together is None else self._together.values(self._criterion)
        values = [
            self._of_weights(site) if number is None else scales[number]
            for site, number in zip(self._sites, self._order, strict=True)
        ]
        return torch.cat(values)

    def _of_weights(self, site: Site) -> Tensor:
        values, gradients = [], []
        for name, dim in site.parameters:
            parameter = self._model.parameters[name]
            values.append(_by_unit(slices_of(parameter, dim), site.places))
            gradients.append(_by_unit(slices_of(_gradient(parameter), dim), site.places))
        return called(self._criterion, (torch.cat(values, 1), torch.cat(gradients, 1)), site.size)

    def _refuse_frozen(self) -> None:
        found = False
        for name, parameter in self.parameters.items():
            if parameter.grad is None and not parameter.requires_grad:
                raise UsageError(
                    f"criterion {self._criterion.name!r} needs the gradient of {name}, which is frozen; let it be "
                    "trained, or put gates behind the layer (secateur.gates.decorate)"
                )
            found = found or parameter.grad is not None
        if not found:
            raise UsageError(
                f"criterion {self._criterion.name!r} finds no gradient in the model it was made for; call it after a "
                "backward pass through this model"
            )


class _Scales:
    """Vectors of scales, and of shifts beside them, read as one."""

    def __init__(self, model: Model, sites: Sequence[Site]) -> None:
        self._columns = max(len(site.parameters) for site in sites)
        names = list(dict.fromkeys(site.parameters for site in sites))
        self._pairs = [tuple(model.parameters[name] for name, _ in pair) for pair in names]
        starts, position = {}, 0
        for pair, tensors in zip(names, self._pairs, strict=True):
            starts[pair] = position
            position += tensors[0].numel()
        self._places = []  # (rows of each unit of all sites that own equally many, which sites these are)
        for count in sorted({_indices_of_one(site) for site in sites}):
            mine = [number for number, site in enumerate(sites) if _indices_of_one(site) == count]
            rows = torch.cat([_rows(sites[number]) + starts[sites[number].parameters] for number in mine])
            # Reading every scale once, in order, needs no look-up.
            whole = count == 1 and torch.equal(rows.flatten(), torch.arange(position))
            self._places.append((None if whole else rows, mine, [sites[number].size for number in mine]))
        self._count = len(sites)

    def values(self, criterion: Criterion) -> list[Tensor]:
        """Return the values of each site."""
        scales = self._side_by_side([[tensor.detach() for tensor in pair] for pair in self._pairs])
        gradients = self._side_by_side([[_gradient(tensor) for tensor in pair] for pair in self._pairs])
        found: list[Tensor] = [scales] * self._count
        for number, (rows, mine, sizes) in enumerate(self._places):
            if rows is not None and rows.device != scales.device:
                rows = rows.to(scales.device)
                self._places[number] = (rows, mine, sizes)
            values = called(criterion, (_by_unit(scales, rows), _by_unit(gradients, rows)), sum(sizes))
            for place, part in zip(mine, torch.split(values, sizes), strict=True):
                found[place] = part
        return found

    def _side_by_side(self, pairs: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return (scales of all pairs, columns) in double precision, zeros where a scale has no shift."""
        columns = []
        for column in range(self._columns):
            parts = [pair[column] if column < len(pair) else torch.zeros_like(pair[0]) for pair in pairs]
            columns.append(torch.cat(parts))
        return doubled(torch.stack(columns, 1))


def called(criterion: Criterion, arguments: tuple[Tensor, ...], units: int) -> Tensor:
    """Return a criterion's values in double precision.

    Raises:
        UsageError: they are not one per unit.
    """
    assert criterion.slices is not None
    values = criterion.slices(*arguments)
    if values.shape != (units,):
        raise UsageError(f"criterion {criterion.name!r} gives shape {tuple(values.shape)} for {units} channels")
    return doubled(values.detach())


def _gradient(parameter: Tensor) -> Tensor:
    """Return the gradient, zeros where this mini-batch did not reach the parameter."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()


def _by_unit(rows: Tensor, places: Tensor | None) -> Tensor:
    """Return the rows of each unit's indices side by side, shape (units, elements of all of them)."""
    return rows if places is None else rows[places.to(rows.device)].flatten(1)


def _rows(site: Site) -> Tensor:
    return torch.arange(site.size).unsqueeze(1) if site.places is None else site.places


def _indices_of_one(site: Site) -> int:
    return 1 if site.places is None else site.places.shape[1]
