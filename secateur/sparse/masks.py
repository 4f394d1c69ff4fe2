"""``Masks``: which weights stay, packed into bits; applied, counted, joined, cut with the model, and saved."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.graph import Plan
from secateur.graph.surgery import cut_tensor
from secateur.names import unknown_name
from secateur.sparse import mask_file
from secateur.sparse.zeroing import bits_like, zero_where_dead_

Bits = NDArray[np.uint8]


class Masks(Mapping[str, Tensor]):
    """Parameter name → booleans of the weight's shape, true where the weight stays. Cannot be changed.

    Held as one bit per weight, so that the masks of 61 million weights take 8 MB. Each look-up unpacks a new tensor on
    the CPU, which the caller owns.
    """

    def __init__(self, kept: Mapping[str, Tensor]) -> None:
        """Pack ``kept``: names of parameters → boolean tensors.

        Raises:
            UsageError: a tensor is not boolean.
        """
        packed: dict[str, Bits] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, mask in kept.items():
            if mask.dtype != torch.bool:
                raise UsageError(f"the mask of {name} is {mask.dtype}, but must be boolean: true where a weight stays")
            packed[name] = np.packbits(mask.detach().cpu().contiguous().view(-1).numpy())
            shapes[name] = tuple(mask.shape)
        self._hold(shapes, packed)

    @classmethod
    def packed(cls, shapes: Mapping[str, tuple[int, ...]], bits: Mapping[str, Bits]) -> "Masks":
        """Return the masks whose bits are given: of the flattened weight, the first in the highest bit of a byte."""
        masks = cls.__new__(cls)
        masks._hold(dict(shapes), {name: np.array(values, dtype=np.uint8) for name, values in bits.items()})
        return masks

    @classmethod
    def full(cls, model: nn.Module, names: Iterable[str]) -> "Masks":
        """Return masks under which all of the named weights stay.

        Raises:
            UsageError: ``model`` has no parameter of a name.
        """
        return cls({name: torch.ones(_parameter(model, name).shape, dtype=torch.bool) for name in names})

    @classmethod
    def of_nonzeros(cls, model: nn.Module, names: Iterable[str]) -> "Masks":
        """Return masks under which those of the named weights stay that are not zero.

        Raises:
            UsageError: ``model`` has no parameter of a name.
        """
        return cls({name: _parameter(model, name).detach() != 0 for name in names})

    def _hold(self, shapes: dict[str, tuple[int, ...]], bits: dict[str, Bits]) -> None:
        for values in bits.values():
            values.setflags(write=False)
        self._shapes, self._bits = shapes, bits

    def __getitem__(self, name: str) -> Tensor:
        """Return a new boolean tensor of the weight's shape, on the CPU."""
        flat = np.unpackbits(self._bits[name], count=self.size(name)).view(np.bool_)
        return torch.from_numpy(flat).reshape(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._shapes)

    def __len__(self) -> int:
        """Return the number of weights that have a mask."""
        return len(self._shapes)

    def __eq__(self, other: object) -> bool:
        """Compare names, shapes and bits."""
        return isinstance(other, Masks) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash the content."""
        return int(self.digest[:15], 16)

    def __str__(self) -> str:
        """Return a line per weight and one for all."""
        lines = [f"  {name}: {self._counts(name)}" for name in self]
        return "\n".join([f"Masks: {self._counts(None)}", *lines])

    def __and__(self, other: "Masks") -> "Masks":
        """Return masks under which stays what stays under both; a weight that one of them lacks stays whole there.

        Raises:
            UsageError: the two have different shapes for one name.
        """
        bits = dict(self._bits)
        for name, values in other._bits.items():
            if self._shapes.get(name, other._shapes[name]) != other._shapes[name]:
                raise UsageError(
                    f"the masks of {name} have shapes {self._shapes[name]} and {other._shapes[name]}; join masks of "
                    "one model"
                )
            bits[name] = bits[name] & values if name in bits else values
        return Masks.packed({**self._shapes, **other._shapes}, bits)

    @property
    def digest(self) -> str:
        """Hash of names, shapes and bits, the same on every machine."""
        found = hashlib.blake2b(digest_size=16)
        for name in sorted(self):
            # As JSON, so that no name or shape can run into what follows it.
            found.update(json.dumps([name, self._shapes[name]]).encode())
            found.update(self._bits[name].tobytes())
        return found.hexdigest()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight."""
        return dict(self._shapes)

    def size(self, name: str | None = None) -> int:
        """Return how many weights there are, in one parameter or in all."""
        return sum(math.prod(self._shapes[entry]) for entry in self._chosen(name))

    def kept(self, name: str | None = None) -> int:
        """Return how many weights stay, in one parameter or in all."""
        return sum(int(np.bitwise_count(self._bits[entry]).sum(dtype=np.int64)) for entry in self._chosen(name))

    def density(self, name: str | None = None) -> float:
        """Return the share of weights that stay, in one parameter or in all; 1 where there are none."""
        size = self.size(name)
        return self.kept(name) / size if size else 1.0

    def apply_(self, model: nn.Module) -> None:
        """Set the weights of ``model`` that do not stay to +0.0, in place; its gradients are left alone.

        Raises:
            UsageError: a weight is missing or has another shape; nothing was changed.
        """
        weights = self.parameters_of(model)
        with torch.no_grad():
            for name, weight in weights.items():
                zero_where_dead_(weight, bits_like(weight, self[name]))

    def parameters_of(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the parameters of ``model`` that these masks are for.

        Raises:
            UsageError: one is missing or has another shape.
        """
        found = {name: _parameter(model, name) for name in self}
        for name, parameter in found.items():
            if tuple(parameter.shape) != self._shapes[name]:
                raise UsageError(
                    f"the mask of {name} has shape {self._shapes[name]}, but the weight {tuple(parameter.shape)}; use "
                    "masks that were made for this model, cut along with it by `after`"
                )
        return found

    def after(self, plan: Plan) -> "Masks":
        """Return the masks of the model that ``plan`` leaves; those of dropped blocks go.

        Raises:
            UsageError: the plan was made for a model with other shapes.
        """
        for name, shape in self._shapes.items():
            if plan.shapes.get(name) != shape:
                raise UsageError(
                    f"the mask of {name} has shape {shape}, but in the plan's model it is {plan.shapes.get(name)}; use "
                    "a plan of the model that the masks were made for"
                )
        stay = (name for name in self if name not in plan.dropped_tensors)
        return Masks({name: cut_tensor(self[name], plan.cuts_of.get(name, ())) for name in stay})

    def save(self, path: Path | str) -> None:
        """Write the masks to one safetensors file, whole or not at all; see :mod:`secateur.sparse.mask_file`.

        Raises:
            UsageError: the file cannot be written.
        """
        mask_file.write(path, self._shapes, self._bits)

    @classmethod
    def load(cls, path: Path | str) -> "Masks":
        """Return what :meth:`save` wrote.

        Raises:
            ArtifactError: the file is missing, or is anything but that.
        """
        return cls.packed(*mask_file.read(path))

    def _chosen(self, name: str | None) -> tuple[str, ...]:
        if name is None:
            return tuple(self)
        if name not in self._shapes:
            raise UsageError(unknown_name("weight with a mask", name, self._shapes))
        return (name,)

    def _counts(self, name: str | None) -> str:
        return f"{self.kept(name):,} of {self.size(name):,} weights stay ({self.density(name):.2%})"


def _parameter(model: nn.Module, name: str) -> nn.Parameter:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if name not in parameters:
        raise UsageError(unknown_name("parameter", name, parameters))
    return parameters[name]
