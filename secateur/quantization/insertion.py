"""``place``: the sites that a target asks for, built into a captured graph as modules."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from torch import fx

from secateur.quantization.constants import stored
from secateur.quantization.folding import CONTRACTIONS
from secateur.quantization.mapping import Spec
from secateur.quantization.placement import Decision, FloatOperator, bounds_of, decide
from secateur.quantization.profiles import Kind, Profile
from secateur.quantization.quantizer import BiasQuantizer, Quantizer
from secateur.quantization.rewriting import operator_of

PREFIX = "quantizers."
"""Before the names of sites, where they are modules of the graph."""


@dataclass(frozen=True)
class IntegerOperator:
    """An operator that the target executes in integers, and the sites around it.

    Attributes:
        name: its name: a layer's path, or a path and the operator.
        node: its node in the graph.
        operator: such as ``aten.conv2d``.
        kind: of profiles: "contraction", "pointwise", "unary", "cat" or "clip".
        module_path: of the module that it belongs to.
        reads: sites of its operands, in order.
        writes: site of its result (behind the clip that it takes in, if there is one); "" if the target needs none.
        weight: site of its weight, or "".
        bias: site of its bias, or "".
    """

    name: str
    node: str
    operator: str
    kind: Kind
    module_path: str
    reads: tuple[str, ...] = ()
    writes: str = ""
    weight: str = ""
    bias: str = ""

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites around it but that of its bias, which follows two others."""
        return tuple(name for name in dict.fromkeys((*self.reads, self.weight, self.writes)) if name)


@dataclass(frozen=True)
class Placement:
    """What a target makes of a graph.

    Attributes:
        profile: the target.
        operators: executed in integers, by name.
        float_operators: the others, in order, each with the reason.
        activations: names of sites of activations.
        weights: sites of weights, each with the name of its parameter.
        biases: sites of biases, each with the name of its parameter.
    """

    profile: Profile
    operators: Mapping[str, IntegerOperator]
    float_operators: tuple[FloatOperator, ...]
    activations: tuple[str, ...]
    weights: Mapping[str, str]
    biases: Mapping[str, str]


def place(graph_module: fx.GraphModule, profile: Profile, *, per_tensor_weights: bool = False) -> Placement:
    """Put a module at every place where ``profile`` rounds, in place; all are off, so that nothing changes yet.

    Args:
        graph_module: captured and folded.
        profile: the target.
        per_tensor_weights: one step for a whole weight, instead of one per output channel.
    """
    builder = _Builder(graph_module, profile, decide(graph_module.graph, profile), per_tensor_weights)
    builder.build()
    graph_module.graph.lint()
    graph_module.recompile()
    return Placement(
        profile=profile,
        operators=MappingProxyType(builder.operators),
        float_operators=tuple(builder.found.floats),
        activations=tuple(dict.fromkeys(builder.site_of_owner.values())),
        weights=MappingProxyType({site: name for name, site in builder.site_of_weight.items()}),
        biases=MappingProxyType({site: name for (name, *_), site in builder.site_of_bias.items()}),
    )


class _Builder:
    def __init__(self, graph_module: fx.GraphModule, profile: Profile, found: Decision, per_tensor: bool) -> None:
        self.module, self.graph, self.profile, self.found = graph_module, graph_module.graph, profile, found
        self.per_tensor = per_tensor
        self.taken: set[str] = set()
        self.names: dict[fx.Node, str] = {}
        self.site_of_owner: dict[fx.Node, str] = {}
        self.site_of_weight: dict[str, str] = {}
        self.site_of_bias: dict[tuple[str, str, str], str] = {}
        self.calls: dict[tuple[fx.Node, str], fx.Node] = {}
        self.operators: dict[str, IntegerOperator] = {}

    def build(self) -> None:
        found, nodes = self.found, list(self.graph.nodes)
        contractions = [node for node in nodes if found.kinds[node] == "contraction"]
        # Weights first: their sites have the names of the parameters whatever else is called so.
        for node in contractions:
            self._weight(node)
        producer = {clip: node for node, clip in found.absorbed.items()}
        for node in nodes:
            if found.is_integer(node) and not (found.kinds[node] == "clip" and node in producer):
                self._name(node)
        for point in [node for node in nodes if node in found.points]:
            self._activation(point, producer)
        for cat, place_ in sorted(found.requantized, key=lambda entry: (nodes.index(entry[0]), entry[1])):
            self._requantize(cat, place_)
        self._tell_sites()
        for node in contractions:
            if self.profile.rounds_bias and len(node.args) > 2 and isinstance(node.args[2], fx.Node):
                self._bias(node)
        for node, name in self.names.items():
            if found.is_integer(node):
                self.operators[name] = self._operator(node, name)

    def _weight(self, node: fx.Node) -> None:
        source = node.args[1]
        tensor = stored(self.module, source)
        if not isinstance(source, fx.Node) or tensor is None:
            return
        name = str(source.target)
        if name not in self.site_of_weight:
            axis = None if self.per_tensor else CONTRACTIONS[operator_of(node)]
            spec = replace(self.profile.weights, axis=axis)
            self.site_of_weight[name] = self._add(name, spec, None if axis is None else tensor.shape[axis])
        node.args = (node.args[0], self._call(self.site_of_weight[name], source), *node.args[2:])

    def _name(self, node: fx.Node) -> str:
        """Return what an operator is called, the same on every call."""
        if node not in self.names:
            path = node.meta.get("module_path", "")
            own = "" if self.found.kinds[node] == "contraction" and path else operator_of(node) or node.name
            wanted = name = ".".join(part for part in (path, own) if part)
            number, known = 0, set(self.names.values())
            while name in known:
                number += 1
                name = f"{wanted}_{number}"
            self.names[node] = name
        return self.names[node]

    def _activation(self, point: fx.Node, producer: Mapping[fx.Node, fx.Node]) -> None:
        owner = self.found.owner(point)
        if owner not in self.site_of_owner:
            source = owner
            while source in producer:
                source = producer[source]
            name = f"inputs.{owner.target}" if owner.op == "placeholder" else f"{self._name(source)}.output"
            self.site_of_owner[owner] = self._add(name, self.profile.activations, None, bounds_of(self.found, owner))
        users = [user for user in point.users if user.op != "call_module"]
        call = self._call(self.site_of_owner[owner], point)
        for user in users:
            user.replace_input_with(point, call)

    def _requantize(self, cat: fx.Node, place_: int) -> None:
        """Bring one operand of a concatenation to the site that the others share."""
        parts = list(cat.args[0])  # type: ignore[arg-type]
        parts[place_] = self._call(self.site_of_owner[self.found.owner(cat)], parts[place_])
        cat.args = (parts, *cat.args[1:])

    def _bias(self, node: fx.Node) -> None:
        source, weight = node.args[2], node.args[1]
        read = node.args[0].meta.get("site") if isinstance(node.args[0], fx.Node) else None
        if not isinstance(source, fx.Node) or not isinstance(weight, fx.Node) or source.op != "get_attr" or not read:
            return
        key = (str(source.target), str(read), str(weight.meta["site"]))
        if key not in self.site_of_bias:
            name = self._free(str(source.target))
            input_site, weight_site = (self.module.get_submodule(f"{PREFIX}{entry}") for entry in key[1:])
            self.module.add_submodule(f"{PREFIX}{name}", BiasQuantizer(name, input_site, weight_site))  # type: ignore[arg-type]
            self.site_of_bias[key] = name
        node.args = (*node.args[:2], self._call(self.site_of_bias[key], source), *node.args[3:])

    def _add(
        self, name: str, spec: Spec, channels: int | None, bounds: tuple[float, float] = (-math.inf, math.inf)
    ) -> str:
        name = self._free(name)
        self.module.add_submodule(f"{PREFIX}{name}", Quantizer(name, spec, channels=channels, bounds=bounds))
        return name

    def _free(self, name: str) -> str:
        """Return and take ``name``, with a number if it is taken, or is the path to or behind one that is."""
        found, number = name, 0
        while any(f"{found}.".startswith(f"{other}.") or other.startswith(f"{found}.") for other in self.taken):
            number += 1
            found = f"{name}_{number}"
        self.taken.add(found)
        return found

    def _call(self, site: str, source: fx.Node) -> fx.Node:
        """Return the node that puts ``source`` through a site, the same one for every reader."""
        if (source, site) not in self.calls:
            with self.graph.inserting_after(source):
                call = self.graph.call_module(f"{PREFIX}{site}", (source,))
            call.meta = {**source.meta, "site": site}
            self.calls[source, site] = call
        return self.calls[source, site]

    def _tell_sites(self) -> None:
        """Write on every node whose values lie on a site's integers which one it is: ``meta["site"]``."""
        for node in self.graph.nodes:
            kind = self.found.kinds.get(node)
            if kind == "moving" and isinstance(node.args[0], fx.Node) and "site" in node.args[0].meta:
                node.meta = {**node.meta, "site": node.args[0].meta["site"]}
            elif kind == "cat" and node not in self.found.points and self.profile.closed:
                node.meta = {**node.meta, "site": self.site_of_owner[self.found.owner(node)]}

    def _operator(self, node: fx.Node, name: str) -> IntegerOperator:
        contraction = self.found.kinds[node] == "contraction"
        operands = node.args[0] if self.found.kinds[node] == "cat" else node.args[: 1 if contraction else 2]
        read = [entry.meta.get("site", "") for entry in operands if isinstance(entry, fx.Node)]  # type: ignore[union-attr]
        last = node
        while last in self.found.absorbed:
            last = self.found.absorbed[last]
        owner = self.found.owner(last)
        return IntegerOperator(
            name=name,
            node=node.name,
            operator=f"aten.{operator_of(node)}",
            kind=self.found.kinds[node],
            module_path=node.meta.get("module_path", ""),
            reads=tuple(read),
            writes=self.site_of_owner.get(owner, "") if last in self.found.points or owner is not last else "",
            weight=node.args[1].meta["site"] if contraction and isinstance(node.args[1], fx.Node) else "",
            bias=self._bias_site(node) if contraction else "",
        )

    def _bias_site(self, node: fx.Node) -> str:
        bias = node.args[2] if len(node.args) > 2 else None
        return str(bias.meta.get("site", "")) if isinstance(bias, fx.Node) else ""
