"""Where operators contract channels: the places at which a channel of zeros counts for nothing.

The masker zeroes removed channels there. An operator that sums over channels has a row here beside its rule.
"""

from collections.abc import Callable
from typing import Any

Place = tuple[int | str, int]
"""(position or keyword of a tensor argument, dimension of it that is contracted)."""


def _convolution(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Place]:
    del kwargs
    return [(0, args[0].dim() - args[1].dim() + 1)]


def _product(left: int) -> Callable[[tuple[Any, ...], dict[str, Any]], list[Place]]:
    def places(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Place]:
        del kwargs
        return [(left, -1), (left + 1, -1 if args[left + 1].dim() == 1 else -2)]

    return places


def _dot(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Place]:
    del args, kwargs
    return [(0, 0), (1, 0)]


def _sum(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Place]:
    given = args[1] if len(args) > 1 else kwargs.get("dim")
    axes = range(args[0].dim()) if given is None or given == [] else given
    return [(0, axis) for axis in axes]


def _attention(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Place]:
    del kwargs
    return [(0 if args else "query", -1), (1 if len(args) > 1 else "key", -1)]


def _both_last(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Place]:
    del args, kwargs
    return [(0, -1), (1, -1)]


CONTRACTIONS: dict[str, Callable[[tuple[Any, ...], dict[str, Any]], list[Place]]] = {
    "convolution": _convolution,
    "convolution_overrideable": _convolution,
    "mm": _product(0),
    "bmm": _product(0),
    "mv": _product(0),
    "addmm": _product(1),
    "baddbmm": _product(1),
    "addmv": _product(1),
    "dot": _dot,
    "vdot": _dot,
    "sum": _sum,
    "nansum": _sum,
    "_euclidean_dist": _both_last,
    "_cdist_forward": _both_last,
    "scaled_dot_product_attention": _attention,
}
