"""The export-only twin of a simulation: its graph with every site written as ONNX's own operators.

``torch.onnx.ops.symbolic`` puts an ONNX operator into the exported program as it is. So weights and biases are in the
file as integers at once, any zero point and any range may be written, and the batch stays free. (Exported
fake-quantization keeps weights in float, allows three ranges only and fails with a free batch size.)
"""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.errors import ExportError
from secateur.quantization.quantizer import BiasQuantizer, Quantizer
from secateur.quantization.simulation import Simulation


def quantized(x: Tensor, step: Tensor, zero_point: Tensor) -> Tensor:
    """Return QuantizeLinear, then DequantizeLinear, with one step."""
    integers = torch.onnx.ops.symbolic("QuantizeLinear", (x, step, zero_point), dtype=zero_point.dtype, shape=x.shape)
    return torch.onnx.ops.symbolic("DequantizeLinear", (integers, step, zero_point), dtype=torch.float32, shape=x.shape)


class Pair(nn.Module):
    """Rounds an activation as a site does."""

    step: Tensor
    zero_point: Tensor

    def __init__(self, site: Quantizer) -> None:
        """Take step and zero point of ``site``.

        Raises:
            ExportError: its integers have not 8 bits.
        """
        super().__init__()
        if site.spec.bits != 8:
            raise ExportError(
                f"activations of {site.spec.bits} bits cannot be written to an ONNX file: QuantizeLinear rounds to 8 "
                "bits; simulate them, or use activation_bits=8"
            )
        affine = site.affine
        self.register_buffer("step", affine.step.detach().float().cpu().clone())
        self.register_buffer("zero_point", affine.zero_point.to(site.spec.dtype).cpu().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` rounded."""
        return quantized(x, self.step, self.zero_point)


class Stored(nn.Module):
    """A weight or a bias that is kept as integers."""

    integers: Tensor
    step: Tensor
    zero_point: Tensor

    def __init__(self, integers: Tensor, step: Tensor, axis: int | None) -> None:
        """Keep integers and the step of each index of dimension ``axis``, or of all."""
        super().__init__()
        self.axis = axis
        self.register_buffer("integers", integers.cpu().contiguous())
        self.register_buffer("step", step.detach().float().cpu().clone())
        # Not needed by the standard, but ONNX Runtime's matrix product stays in float without it.
        self.register_buffer("zero_point", torch.zeros(step.shape, dtype=integers.dtype))

    def forward(self) -> Tensor:
        """Return what the integers stand for."""
        attributes: dict[str, Any] = {} if self.axis is None else {"axis": self.axis}
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (self.integers, self.step, self.zero_point),
            attributes,
            dtype=torch.float32,
            shape=self.integers.shape,
        )


def twin_of(simulation: Simulation) -> fx.GraphModule:
    """Return a module that torch's exporter writes as the file of ``simulation``.

    Sites that are off are left out: what they would round stays in float.

    Raises:
        ExportError: an activation has fewer than 8 bits.
    """
    source = simulation.module
    graph = copy.deepcopy(source.graph)
    modules: dict[str, nn.Module] = {}
    for node in [entry for entry in graph.nodes if entry.op == "call_module"]:
        site = source.get_submodule(str(node.target))
        written = _written(site, source, node.args[0])
        if written is None:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
            continue
        modules[str(node.target)] = written
        if isinstance(written, Stored):
            node.args = ()
    for node in [entry for entry in graph.nodes if entry.op == "get_attr" and not entry.users]:
        graph.erase_node(node)
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    tensors = {name: _attribute(source, name) for name in read}
    graph.lint()
    return fx.GraphModule({**tensors, **modules}, graph, class_name=type(source).__name__)


def _written(site: nn.Module, source: fx.GraphModule, read: object) -> nn.Module | None:
    """Return what stands for a site in the file, or None where it does not round."""
    if isinstance(site, BiasQuantizer):
        if not site.rounds or not isinstance(read, fx.Node):
            return None
        bias = _attribute(source, str(read.target))
        return Stored(site.quantize(bias), site.step, 0 if site.step.dim() else None)
    if not isinstance(site, Quantizer) or site.mode != "quantize":
        return None
    if isinstance(read, fx.Node) and read.op == "get_attr":
        affine = site.affine
        integers = affine.quantize(_attribute(source, str(read.target)))
        return Stored(integers, affine.step, site.spec.axis)
    return Pair(site)


def _attribute(source: fx.GraphModule, name: str) -> Tensor:
    owner, _, attribute = name.rpartition(".")
    tensor: Tensor = getattr(source.get_submodule(owner), attribute)
    return tensor.detach()
