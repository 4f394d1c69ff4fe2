"""``trace``: run a model once and find which of its channels hang together."""

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.graph import inputs
from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.flow import Call, Flow
from secateur.graph.groups import Record, build
from secateur.graph.inputs import ExampleInputs
from secateur.graph.labels import IntArray, Labels, attach, labels_of
from secateur.graph.misfit import does_not_run, returns_no_tensor
from secateur.graph.slots import (
    StoredTensor,
    alike,
    mode_of,
    module_names,
    preserved,
    randomness_preserved,
    refuse_wrappers,
    stored_tensors,
    swapped,
)


def trace(model: nn.Module, example_inputs: ExampleInputs) -> ChannelGraph:
    """Find the groups of channels of ``model`` by running it once on ``example_inputs``.

    The run is on meta tensors, which have shapes and no values; where the model's code needs values it is repeated on
    the real ones. Parameters, buffers, flags, hooks, gradients and random state are left as they were. If evaluation
    mode does not reach all parameters (auxiliary heads), a second run in training mode, on at least two samples, adds
    what it reaches.

    Args:
        model: any module whose forward runs on ``example_inputs``.
        example_inputs: one tensor, a tuple of positional arguments, or a mapping of keyword arguments; the first
            dimension of the first tensor is the batch.

    Returns:
        The graph: groups of units, costs, what is locked and why. It holds no tensors and no modules.

    Raises:
        TraceError: the model does not run on these inputs, returns no tensor, or is wrapped.
    """
    refuse_wrappers(model)
    call = inputs.as_call(example_inputs)
    stored = stored_tensors(model)
    _refuse_mixed_devices(stored)
    record = Record(stored=stored, model_class=type(model).__qualname__, batch_size=inputs.batch_size_of(call))
    try:
        _run(model, call, record, device="meta", training=False)
        device = "meta"
    except (Exception, SystemExit):  # whatever a model's own code raises without values
        record = Record(stored=stored, model_class=record.model_class, batch_size=record.batch_size)
        device = None
        try:
            _run(model, call, record, device=None, training=False)
        except TraceError:
            raise
        except (Exception, SystemExit) as error:
            raise does_not_run(model, call, error) from error
    if record.unreached():
        record = _with_training(model, call, record, device)
    return build(record)


def _with_training(model: nn.Module, call: Call, record: Record, device: str | None) -> Record:
    """Add what a run in training mode reaches; what it cannot run either stays on the list of unreached parameters."""
    for where in dict.fromkeys((device, None)):
        attempt = record.copy()
        with contextlib.suppress(Exception):
            _run(model, _at_least_two(call, record.batch_size), attempt, device=where, training=True)
            return attempt if attempt.reached > record.reached else record
    return record


def _run(model: nn.Module, call: Call, record: Record, *, device: str | None, training: bool) -> None:
    def traced(entry: StoredTensor) -> Tensor:
        data = entry.tensor.detach()
        # A forward may write into its own parameters (renormalised embeddings) as well as into its buffers.
        data = _meta_like(data) if device is not None else data.clone()
        tensor = alike(entry.tensor, data)
        attach(tensor, Labels(record.atoms_of[entry.name], from_weights=True, parameter=entry.name))
        return tensor

    tracer = Tracer(record, module_names(model), meta=device is not None, costs=not training)
    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
        preserved(model),
        mode_of(model, training=training),
        randomness_preserved(record.stored),
        swapped(record.stored, traced),
    ):
        given = inputs.map_tensors(tracer.input, call)
        with tracer:
            result = model(*given[0], **given[1])
    outputs = inputs.tensors_of(result)
    if not outputs:
        raise returns_no_tensor(model, result)
    for tensor in outputs:
        tracer.output(tensor)
    record.train_mode = record.train_mode or training


class Tracer(Flow):  # type: ignore[no-untyped-call]
    """Collects unions, locks and costs while a model runs."""

    def __init__(self, record: Record, names: dict[int, str], *, meta: bool, costs: bool) -> None:
        super().__init__(record.atoms, names)
        self._record = record
        self._meta = meta
        self._costs = costs
        self.unknown = record.unknown_ops
        self._nothing = torch.empty(0, device="meta")

    def input(self, tensor: Tensor) -> Tensor:
        """Return the tensor that stands for a model input."""
        given = _meta_like(tensor) if self._meta else tensor.detach().clone()
        labels = Labels((None,) * tensor.dim(), from_weights=False)
        attach(given, labels)
        labels.storage = self._new_storage(given)
        return given

    def output(self, tensor: Tensor) -> None:
        """Lock a model output, and keep it alive to the end."""
        labels = labels_of(tensor)
        if labels is None:
            return
        for atoms in labels.dims:
            if atoms is not None:
                self.books.lock(atoms, "output of the model")
        if self._costs and labels.storage >= 0:
            self._record.storages[labels.storage].dies = self._record.operators

    def run(self, func: Any, name: str, call: Call) -> Any:
        """Run the operator; on meta tensors the common ones by their shape alone, which is ten times cheaper."""
        if self._meta:
            first = call[0][0]
            if name == "native_batch_norm":
                sizes = {vector.shape[0] for vector in call[0][1:5] if vector is not None}
                if sizes - {first.shape[1]}:
                    raise ValueError(f"batch norm of {first.shape[1]} channels has vectors of {sizes}")
                return _meta_like(first), self._nothing, self._nothing
            if (name in _ACTIVATIONS and first.is_floating_point()) or (name == "add" and _alike(*call[0][:2])):
                return first if func._schema.name.endswith("_") else _meta_like(first)
        return func(*call[0], **call[1])

    def after(self, func: Any, labels: list[Labels | None], results: list[Tensor]) -> None:
        """Note which parameters are reached, and how long activations live."""
        record = self._record
        record.operators += 1
        now = record.operators
        first = -1
        for known in labels:
            if known is None:
                continue
            if known.parameter is not None:
                record.reached.add(known.parameter)
            if known.storage >= 0:
                first = known.storage if first < 0 else first
                if self._costs:
                    record.storages[known.storage].dies = now
        if not self._costs:
            return
        alias = any(value.alias_info is not None for value in getattr(func, "_schema", _NO_SCHEMA).returns)
        for tensor in results:
            given = labels_of(tensor)
            if given is not None and not given.from_weights and given.storage < 0:
                given.storage = first if alias else self._new_storage(tensor)

    def _new_storage(self, tensor: Tensor) -> int:
        if not self._costs:
            return -1
        labels = labels_of(tensor)
        dims = labels.dims if labels is not None else (None,) * tensor.dim()
        constant = tensor.element_size() * math.prod(
            size for size, atoms in zip(tensor.shape, dims, strict=True) if atoms is None
        )
        return self._record.new_storage(constant, [atoms for atoms in dims if atoms is not None])

    def spend(self, function: str, factors: list[tuple[int, IntArray | None]]) -> None:
        """See :class:`Flow`."""
        if self._costs:
            constant = math.prod(size for size, atoms in factors if atoms is None)
            if self.from_weights:  # once per run, not once per sample
                constant *= self._record.batch_size
            forms = [atoms for _, atoms in factors if atoms is not None]
            self._record.compute.append((self.module_path, function, constant, forms))

    def role(self, tensor: Tensor, axis: int, role: str) -> None:
        """See :class:`Flow`."""
        labels = labels_of(tensor)
        atoms = labels.dims[axis] if labels is not None and labels.from_weights else None
        if atoms is not None and atoms.size:
            self._record.roles.setdefault(int(atoms[0]), role)

    def regroup(self, weight: Tensor, groups: int) -> bool:
        """See :class:`Flow`."""
        labels = labels_of(weight)
        if labels is None or labels.parameter is None:
            return False
        for slot in self._record.stored[labels.parameter].slots:
            if not isinstance(slot.module, nn.modules.conv._ConvNd) or slot.module.groups != groups:
                return False
        self._record.regrouped.add(labels.parameter)
        return True

    def called(self, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A normalisation layer without tensors of its own still holds the number of its channels."""
        if not isinstance(module, nn.modules.batchnorm._NormBase):
            return
        if module._parameters.get("weight") is None and module._buffers.get("running_mean") is None:
            atoms = self.dims(args[0])[1] if args and isinstance(args[0], Tensor) and args[0].dim() > 1 else None
            if atoms is not None:
                self._record.attributes[(path, "num_features")] = atoms


_ACTIVATIONS = frozenset(
    ["relu", "hardtanh", "silu", "sigmoid", "hardswish", "hardsigmoid", "gelu", "leaky_relu", "elu", "tanh", "mish"]
)


def _meta_like(tensor: Tensor) -> Tensor:
    # empty_like on meta tensors runs through Python; this does not.
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _alike(first: object, second: object) -> bool:
    return (
        isinstance(first, Tensor)
        and isinstance(second, Tensor)
        and first.shape == second.shape
        and first.dtype == second.dtype
        and first.stride() == second.stride()
    )


class _NoSchema:
    returns: tuple[()] = ()


_NO_SCHEMA = _NoSchema()


def _at_least_two(call: Call, batch: int) -> Call:
    """Double a batch of one: batch norm in training mode refuses a single value per channel."""
    if batch > 1:
        return call

    def doubled(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == batch else tensor

    result: Call = inputs.map_tensors(doubled, call)
    return result


def _refuse_mixed_devices(stored: dict[str, StoredTensor]) -> None:
    offloaded = [name for name, entry in stored.items() if entry.tensor.is_sparse or entry.tensor.is_quantized]
    if offloaded:
        raise TraceError(f"{offloaded[0]} is a sparse or quantized tensor; prune the dense float model instead")
