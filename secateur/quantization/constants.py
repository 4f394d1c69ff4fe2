"""What a graph computes from stored tensors alone, computed once: weights behind a mask, positions, tables."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.quantization.rewriting import operator_of


def stored(graph_module: fx.GraphModule, node: object) -> Tensor | None:
    """Return the stored tensor that ``node`` reads, or None if it is no such node."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner, _, attribute = str(node.target).rpartition(".")
    found = getattr(graph_module.get_submodule(owner), attribute)
    return found if isinstance(found, Tensor) else None


def store(graph_module: fx.GraphModule, name: str, tensor: Tensor) -> str:
    """Keep ``tensor`` in the module as ``name``, with a number behind it if the name is taken; return the name.

    A tensor that requires a gradient is kept as a parameter, any other one as a buffer.
    """
    owner, _, attribute = name.rpartition(".")
    module: nn.Module = graph_module
    for part in owner.split(".") if owner else ():
        if not isinstance(getattr(module, part, None), nn.Module):
            setattr(module, part, nn.Module())
        module = getattr(module, part)
    free, number = attribute, 0
    while hasattr(module, free):
        number += 1
        free = f"{attribute}_{number}"
    if tensor.requires_grad:
        module.register_parameter(free, nn.Parameter(tensor.detach()))
    else:
        module.register_buffer(free, tensor.detach())
    return f"{owner}.{free}" if owner else free


def compute_constants(graph_module: fx.GraphModule) -> None:
    """Compute what depends on stored tensors alone, and keep it under the path of the module that computed it."""
    graph = graph_module.graph
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "get_attr" and (tensor := stored(graph_module, node)) is not None:
            values[node] = tensor
        elif _constant(node, values):
            arguments, keywords = fx.map_arg((node.args, node.kwargs), lambda entry: values[entry])
            with torch.no_grad():
                values[node] = node.target(*arguments, **keywords)
    for node in [entry for entry in values if entry.op != "get_attr"]:
        value = values[node]
        if not isinstance(value, Tensor) or all(user in values for user in node.users):
            continue
        trained = value.is_floating_point() and any(entry.requires_grad for entry in _sources(node, values))
        name = store(graph_module, _name(node), value.detach().clone().requires_grad_(trained))
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
        constant.meta = dict(node.meta)
        node.replace_all_uses_with(constant)
    graph.eliminate_dead_code()


def _constant(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    if node.op != "call_function" or not node.all_input_nodes:
        return False
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags:
        return False
    return all(entry in values for entry in node.all_input_nodes)


def _sources(node: fx.Node, values: dict[fx.Node, Any]) -> list[Tensor]:
    found, waiting = [], [node]
    while waiting:
        entry = waiting.pop()
        if entry.op == "get_attr":
            found.append(values[entry])
        waiting += entry.all_input_nodes
    return found


def _name(node: fx.Node) -> str:
    """Return what a computed tensor is called: as the parameter that an operator takes it for, where it does."""
    for user in node.users:
        roles = {1: "weight", 2: "bias"} if operator_of(user).startswith(("conv", "linear")) else {}
        for place, role in roles.items():
            if len(user.args) > place and user.args[place] is node:
                return ".".join(part for part in (user.meta.get("module_path", ""), role) if part)
    return ".".join(part for part in (node.meta.get("module_path", ""), node.name) if part)
