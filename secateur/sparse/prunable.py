"""Which parameters can be pruned weight by weight: those of convolutions and linear layers."""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd

from secateur.errors import UsageError
from secateur.names import unknown_name

LayerKind = Literal["all", "convolution", "linear"]


def prunable_weights(model: nn.Module, skip: Iterable[str] = (), *, kind: LayerKind = "all") -> tuple[str, ...]:
    """Return the names of the weights that masks are for, in the order of the model.

    These are the weights of convolutions (one to three dimensions, transposed too) and of linear layers, shared ones
    once under their first name. Biases, norms and embeddings never, nor a weight that a layer shares with an embedding,
    nor one that is computed from other parameters, as under weight norm.

    Args:
        model: any module.
        skip: weights or modules to leave out, by name or by pattern (``features.*``).
        kind: ``convolution`` or ``linear`` for these alone, as where the two are pruned in turn.

    Raises:
        UsageError: a name in ``skip`` matches nothing, or a weight has no shape yet.
    """
    layers = dict(_layers(model))
    left_out: set[str] = set()
    for pattern in skip:
        left_out |= _matching(pattern, layers, "layer to skip")
    wanted = {"all": (nn.Linear, _ConvNd), "convolution": (_ConvNd,), "linear": (nn.Linear,)}[kind]
    return tuple(name for name, layer in layers.items() if name not in left_out and isinstance(layer, wanted))


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """Return the convolution or linear layer that the weight ``name`` belongs to.

    Raises:
        UsageError: ``name`` is no prunable weight of ``model``.
    """
    layers = dict(_layers(model))
    if name not in layers:
        raise UsageError(unknown_name("prunable weight", name, layers))
    return layers[name]


def settings_by_name(
    values: float | Mapping[str, float], names: Iterable[str], what: str, *, model: nn.Module
) -> dict[str, float]:
    """Return one number per weight.

    Args:
        values: one number for all, or numbers by name or pattern of weights or modules. A weight's own name counts
            before its module's, and both before a pattern; of patterns the first that matches counts. Weights that
            none matches are left out of the result.
        names: of the weights.
        what: what messages call a key of ``values``.
        model: of which the weights are.

    Raises:
        UsageError: a key matches nothing.
    """
    names = list(names)
    if not isinstance(values, Mapping):
        return dict.fromkeys(names, float(values))
    layers = dict(_layers(model))
    found: dict[str, float] = {}
    exact: dict[str, float] = {}
    for key, value in values.items():
        for name in _matching(key, layers, what):
            if key == name:
                exact[name] = float(value)
            elif key == _module(name):
                exact.setdefault(name, float(value))
            else:
                found.setdefault(name, float(value))
    chosen = {**found, **exact}
    return {name: chosen[name] for name in names if name in chosen}


def _matching(pattern: str, layers: Mapping[str, nn.Module], kind: str) -> set[str]:
    found = {name for name in layers if fnmatchcase(name, pattern) or fnmatchcase(_module(name), pattern)}
    # A module that holds layers stands for all of them.
    found |= {name for name in layers if name.startswith(f"{pattern}.")}
    if not found:
        raise UsageError(unknown_name(kind, pattern, {*layers, *map(_module, layers)} - {""}))
    return found


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    embedded = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for parameter in module.parameters(recurse=False)
    }
    seen: set[int] = set()
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear | _ConvNd):
            continue
        weight = module._parameters.get("weight")
        if weight is None or id(weight) in embedded | seen or not weight.is_floating_point():
            continue
        name = f"{path}.weight" if path else "weight"
        if nn.parameter.is_lazy(weight):
            raise UsageError(f"{name} has no shape yet; run the model once on a batch before pruning it")
        seen.add(id(weight))
        yield name, module
