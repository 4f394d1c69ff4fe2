"""A channel graph as plain lists and dictionaries, and back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.errors import PlanError
from secateur.graph.blocks import Block
from secateur.graph.costs import Costs
from secateur.graph.selections import Selection
from secateur.graph.ties import Tie
from secateur.graph.units import Group, ParameterDim, SizeAttribute, TensorSpec

if TYPE_CHECKING:
    from secateur.graph.channel_graph import ChannelGraph


def content_of(graph: "ChannelGraph") -> dict[str, Any]:
    """Return all of a graph but its ties as plain lists and dictionaries."""
    return {
        "model_class": graph.model_class,
        "tensors": [
            {
                "name": spec.name,
                "shape": list(spec.shape),
                "element_bytes": spec.element_bytes,
                "is_parameter": spec.is_parameter,
                "is_persistent": spec.is_persistent,
                "aliases": list(spec.aliases),
            }
            for spec in graph.tensors
        ],
        "groups": [
            {
                "name": g.name,
                "size": g.size,
                "offset": g.offset,
                "locked": g.locked,
                "approximate": g.approximate,
                "summed": g.summed,
            }
            for g in graph.groups
        ],
        "dims": [
            {"parameter": d.parameter, "dim": d.dim, "role": d.role, "units": d.units.tolist()} for d in graph.dims
        ],
        "attributes": [
            {"module": a.module, "attribute": a.attribute, "units": a.units.tolist()} for a in graph.attributes
        ],
        "regrouped": sorted(graph.regrouped),
        "costs": graph.costs.to_json(),
        "unreached": list(graph.unreached),
        "unknown_ops": dict(graph.unknown_ops),
        "train_mode": graph.train_mode,
        **({"outputs": list(graph.outputs)} if graph.outputs else {}),
        "blocks": [block.to_json() for block in graph.blocks],
        **({"selections": [entry.to_json() for entry in graph.selections]} if graph.selections else {}),
    }


def fields_from(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the graph that ``data`` was written from.

    Raises:
        PlanError: a key is missing.
    """
    try:
        return {
            "model_class": data["model_class"],
            "tensors": tuple(
                TensorSpec(**{**t, "shape": tuple(t["shape"]), "aliases": tuple(t["aliases"])}) for t in data["tensors"]
            ),
            "groups": tuple(Group(**g) for g in data["groups"]),
            "dims": tuple(ParameterDim(**{**d, "units": np.asarray(d["units"], np.int64)}) for d in data["dims"]),
            "attributes": tuple(
                SizeAttribute(**{**a, "units": np.asarray(a["units"], np.int64)}) for a in data["attributes"]
            ),
            "regrouped": frozenset(data["regrouped"]),
            "costs": Costs.from_json(data["costs"]),
            "unreached": tuple(data["unreached"]),
            "unknown_ops": dict(data["unknown_ops"]),
            "train_mode": data["train_mode"],
            "outputs": tuple(data.get("outputs", ())),
            "blocks": tuple(Block.from_json(block) for block in data.get("blocks", ())),
            "selections": tuple(Selection.from_json(entry) for entry in data.get("selections", ())),
            "ties": tuple(Tie.from_json(tie) for tie in data.get("ties", ())),
        }
    except (KeyError, TypeError) as error:
        raise PlanError(f"this is not a channel graph as Secateur writes it: {error}") from error
