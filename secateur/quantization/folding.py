"""``fold_batch_norm``: batch norm behind a convolution or a linear layer becomes part of its weight and bias.

W' = W · γ/√(σ² + ε) and b' = (b − μ) · γ/√(σ² + ε) + β (source: Wu et al. 2020, arXiv:2004.09602, §3; before any
range is measured, or ranges are those of another network). Computed in float64. A norm that reads anything else (the
pre-activation ones of DenseNet) stays: one multiplication and one addition per value, which runtimes do in float.
"""

from dataclasses import dataclass

from torch import Tensor, fx

from secateur.quantization.constants import store, stored
from secateur.quantization.rewriting import operator_of

CONTRACTIONS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "linear"), 0),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), 1),
}
"""Operators (x, weight, bias, …) → dimension of the weight that counts output channels (of a group, if transposed)."""


def fold_batch_norm(graph_module: fx.GraphModule) -> list[str]:
    """Fold every batch norm that alone reads a convolution or linear layer, in place.

    The folded weight and bias take the names of the layer's own (``conv1.weight``, ``conv1.bias``). A weight that
    several calls share is folded once per norm; norms beyond the first get a copy under the norm's own path.

    Returns:
        The names of the weights that took up a norm.
    """
    graph = graph_module.graph
    done: dict[tuple[object, ...], tuple[str, str]] = {}
    for norm in [node for node in graph.nodes if operator_of(node) == "batch_norm"]:
        layer = norm.args[0]
        if not (isinstance(layer, fx.Node) and operator_of(layer) in CONTRACTIONS and list(layer.users) == [norm]):
            continue
        bias_node = layer.args[2] if len(layer.args) > 2 else None
        weight, bias = stored(graph_module, layer.args[1]), stored(graph_module, bias_node)
        constants = _constants(graph_module, norm)
        if weight is None or (bias is None and bias_node is not None) or constants is None:
            continue
        key = _key(layer, bias_node, norm)
        if key not in done:
            folded_weight, folded_bias = _folded(weight, bias, constants, operator_of(layer), _groups(layer))
            done[key] = _store(graph_module, layer, norm, folded_weight, folded_bias, done)
        with graph.inserting_before(layer):
            arguments = [graph.get_attr(name) for name in done[key]]
        for argument, place in zip(arguments, (1, 2), strict=True):
            argument.meta = {**layer.meta, "shape": None}
            layer.args = (*layer.args[:place], argument, *layer.args[place + 1 :])
        norm.replace_all_uses_with(layer)
        graph.erase_node(norm)
    graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    _forget_unread(graph_module)
    graph_module.recompile()
    return [weight for weight, _ in done.values()]


@dataclass(frozen=True)
class _Norm:
    scale: Tensor  # γ/√(σ² + ε), float64, shape (channels,)
    shift: Tensor  # β − μ · scale
    trains: bool


def _constants(graph_module: fx.GraphModule, norm: fx.Node) -> _Norm | None:
    """Return what a norm multiplies by and adds, or None if it measures its batch or its numbers are computed."""
    _, gamma, beta, mean, variance, training, _, epsilon, *_ = norm.args
    known = [stored(graph_module, entry) for entry in (mean, variance)]
    affine = [stored(graph_module, entry) for entry in (gamma, beta)]
    if (
        training
        or None in known
        or any(t is None and e is not None for t, e in zip(affine, (gamma, beta), strict=True))
    ):
        return None
    mu, var = (entry.detach().double() for entry in known if entry is not None)
    scale = (var + float(epsilon)).rsqrt()  # type: ignore[arg-type]
    if affine[0] is not None:
        scale = scale * affine[0].detach().double()
    shift = -mu * scale
    if affine[1] is not None:
        shift = shift + affine[1].detach().double()
    return _Norm(scale, shift, any(entry is not None and entry.requires_grad for entry in affine))


def _folded(weight: Tensor, bias: Tensor | None, norm: _Norm, operator: str, groups: int) -> tuple[Tensor, Tensor]:
    exact = weight.detach().double()
    if CONTRACTIONS[operator] == 0:
        exact = exact * norm.scale.reshape(-1, *[1] * (weight.dim() - 1))
    else:
        # (in, out / groups, …): output channel g · out / groups + j lies at (inputs of group g, j).
        grouped = exact.reshape(groups, -1, *exact.shape[1:])
        exact = (grouped * norm.scale.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)
    shift = norm.shift if bias is None else norm.shift + bias.detach().double() * norm.scale
    trains = weight.requires_grad or norm.trains
    return exact.to(weight.dtype).requires_grad_(trains), shift.to(weight.dtype).requires_grad_(trains)


def _groups(layer: fx.Node) -> int:
    """Return the groups of a transposed convolution (x, weight, bias, stride, padding, output_padding, groups, …)."""
    groups = layer.args[6] if len(layer.args) > 6 else 1
    return groups if isinstance(groups, int) else 1


def _key(layer: fx.Node, bias: object, norm: fx.Node) -> tuple[object, ...]:
    read = (layer.args[1], bias, *norm.args[1:5])
    return (*(entry.target if isinstance(entry, fx.Node) else None for entry in read), norm.args[7])


def _store(
    graph_module: fx.GraphModule,
    layer: fx.Node,
    norm: fx.Node,
    weight: Tensor,
    bias: Tensor,
    done: dict[tuple[object, ...], tuple[str, str]],
) -> tuple[str, str]:
    """Keep folded tensors under the layer's names, or the norm's where other calls read the layer's weight as it is."""
    name = str(layer.args[1].target)  # type: ignore[union-attr]
    path = name.rpartition(".")[0]
    taken = any(name == weight_name for weight_name, _ in done.values())
    others = [
        user
        for node in graph_module.graph.nodes
        if node.op == "get_attr" and node.target == name
        for user in node.users
        if user is not layer and not _same_norm(user, layer, norm)
    ]
    if taken or others or _shared(graph_module, name):
        prefix = f"{norm.meta.get('module_path') or path}."
        return store(graph_module, f"{prefix}folded_weight", weight), store(graph_module, f"{prefix}folded_bias", bias)
    owner = graph_module.get_submodule(path)
    for table in (owner._parameters, owner._buffers):
        table.pop(name.rpartition(".")[2], None)
    biased = f"{path}.bias" if path else "bias"
    old = layer.args[2] if len(layer.args) > 2 else None
    if isinstance(old, fx.Node) and old.target == biased:
        owner._parameters.pop("bias", None)
    return store(graph_module, name, weight), store(graph_module, biased, bias)


def _same_norm(user: fx.Node, layer: fx.Node, norm: fx.Node) -> bool:
    """Return whether another call of the layer's weight is folded with the same norm, and so reads the same result."""
    if operator_of(user) != operator_of(layer) or len(user.users) != 1:
        return False
    (other,) = user.users
    if operator_of(other) != "batch_norm":
        return False
    bias = [entry.args[2] if len(entry.args) > 2 else None for entry in (user, layer)]
    return _key(user, bias[0], other) == _key(layer, bias[1], norm)


def _shared(graph_module: fx.GraphModule, name: str) -> bool:
    """Return whether the stored tensor is known by another name as well that the graph reads."""
    tensor = graph_module.get_parameter(name) if name in dict(graph_module.named_parameters()) else None
    read = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    return tensor is not None and any(
        entry is tensor and other != name and other in read
        for other, entry in graph_module.named_parameters(remove_duplicate=False)
    )


def _forget_unread(graph_module: fx.GraphModule) -> None:
    """Drop stored tensors that no node reads any more."""
    read = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    for path, module in graph_module.named_modules():
        for table in (module._parameters, module._buffers):
            for attribute in list(table):
                name = f"{path}.{attribute}" if path else attribute
                if name not in read:
                    del table[attribute]
