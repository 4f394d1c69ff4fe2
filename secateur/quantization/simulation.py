"""``simulate``: a model that computes in float what a target computes in integers, rounding included."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, fx, nn

from secateur.errors import QuantizationError
from secateur.graph.inputs import ExampleInputs
from secateur.names import unknown_name
from secateur.quantization import state
from secateur.quantization.calibrating import CalibrationBatch, fit_bias, run_images, unnormalized
from secateur.quantization.calibrators import Calibrator, calibrator_named
from secateur.quantization.capture import capture, module_paths
from secateur.quantization.folding import fold_batch_norm
from secateur.quantization.histogram import RangeHistogram, reduce_all_
from secateur.quantization.insertion import PREFIX, IntegerOperator, Placement, place
from secateur.quantization.mapping import Affine, range_of
from secateur.quantization.profiles import profile_named
from secateur.quantization.quantizer import BiasQuantizer, Mode, Quantizer
from secateur.quantization.state import Settings


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
        return MappingProxyType(
            {name: self._site(name) for name in (*self.placement.activations, *self.placement.weights)}
        )

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
        self,
        batches: Iterable[CalibrationBatch],
        progress: Callable[[int], None] | None = None,
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
        try:
            with self.observing():
                images = run_images(self.module, batches, progress)
        except BaseException:
            self.forget()
            raise
        reduce_all_(self._site(name).histogram for name in self.placement.activations)
        self.images = images
        return images

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
        chosen = {
            name: choose(self._site(name).histogram, self._site(name).spec) for name in self.placement.activations
        }
        for name, found in chosen.items():
            self._site(name).set_range(found.range)
        self.set_weight_ranges()
        self.notes = {name: found.note for name, found in chosen.items() if found.note}
        self.notes |= unnormalized({name: self._site(name).histogram for name in chosen}, self.images)
        self.round_()
        return MappingProxyType(self.notes)

    def set_weight_ranges(self) -> None:
        """Take the largest magnitude of every weight, per output channel where there is a step for each."""
        for name, parameter in self.placement.weights.items():
            site = self._site(name)
            site.set_range(range_of(self._tensor(parameter), site.spec))
        for name, bias_site in self.bias_sites.items():
            fit_bias(bias_site, self._tensor(self.placement.biases[name]))

    @contextlib.contextmanager
    def observing(self) -> Iterator[None]:
        """Count values at the sites of activations meanwhile, and round nothing."""
        with self._modes(dict.fromkeys(self.placement.activations, "observe")):
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
        with self._modes(dict.fromkeys(rounded, "quantize")):
            yield

    @contextlib.contextmanager
    def all_but(self, operators: Iterable[str]) -> Iterator[None]:
        """Let all operators but these run in integers meanwhile; a site rounds if one of the others has it."""
        with self._modes(dict.fromkeys(self._sites_without(operators), "quantize")):
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
            self.round_()

    def float_operators(self, names: Iterable[str]) -> None:
        """Let these operators, and no others, run in float: sites stay on as long as an operator in integers has them.

        Raises:
            QuantizationError: there is no such operator.
        """
        used = self._sites_without(names)
        self.float_sites(name for name in self.sites if name not in used)

    def round_(self, on: bool = True) -> None:
        """Round from now on at all sites but those left in float, or nowhere."""
        for name, site in self.sites.items():
            site.mode = "quantize" if on and name not in self._float else "off"

    @property
    def rounds(self) -> bool:
        """Whether any site rounds now."""
        return any(entry.mode == "quantize" for entry in self.sites.values())

    @property
    def left_in_float(self) -> frozenset[str]:
        """Sites that stay off."""
        return self._float

    def save(self, path: Path | str) -> None:
        """Write weights, steps and zero points to one safetensors file (see :mod:`secateur.quantization.state`).

        Raises:
            UsageError: the file cannot be written.
        """
        state.save(self, path)

    def load(self, path: Path | str) -> None:
        """Take the state of a file that a simulation of the same model with the same settings wrote.

        Raises:
            ArtifactError: it does not fit; nothing is changed then.
        """
        state.load(self, path)

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

    def _sites_without(self, operators: Iterable[str]) -> frozenset[str]:
        left_out = self._known_operators(operators)
        return frozenset(site for name, entry in self.operators.items() if name not in left_out for site in entry.sites)

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
