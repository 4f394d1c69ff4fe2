"""``place``: where a target rounds to integers, which operators run in them, and why the others do not.

Decided first (:func:`decide`, which changes nothing), then built into the graph (:mod:`.insertion`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx

from secateur.quantization.profiles import Kind, Profile, clip_bounds, kind_of, value_bounds
from secateur.quantization.rewriting import operator_of

INTEGER: tuple[Kind, ...] = ("contraction", "pointwise", "unary", "cat", "clip")


@dataclass(frozen=True)
class FloatOperator:
    """An operator that the target executes in float.

    Attributes:
        node: its name in the graph.
        operator: such as ``aten.layer_norm``.
        module_path: of the module that it belongs to.
        source: "file.py:line" in the model's own code, or "".
        reason: why, as the end of a sentence.
    """

    node: str
    operator: str
    module_path: str
    source: str
    reason: str


@dataclass
class Decision:
    """Where sites go, by node; nothing is built yet.

    Attributes:
        kinds: how each node is executed.
        points: nodes behind which a site is.
        absorbed: node → the clip behind it that it takes in, because that one vanishes in the rounding.
        group: concatenation or point → the concatenation whose site it shares.
        requantized: (concatenation, place of the operand) pairs whose operand is brought to the shared site first.
        clips: concatenation → what all of its operands are clipped to, None if they are not or differ.
        floats: operators in float.
    """

    kinds: dict[fx.Node, Kind] = field(default_factory=dict)
    points: dict[fx.Node, None] = field(default_factory=dict)
    absorbed: dict[fx.Node, fx.Node] = field(default_factory=dict)
    group: dict[fx.Node, fx.Node] = field(default_factory=dict)
    requantized: set[tuple[fx.Node, int]] = field(default_factory=set)
    clips: dict[fx.Node, tuple[float, float] | None] = field(default_factory=dict)
    floats: list[FloatOperator] = field(default_factory=list)

    def root(self, node: fx.Node) -> fx.Node:
        """Return the node whose values ``node`` has, chosen or moved."""
        while self.kinds.get(node) == "moving" and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        return node

    def owner(self, point: fx.Node) -> fx.Node:
        """Return the node that names the site behind ``point``: the first one of those that share it."""
        while point in self.group and self.group[point] is not point:
            point = self.group[point]
        return point

    def is_integer(self, node: fx.Node) -> bool:
        """Return whether an operator is executed in integers."""
        return self.kinds[node] in INTEGER

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """Return the computed tensors that an operator in integers reads, without weight and bias."""
        if self.kinds[node] == "cat":
            return list(node.args[0])  # type: ignore[arg-type]
        if self.kinds[node] == "pointwise":
            return [entry for entry in node.args[:2] if isinstance(entry, fx.Node)]
        return [node.args[0]] if isinstance(node.args[0], fx.Node) else []

    def readers(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield the operators that read a value, also after it was moved."""
        for user in node.users:
            if self.kinds.get(user) == "moving":
                yield from self.readers(user)
            else:
                yield user


def decide(graph: fx.Graph, profile: Profile) -> Decision:
    """Return where ``profile`` rounds in ``graph``; the graph stays as it is."""
    found = Decision()
    reasons: dict[fx.Node, str] = {}
    for node in graph.nodes:
        found.kinds[node], reasons[node] = kind_of(node, profile)
    _leave_float_islands(found, reasons)
    for node in graph.nodes:
        if found.kinds[node] == "clip" and isinstance(node.args[0], fx.Node) and _absorbs(found, node.args[0]):
            found.absorbed[node.args[0]] = node
    if profile.closed:
        _close(found)
        _share(found)
    else:
        _demand(found, reasons)
    for node in graph.nodes:
        if found.kinds[node] == "moving":
            if not _real(node) or found.root(node) in found.points or found.kinds[found.root(node)] == "cat":
                continue
            reasons[node] = "what it moves is not rounded"
        elif found.kinds[node] != "float" or (node in found.points and clip_bounds(node)):
            continue  # a clip vanishes in the rounding behind it
        found.floats.append(_float_operator(node, reasons[node]))
    return found


def _real(node: fx.Node) -> bool:
    dtype = node.meta.get("dtype")
    return dtype is not None and bool(dtype.is_floating_point)


def _leave_float_islands(found: Decision, reasons: dict[fx.Node, str]) -> None:
    """Leave operators in float that no operator in integers feeds: rounding their inputs would only cost."""
    while True:
        islands = [
            node
            for node, kind in found.kinds.items()
            if kind in INTEGER
            and kind != "contraction"
            and not any(found.is_integer(found.root(entry)) for entry in found.operands(node))
        ]
        constant = [
            node
            for node, kind in found.kinds.items()
            if kind in INTEGER and any(found.root(entry).op == "get_attr" for entry in found.operands(node))
        ]
        if not islands and not constant:
            return
        for node in islands:
            reasons[node] = "what it reads is computed in float"
        for node in constant:
            reasons[node] = "one operand is a stored tensor"
        for node in (*islands, *constant):
            found.kinds[node] = "float"


def _absorbs(found: Decision, node: fx.Node) -> bool:
    """Return whether an operator takes in the clip that alone reads it: the rounding behind both clips as well."""
    return found.is_integer(node) and found.kinds[node] != "cat" and len(node.users) == 1


def _close(found: Decision) -> None:
    """Put sites on everything that operators in integers read, and on everything that they give."""
    for node, kind in found.kinds.items():
        if kind in INTEGER:
            for entry in found.operands(node):
                if found.root(entry) not in found.absorbed:
                    found.points[found.root(entry)] = None
            if node not in found.absorbed:
                found.points[node] = None


def _demand(found: Decision, reasons: dict[fx.Node, str]) -> None:
    """Put sites on what operators in integers read only; a sum takes in the convolution before one of its operands."""
    for node, kind in found.kinds.items():
        if kind in ("contraction", "unary"):
            found.points[found.root(found.operands(node)[0])] = None
        elif kind == "pointwise":
            first, second = found.operands(node)
            fused = [
                entry for entry in (first, second) if found.kinds[entry] == "contraction" and len(entry.users) == 1
            ]
            for entry in (first, second):
                if not fused or entry is not fused[0]:
                    found.points[found.root(entry)] = None
    taken = set(found.absorbed.values())
    for node, kind in list(found.kinds.items()):
        if kind == "clip" and node not in taken:
            found.kinds[node], reasons[node] = "float", "no operator before it to be fused with"


def _share(found: Decision) -> None:
    """Let operands of a concatenation share its site, so that joining them is a copy.

    An operand that others read too keeps a site of its own (theirs would lose precision), unless it is a
    concatenation, whose values would be rounded anew at each of a chain of them. One behind a ReLU shares only with
    others behind a ReLU: the common zero point would not be 0, and the ReLU would not vanish.
    """
    kept, order = found.clips, {node: place for place, node in enumerate(found.kinds)}

    def clipping(node: fx.Node) -> tuple[float, float] | None:
        return kept[node] if node in kept else clip_bounds(node)

    for node in [entry for entry, kind in found.kinds.items() if kind == "cat"]:
        roots = [found.root(entry) for entry in found.operands(node)]
        clips = {clipping(root) for root in roots}
        kept[node] = clips.pop() if len(clips) == 1 else None
        sharing = [root for root in roots if clipping(root) == kept[node] and _may_share(found, root)]
        found.group[node] = node
        for root in sharing:
            # What runs first names the site.
            first, second = sorted((found.owner(root), found.owner(node)), key=order.__getitem__)
            found.group.setdefault(first, first)
            if first is not second:
                found.group[second] = first
    for node in kept:
        roots = [found.root(entry) for entry in found.operands(node)]
        shared = [found.owner(root) is found.owner(node) for root in roots]
        if any(shared):
            found.points.pop(node, None)
            found.requantized.update((node, place) for place, same in enumerate(shared) if not same)


def _may_share(found: Decision, root: fx.Node) -> bool:
    return found.kinds[root] == "cat" or all(found.kinds.get(reader) == "cat" for reader in found.readers(root))


def _float_operator(node: fx.Node, reason: str) -> FloatOperator:
    name = operator_of(node) or str(getattr(node.target, "__name__", node.target))
    return FloatOperator(
        node=node.name,
        operator=f"aten.{name}" if operator_of(node) else name,
        module_path=node.meta.get("module_path", ""),
        source=node.meta.get("source", ""),
        reason=reason,
    )


def bounds_of(found: Decision, point: fx.Node) -> tuple[float, float]:
    """Return between which numbers the values at the site behind ``point`` lie."""
    joined = [clip for node, clip in found.clips.items() if found.owner(node) is found.owner(point)]
    if joined:
        return joined[0] or (-float("inf"), float("inf"))
    return value_bounds(point)
