"""Scaled-dot-product attention, seen as one operator."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from secateur.graph.flow import Flow


def scaled_dot_product_attention(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``(query (…, L, E), key (…, S, E), value (…, S, Ev))``: E is contracted, Ev is passed through.

    The default scale 1/√E reads the size of E, so E is locked unless a scale is given.
    """
    query, key, value = (args[i] if len(args) > i else kwargs[name] for i, name in enumerate(("query", "key", "value")))
    names = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    settings = dict(zip(names, args[3:], strict=False)) | kwargs
    q, k, v = (list(flow.dims(tensor)) for tensor in (query, key, value))
    if not query.dim() == key.dim() == value.dim():
        raise ValueError("attention between tensors of different rank")
    contracted = flow.unify(q[-1], k[-1], "multiplied")
    if settings.get("scale") is None:
        flow.lock(contracted, "the attention's default scale reads this size")
    flow.lock(q[-2], "used as a sequence")
    for atoms in (k[-2], v[-2]):
        flow.lock(atoms, "used as a sequence")
    mask = settings.get("attn_mask")
    if mask is not None:
        for atoms in flow.dims(mask):
            flow.lock(atoms, "used as an attention mask")
    lead = []
    for position in range(len(q) - 2):
        merged = q[position]
        for side, tensor in ((k, key), (v, value)):
            heads, shared, here = query.shape[position], tensor.shape[position], side[position]
            if heads != shared and settings.get("enable_gqa") and position == len(q) - 3 and here is not None:
                # Query head i reads key head i // (heads / shared): whole blocks of query heads go with it.
                merged = flow.unify(merged, np.repeat(here, heads // shared), "attended")
            elif heads != shared:
                flow.lock(side[position], "shared by several query heads")
                flow.lock(merged, "shares key heads")
            else:
                merged = flow.unify(merged, side[position], "attended")
        lead.append(merged)
    flow.give(result, (*lead, None, v[-1]))
    batch = [(query.shape[i], lead[i]) for i in range(len(lead))] if any(a is not None for a in lead) else []
    common = query.shape[-2] * key.shape[-2] * (1 if batch else math.prod(query.shape[:-2]))
    flow.spend("attention", [(common, None), *batch, (query.shape[-1], contracted)])
    flow.spend("attention", [(common, None), *batch, (value.shape[-1], v[-1])])
