"""Operators of an exported graph rewritten as ordinary ones that compute the same.

* In place → out of place: who read the changed tensor reads the result. Where views of it are read later this would
  not be the same, and torch's own decompositions take over (:func:`writes_elsewhere`).
* Nothing in evaluation → gone: dropout, copies, slices of everything, pooling to the size that is there.
* SiLU → x · sigmoid(x), HardSwish → x · hardsigmoid(x): runtimes compute them so, and round the inner result to
  integers as well.
"""

from collections.abc import Callable

import torch
from torch import fx

from secateur.errors import TraceError

aten = torch.ops.aten


def operator_of(node: fx.Node) -> str:
    """Return the name of a node's ATen operator without its overload, such as ``conv2d``; "" if it calls none."""
    if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.partition("::")[2]
    return ""


def writes_elsewhere(graph: fx.Graph) -> bool:
    """Return whether an operator writes into memory that other names are later read by, or into a stored tensor."""
    order = {node: place for place, node in enumerate(graph.nodes)}
    return any(_reaches_views(node, order) for node in graph.nodes if _in_place(node))


def refuse_kept_writes(graph: fx.Graph) -> None:
    """Refuse a graph that writes into a tensor that the model keeps.

    Raises:
        TraceError: it does.
    """
    for node in graph.nodes:
        base = node.args[0] if node.args else None
        while isinstance(base, fx.Node) and _is_view(base):
            base = base.args[0]
        if _in_place(node) and isinstance(base, fx.Node) and base.op == "get_attr":
            where = node.meta.get("source") or "its code"
            raise TraceError(
                f"aten.{operator_of(node)} writes into {base.target}, which the model keeps ({where}); a graph for "
                "evaluation cannot, so compute a new tensor there"
            )


def ordinary(graph_module: fx.GraphModule) -> None:
    """Rewrite the graph of ``graph_module`` in place, see the head of this module.

    Raises:
        TraceError: an operator in place has no ordinary form.
    """
    graph = graph_module.graph
    for node in list(graph.nodes):
        if _in_place(node):
            _out_of_place(node)
    for node in list(graph.nodes):
        operator = operator_of(node)
        if operator in _ASSERTIONS and not node.users:
            graph.erase_node(node)
        elif _does_nothing(node, operator):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif rewrite := _REWRITTEN.get(operator):
            rewrite(node)
    graph.eliminate_dead_code()


def replace(
    node: fx.Node, *calls: tuple[Callable[..., object], Callable[[fx.Node | None], tuple[object, ...]]]
) -> None:
    """Put a chain of operators in the place of ``node``; each is told the one before it and returns its arguments."""
    last: fx.Node | None = None
    for target, arguments in calls:
        with node.graph.inserting_before(node):
            last = node.graph.call_function(target, arguments(last))  # type: ignore[arg-type]
            last.meta = dict(node.meta)
    if last is not None:
        node.replace_all_uses_with(last)
        node.graph.erase_node(node)


def _in_place(node: fx.Node) -> bool:
    return (
        node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
    )


def _is_view(node: fx.Node) -> bool:
    """Return whether the result may lie in the memory of the first argument; lists of views are taken for one."""
    if node.op != "call_function":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return True  # an item of a list of views
    schema = node.target._schema
    return not schema.is_mutable and any(entry.alias_info is not None for entry in schema.returns)


def _reaches_views(node: fx.Node, order: dict[fx.Node, int]) -> bool:
    base = node.args[0] if node.args else None
    if not isinstance(base, fx.Node) or base.op == "get_attr" or _functional(node) is None:
        return True
    same, waiting = {base}, [base]
    while waiting:
        entry = waiting.pop()
        near = [user for user in entry.users if _is_view(user) and user.args[0] is entry]
        if (_is_view(entry) or _in_place(entry)) and isinstance(entry.args[0], fx.Node):
            near.append(entry.args[0])
        new = [other for other in near if other not in same and order[other] < order[node]]
        same.update(new)
        waiting += new
    if any(other.op == "get_attr" for other in same):
        return True
    # Results of earlier operators in place are one name more for the same memory; the last one is read from then on.
    aliases = {other for other in same if other is not base and not _earlier_state(other, base)}
    return any(order[user] > order[node] for other in aliases for user in other.users)


def _earlier_state(other: fx.Node, base: fx.Node) -> bool:
    """Return whether ``base`` is what operators in place made of ``other``; its later uses then get the last result."""
    while _in_place(base) and isinstance(base.args[0], fx.Node):
        base = base.args[0]
        if base is other:
            return True
    return False


def _functional(node: fx.Node) -> Callable[..., object] | None:
    """Return the operator out of place that belongs to one in place: ``relu.default`` to ``relu_.default``."""
    name, target = operator_of(node), node.target
    if not name.endswith("_") or not isinstance(target, torch._ops.OpOverload):
        return None
    found: Callable[..., object] | None = getattr(getattr(aten, name[:-1], None), target._overloadname, None)
    return found


def _out_of_place(node: fx.Node) -> None:
    ordinary_form, base = _functional(node), node.args[0]
    if ordinary_form is None or not isinstance(base, fx.Node):
        raise TraceError(
            f"aten.{operator_of(node)} changes a tensor in place ({node.meta.get('source') or 'its code'}) and has no "
            "ordinary form; compute a new tensor there"
        )
    order = {entry: place for place, entry in enumerate(node.graph.nodes)}
    node.target = ordinary_form
    base.replace_all_uses_with(node, delete_user_cb=lambda user: order[user] > order[node])


def _does_nothing(node: fx.Node, operator: str) -> bool:
    if operator in _COPIES:
        return True
    if operator in _DROPOUTS:
        return node.args[2] is False
    if operator in ("to", "_to_copy", "type_as"):
        source = node.args[0]
        return isinstance(source, fx.Node) and source.meta.get("dtype") == node.meta.get("dtype")
    if operator.startswith("adaptive_avg_pool"):
        source = node.args[0]
        return isinstance(source, fx.Node) and source.meta.get("shape") == node.meta.get("shape") is not None
    if operator == "slice":
        _, _, start, end, *step = (*node.args, *(None, 0, None, None)[len(node.args) :])[:5]
        whole = end is None or (isinstance(end, int) and end == torch.iinfo(torch.int64).max)
        return start in (0, None) and whole and step in ([], [1])
    return False


def _silu(node: fx.Node) -> None:
    x = node.args[0]
    replace(node, (aten.sigmoid.default, lambda _: (x,)), (aten.mul.Tensor, lambda gate: (x, gate)))


def _hardswish(node: fx.Node) -> None:
    x = node.args[0]
    replace(node, (aten.hardsigmoid.default, lambda _: (x,)), (aten.mul.Tensor, lambda gate: (x, gate)))


def _relu6(node: fx.Node) -> None:
    x = node.args[0]
    replace(node, (aten.hardtanh.default, lambda _: (x, 0.0, 6.0)))


def _batch_norm(node: fx.Node) -> None:
    x, weight, bias, mean, variance, momentum, epsilon = node.args
    arguments = (x, weight, bias, mean, variance, False, momentum, epsilon, False)
    for first in [user for user in node.users if user.args[1] == 0]:
        first.meta = {**node.meta, "shape": first.meta.get("shape"), "dtype": first.meta.get("dtype")}
        replace(first, (aten.batch_norm.default, lambda _: arguments))


_COPIES = {"clone", "contiguous", "alias", "detach", "lift_fresh_copy", "lift_fresh", "positive"}
_DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
_ASSERTIONS = {"_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range_for_size"}
_REWRITTEN: dict[str, Callable[[fx.Node], None]] = {
    "silu": _silu,
    "hardswish": _hardswish,
    "relu6": _relu6,
    "_native_batch_norm_legit_no_training": _batch_norm,
}
