"""What a model costs as a function of how many units each group keeps: arithmetic, no forward pass.

A dimension's size is a linear form c + Σ aᵢ·nᵢ of the kept sizes nᵢ of the groups that it carries. The multiply-adds
of an operator, the elements of a tensor and the bytes of an activation are each a constant times a product of such
forms. Where input and output of an operator are one unit (depthwise convolution) only one form is left, so its cost
is linear as it should be.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.graph.labels import IntArray

GONE = int(np.iinfo(np.int64).min)
"""In the place of a number: what had it goes."""


def _none() -> IntArray:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Forms:
    """Linear forms of the kept sizes: constants, and coefficients as (form, group, coefficient) triples.

    In the place of a group may stand the k-th selection of channels, as -1 - k: its entries are fewer than the channels
    that it selects from, whose number is a form too.
    """

    constants: IntArray  # (F,)
    form: IntArray  # (E,)
    group: IntArray  # (E,)
    coefficient: IntArray  # (E,)
    selected: IntArray = field(default_factory=_none)  # (K,) entries of each selection
    selected_from: IntArray = field(default_factory=_none)  # (K,) form of what it selects from

    def sizes(self, kept: IntArray, selected: IntArray | None = None) -> IntArray:
        """Return the value of every form, shape (F,).

        Args:
            kept: units per group, shape (G,).
            selected: entries that each selection keeps, shape (K,). None takes all that may be left when so many units
                are: the true number for dense selections, and at least that for others.
        """
        if not self.selected.size:
            return self.constants + self._sums(kept)
        none = np.zeros_like(self.selected)
        sizes = self.constants + self._sums(np.append(kept, none))
        if selected is None:
            selected = np.minimum(self.selected, sizes[self.selected_from])
        # Counted from the end, as -1 - k does.
        return sizes + self._sums(np.append(np.zeros_like(kept), selected[::-1]))

    def _sums(self, kept: IntArray) -> IntArray:
        values = self.coefficient * kept[self.group]
        return np.bincount(self.form, weights=values, minlength=self.constants.size).astype(np.int64)

    def renumbered(self, groups: IntArray, selections: IntArray) -> "Forms":
        """Return the forms with other numbers for groups and selections, without what gets :data:`GONE`.

        Args:
            groups: new number of each group, shape (G,); a group may become a selection, as -1 - k.
            selections: new number k of each selection, shape (K,).
        """
        place = np.append(groups, np.where(selections == GONE, GONE, -1 - selections)[::-1])
        new = place[self.group]
        stays, order = new != GONE, np.argsort(selections[selections != GONE], kind="stable")
        left = selections != GONE
        return Forms(
            self.constants,
            self.form[stays],
            new[stays],
            self.coefficient[stays],
            self.selected[left][order],
            self.selected_from[left][order],
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain lists."""
        chosen = ("selected", "selected_from") if self.selected.size else ()
        return {
            **{key: getattr(self, key).tolist() for key in chosen},
            "constants": self.constants.tolist(),
            "form": self.form.tolist(),
            "group": self.group.tolist(),
            "coefficient": self.coefficient.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Forms":
        """Read what :meth:`to_json` wrote."""
        keys = ("constants", "form", "group", "coefficient", "selected", "selected_from")
        return cls(*(np.asarray(data.get(key, []), dtype=np.int64) for key in keys))


@dataclass(frozen=True)
class Terms:
    """Products: constant × Π forms / divisor, a whole number. Rows of ``factors`` hold form numbers, padded with -1."""

    constants: IntArray  # (T,)
    factors: IntArray  # (T, K)
    divisors: IntArray  # (T,)

    def values(self, sizes: IntArray) -> IntArray:
        """Return the value of every term, shape (T,), for the sizes of the forms."""
        padded = np.append(sizes, 1)
        product: IntArray = self.constants * padded[self.factors].prod(axis=1) // self.divisors
        return product

    @classmethod
    def of(cls, rows: list[tuple[int, list[int]]], divisor: int = 1) -> "Terms":
        """Build terms from (constant, form numbers) rows, all shared out over ``divisor`` samples."""
        width = max((len(forms) for _, forms in rows), default=0)
        factors = np.full((len(rows), max(width, 1)), -1, dtype=np.int64)
        for number, (_, forms) in enumerate(rows):
            factors[number, : len(forms)] = forms
        constants = np.asarray([constant for constant, _ in rows], dtype=np.int64)
        # Where samples are merged with channels it is the forms that hold the number of samples.
        common = np.gcd(constants, divisor)
        return cls(constants // common, factors, divisor // common)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists."""
        return {
            "constants": self.constants.tolist(),
            "factors": self.factors.tolist(),
            "divisors": self.divisors.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Terms":
        """Read what :meth:`to_json` wrote."""
        constants = np.asarray(data["constants"], dtype=np.int64)
        factors = np.asarray(data["factors"], dtype=np.int64).reshape(constants.size, -1)
        return cls(constants, factors, np.asarray(data["divisors"], dtype=np.int64))


@dataclass(frozen=True)
class Costs:
    """All cost terms of a traced model.

    Attributes:
        forms: sizes of dimensions.
        compute: multiply-adds per sample, one term per convolution or matrix product.
        compute_names: (module path, operator) of each compute term.
        tensors: elements of each parameter and buffer, in the order of ``ChannelGraph.tensors``.
        storages: bytes per sample of each activation storage.
        born: number of the operator that makes each storage, shape (S,).
        dies: number of the last operator that reads it, shape (S,).
    """

    forms: Forms
    compute: Terms
    compute_names: tuple[tuple[str, str], ...]
    tensors: Terms
    storages: Terms
    born: NDArray[np.int64]
    dies: NDArray[np.int64]

    def macs(self, kept: IntArray, selected: IntArray | None = None) -> int:
        """Return the multiply-adds per sample of all convolutions and matrix products.

        Args:
            kept: units per group, shape (G,).
            selected: entries that each selection of channels keeps, shape (K,); None as in :meth:`Forms.sizes`.
        """
        return int(self.compute.values(self.forms.sizes(kept, selected)).sum())

    def macs_by_operator(self, kept: IntArray) -> IntArray:
        """Return the multiply-adds per sample of each compute operator, in the order of ``compute_names``."""
        return self.compute.values(self.forms.sizes(kept))

    def macs_by_group(self, kept: IntArray) -> IntArray:
        """Return the multiply-adds per sample of the operators that each group takes part in, shape (groups,).

        An operator counts for every group that one of its sizes depends on.
        """
        macs: IntArray = self.macs_by_operator(kept) @ self._depends(kept.size)
        return macs

    def macs_of_any(self, kept: IntArray, groups: Sequence[int]) -> int:
        """Return the multiply-adds per sample of the operators that any of ``groups`` takes part in."""
        return int(self.macs_by_operator(kept)[self._depends(kept.size)[:, list(groups)].any(axis=1)].sum())

    def _depends(self, groups: int) -> NDArray[np.bool_]:
        """Return whether each compute operator depends on the size of each group, shape (T, groups)."""
        forms = np.zeros((self.forms.constants.size + 1, groups), dtype=bool)  # the last row is for padding
        of_groups = self.forms.group >= 0
        forms[self.forms.form[of_groups], self.forms.group[of_groups]] = True
        for form, selection in zip(self.forms.form[~of_groups], -1 - self.forms.group[~of_groups], strict=True):
            forms[form] |= forms[self.forms.selected_from[selection]]
        depends: NDArray[np.bool_] = np.logical_or.reduce(forms[self.compute.factors], axis=1)
        return depends

    def elements(self, kept: IntArray, selected: IntArray | None = None) -> IntArray:
        """Return the number of elements of each parameter and buffer; arguments as for :meth:`macs`."""
        return self.tensors.values(self.forms.sizes(kept, selected))

    def activation_bytes(self, kept: IntArray, selected: IntArray | None = None) -> int:
        """Return the peak over operators of bytes alive per sample.

        A storage lives from its producer to its last reader, both included; views and in-place results are free. A
        selection of channels counts as a copy, also while it selects all of them. Arguments as for :meth:`macs`.
        """
        if not self.born.size:
            return 0
        size = self.storages.values(self.forms.sizes(kept, selected))
        change = np.zeros(int(self.dies.max()) + 2, dtype=np.int64)
        np.add.at(change, self.born, size)
        np.subtract.at(change, self.dies + 1, size)
        return int(change.cumsum().max())

    def with_selections(self, groups: IntArray, selected: IntArray, selected_from: IntArray) -> "Costs":
        """Return the costs with some groups seen as the entries of selections.

        Args:
            groups: new number of each group, -1 - k for one that is the k-th selection, shape (G,).
            selected: entries of each selection, shape (K,).
            selected_from: number of the form of what each selects from, shape (K,).
        """
        forms = self.forms.renumbered(groups, _none())
        return replace(self, forms=replace(forms, selected=selected, selected_from=selected_from))

    def reselected(self, selected: IntArray) -> "Costs":
        """Return the costs with other numbers of entries in the selections, shape (K,)."""
        return replace(self, forms=replace(self.forms, selected=selected)) if selected.size else self

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dictionaries."""
        return {
            "forms": self.forms.to_json(),
            "compute": self.compute.to_json(),
            "compute_names": [list(pair) for pair in self.compute_names],
            "tensors": self.tensors.to_json(),
            "storages": self.storages.to_json(),
            "born": self.born.tolist(),
            "dies": self.dies.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Costs":
        """Read what :meth:`to_json` wrote."""
        return cls(
            forms=Forms.from_json(data["forms"]),
            compute=Terms.from_json(data["compute"]),
            compute_names=tuple((path, name) for path, name in data["compute_names"]),
            tensors=Terms.from_json(data["tensors"]),
            storages=Terms.from_json(data["storages"]),
            born=np.asarray(data["born"], dtype=np.int64),
            dies=np.asarray(data["dies"], dtype=np.int64),
        )
