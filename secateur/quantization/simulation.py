"""``simulate``: a model that computes in float what a target computes in integers, rounding included."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, fx, nn

from secateur.errors import DataError, QuantizationError
from secateur.graph.inputs import ExampleInputs
from secateur.names import unknown_name
from secateur.quantization.calibrators import Calibrator, calibrator_named
from secateur.quantization.capture import capture, module_paths
from secateur.quantization.folding import fold_batch_norm
from secateur.quantization.histogram import RangeHistogram, reduce_all_
from secateur.quantization.insertion import PREFIX, IntegerOperator, Placement, place
from secateur.quantization.mapping import Affine, range_of
from secateur.quantization.profiles import profile_named
from secateur.quantization.quantizer import INT32, BiasQuantizer, Mode, Quantizer
from secateur.wording import counted

_UNNORMALIZED = 16.0  # beyond what any usual normalisation makes of a pixel


@dataclass(frozen=True)
class Settings:
    """What a simulation was made with."""

    profile: str
    weight_bits: int
    activation_bits: int
    per_tensor_weights: bool


def simulate(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    profile: str = "cpu",
    weight_bits: int = 8,
    activation_bits: int = 8,
    per_tensor_weights: bool = False,
) -> "Simulation":
    """Return a simulation of ``model`` on a target: captured, folded, with sites that are still off.

    Args:
        model: any module that ``torch.export`` takes; it stays as it was.
        example_inputs: one tensor, a tuple of positional arguments, or a mapping of keyword arguments, batch first.
        profile: the target, one of :data:`PROFILES`.
        weight_bits: 2 to 8; below 8 no runtime is faster, it is for comparison.
        activation_bits: 2 to 8.
        per_tensor_weights: one step for a whole weight, instead of one per output channel.

    Raises:
        QuantizationError: there is no such profile, or bits are out of range.
        TraceError: the model cannot be captured.
    """
    target = profile_named(profile).with_bits(weight_bits=weight_bits, activation_bits=activation_bits)
    graph_module = capture(model, example_inputs)
    fold_batch_norm(graph_module)
    placement = place(graph_module, target, per_tensor_weights=per_tensor_weights)
    if not placement.operators:
        raise QuantizationError(
            f"{type(model).__name__} has no operator that the target {profile} executes in integers; "
            "give a network with convolutions or linear layers"
        )
    return Simulation(graph_module, placement, Settings(profile, weight_bits, activation_bits, per_tensor_weights))


class Simulation:
    """A captured model with a site wherever the target rounds.

    Attributes:
        module: the graph, called as the model is; for ``Task.evaluate`` and ``Task.train`` like any other model. Its
            parameters have the names of the model's, batch norm folded into them.
        placement: what runs in integers, what in float and why.
        settings: what it was made with.
        notes: site → one line on how its range was found, where there is something to say.
        images: how many the histograms have seen, over all processes.
    """

    def __init__(self, module: fx.GraphModule, placement: Placement, settings: Settings) -> None:
        """Hold a graph with its sites; made by :func:`simulate`."""
        self.module, self.placement, self.settings = module, placement, settings
        self.notes: dict[str, str] = {}
        self.images = 0
        self._float: frozenset[str] = frozenset()

    @property
    def sites(self) -> Mapping[str, Quantizer]:
        """The sites by name, activations first, then weights; those of biases follow from these."""
        return MappingProxyType({name: self._site(name) for name in (*self.placement.activations, *self.placement.weights)})

    @property
    def bias_sites(self) -> Mapping[str, BiasQuantizer]:
        """The sites of biases by name."""
        found = {name: self.module.get_submodule(f"{PREFIX}{name}") for name in self.placement.biases}
        return MappingProxyType({name: entry for name, entry in found.items() if isinstance(entry, BiasQuantizer)})

    @property
    def operators(self) -> Mapping[str, IntegerOperator]:
        """The operators that run in integers, by name."""
        return self.placement.operators

    @property
    def module_paths(self) -> Mapping[str, str]:
        """Node → path of the module of the model that it belongs to, as a ``ChannelGraph`` names it."""
        return MappingProxyType(module_paths(self.module))

    def calibrate(
        self, batches: Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]], progress: Callable[[int], None] | None = None
    ) -> int:
        """Run images through the model and count the values at every site; what was counted before is forgotten.

        Under ``torch.distributed`` every process gives its part, and all of them know all counts afterwards.

        Args:
            batches: inputs, or (inputs, labels) of which the labels are not looked at. Training images, prepared as
                for evaluation.
            progress: told the images that are done after every batch.

        Returns:
            How many images were seen, over all processes.

        Raises:
            DataError: there is none, or one does not fit the model.
            QuantizationError: values are NaN or infinite; the histograms are then empty.
        """
        self.forget()
        images = 0
        device = next((entry.device for entry in self.module.parameters()), torch.device("cpu"))
        try:
            with self.observing(), torch.no_grad():
                for batch in batches:
                    inputs = batch if isinstance(batch, Tensor) else batch[0]
                    self._require_fitting(inputs)
                    self.module(inputs.to(device))
                    images += len(inputs)
                    if progress is not None:
                        progress(images)
        except QuantizationError:
            self.forget()
            raise
        total = _over_processes(images)
        if total == 0:
            raise DataError("there are no calibration images; give at least one batch of training images")
        reduce_all_(self._site(name).histogram for name in self.placement.activations)
        self.images = total
        return total

    def forget(self) -> None:
        """Empty the histograms."""
        self.images = 0
        for name in self.placement.activations:
            self._site(name).histogram = RangeHistogram(name)

    def set_ranges(self, calibrator: str | Calibrator = "max") -> Mapping[str, str]:
        """Choose the range of every site, and round from now on.

        Activations take what the calibrator makes of their histogram, within what their values can be (0 at least
        behind ReLU); weights take their largest magnitude, per output channel where there is a step for each.

        Args:
            calibrator: name in :data:`CALIBRATORS`, or a function.

        Returns:
            The notes of sites where the calibrator fell back on the largest value, also kept as ``notes``.

        Raises:
            QuantizationError: there is no such calibrator, or no image was seen.
        """
        choose = calibrator_named(calibrator) if isinstance(calibrator, str) else calibrator
        chosen = {name: choose(self._site(name).histogram, self._site(name).spec) for name in self.placement.activations}
        for name, found in chosen.items():
            self._site(name).set_range(found.range)
        self.set_weight_ranges()
        self.notes = {name: found.note for name, found in chosen.items() if found.note} | self._looks_unnormalized()
        self._set_modes("quantize")
        return MappingProxyType(self.notes)

    def set_weight_ranges(self) -> None:
        """Take the largest magnitude of every weight, per output channel where there is a step for each."""
        for name, parameter in self.placement.weights.items():
            site = self._site(name)
            site.set_range(range_of(self._tensor(parameter), site.spec))
        self._fit_biases()

    @contextlib.contextmanager
    def observing(self) -> Iterator[None]:
        """Count values at the sites of activations meanwhile, and round nothing."""
        with self._modes({name: "observe" for name in self.placement.activations}):
            yield

    @contextlib.contextmanager
    def unrounded(self) -> Iterator[None]:
        """Round nothing meanwhile: the folded model."""
        with self._modes({}):
            yield

    @contextlib.contextmanager
    def only(self, operators: Iterable[str]) -> Iterator[None]:
        """Let only these operators run in integers meanwhile: the sites around them round, the others do not."""
        names = self._known_operators(operators)
        rounded = {site for name in names for site in self.operators[name].sites}
        with self._modes({name: "quantize" for name in rounded}):
            yield

    def float_sites(self, names: Iterable[str]) -> None:
        """Let these sites, and no others, stay off whenever the simulation rounds: partial quantization.

        Raises:
            QuantizationError: there is no such site.
        """
        names = frozenset(names)
        for name in names:
            if name not in self.sites:
                raise QuantizationError(unknown_name("site", name, tuple(self.sites)))
        rounds = self.rounds
        self._float = names
        if rounds:
            self._set_modes("quantize")

    def float_operators(self, names: Iterable[str]) -> None:
        """Let these operators, and no others, run in float: sites stay on as long as an operator in integers has them.

        Raises:
            QuantizationError: there is no such operator.
        """
        names = self._known_operators(names)
        used = {site for name, entry in self.operators.items() if name not in names for site in entry.sites}
        self.float_sites(name for name in self.sites if name not in used)

    @property
    def rounds(self) -> bool:
        """Whether any site rounds now."""
        return any(entry.mode == "quantize" for entry in self.sites.values())

    @property
    def left_in_float(self) -> frozenset[str]:
        """Sites that stay off."""
        return self._float

    def affine(self, name: str) -> Affine:
        """Return the mapping at a site.

        Raises:
            QuantizationError: there is no such site.
        """
        if name not in self.sites:
            raise QuantizationError(unknown_name("site", name, tuple(self.sites)))
        return self._site(name).affine

    def _site(self, name: str) -> Quantizer:
        found = self.module.get_submodule(f"{PREFIX}{name}")
        if not isinstance(found, Quantizer):
            raise QuantizationError(f"{name} is no site of an activation or a weight")
        return found

    def _tensor(self, name: str) -> Tensor:
        owner, _, attribute = name.rpartition(".")
        tensor: Tensor = getattr(self.module.get_submodule(owner), attribute)
        return tensor

    def _known_operators(self, names: Iterable[str]) -> frozenset[str]:
        found = frozenset(names)
        for name in found:
            if name not in self.operators:
                raise QuantizationError(unknown_name("operator", name, tuple(self.operators)))
        return found

    @contextlib.contextmanager
    def _modes(self, modes: Mapping[str, Mode]) -> Iterator[None]:
        before = {name: site.mode for name, site in self.sites.items()}
        try:
            for name, site in self.sites.items():
                site.mode = modes.get(name, "off")
            yield
        finally:
            for name, site in self.sites.items():
                site.mode = before[name]

    def _set_modes(self, mode: Mode) -> None:
        for name, site in self.sites.items():
            site.mode = "off" if name in self._float else mode

    def _fit_biases(self) -> None:
        """Widen the steps of channels whose bias would not fit int32: tiny weights beside a large bias."""
        for name, site in self.bias_sites.items():
            bias = self._tensor(self.placement.biases[name]).detach().double().abs()
            least = bias / (site.input_site.step.detach().double() * INT32)
            weight = site.weight_site
            with torch.no_grad():
                least = least.max() if weight.step.dim() == 0 else least
                weight.step.copy_(torch.maximum(weight.step.double(), least * (1 + 1e-6)))

    def _require_fitting(self, inputs: Tensor) -> None:
        first = next(node for node in self.module.graph.nodes if node.op == "placeholder")
        wanted = first.meta.get("shape")
        if wanted is not None and tuple(inputs.shape[1:]) != tuple(wanted[1:]):
            raise DataError(
                f"calibration images have the shape {tuple(inputs.shape[1:])}, but the model was captured for "
                f"{tuple(wanted[1:])}; prepare them as for evaluation"
            )

    def _looks_unnormalized(self) -> dict[str, str]:
        found = {}
        for name in self.placement.activations:
            histogram = self._site(name).histogram
            if name.startswith("inputs.") and histogram.reach > _UNNORMALIZED:
                found[name] = (
                    f"images reach from {histogram.lowest:g} to {histogram.highest:g} over {counted(self.images, 'image')}, "
                    "which looks unnormalised; prepare them as for evaluation"
                )
        return found


def _over_processes(images: int) -> int:
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return images
    device = torch.device("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
    total = torch.tensor(images, device=device)
    torch.distributed.all_reduce(total)
    return int(total)
