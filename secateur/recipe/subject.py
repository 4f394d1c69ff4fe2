"""What a command works on: a dense model with its weights, inputs that it takes, and data where it was given."""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.data import DATA_SETS, DataSource, TrainShare, load_data
from secateur.errors import ArtifactError, DataError, TraceError, UsageError
from secateur.export import Builder, Preprocessing, preprocessing_of
from secateur.export import inspect as inspect_file
from secateur.graph import ChannelGraph, fold_weight_standardisation, trace
from secateur.models import build_model, default_normalization, full_name, head_of, input_shape, load_weights
from secateur.randomness import derive_seed, generator_for
from secateur.recipe.fingerprints import with_data_fingerprint, with_fingerprint
from secateur.recipe.settings import DataChoice, Machine, ModelChoice
from secateur.training import Split, choose_device, set_threads
from secateur.user_code import names_user_code

Shape = tuple[int, int, int]

SAMPLES = 2  # in example inputs, because batch norm on 1 × 1 maps needs them in training mode
INPUT_LIMIT_BYTES = 2 * 10**9  # of random example inputs


@dataclass(frozen=True)
class Subject:
    """A dense model, ready to be traced.

    Attributes:
        model: on the device, with its weights if a file was given.
        example_inputs: two samples, (2, C, H, W), on the device.
        builder: what builds the model again.
        data: where it was asked for.
        weights_fingerprint: of the weight file, None where the weights are random.
        notes: what a reader must know of how the model was built.
    """

    model: nn.Module
    example_inputs: Tensor
    builder: Builder
    data: DataSource | None = None
    weights_fingerprint: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_weights(self) -> bool:
        """Whether the weights come from a file."""
        return self.weights_fingerprint is not None

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How the data's images become inputs."""
        return None if self.data is None else preprocessing_of(self.data)

    def trace(self) -> ChannelGraph:
        """Return the model's graph.

        Raises:
            DataError: the model does not take the data's images.
            TraceError: it does not run.
        """
        try:
            return trace(self.model, self.example_inputs)
        except TraceError as error:
            if self.data is None:
                raise
            shape = _times(self.data.sample_shape)
            raise DataError(f"with images of {self.data.name}, which are {shape}, {error}") from error


def settle(machine: Machine) -> torch.device:
    """Set the threads and return the device that ``machine`` asks for.

    Raises:
        UsageError: fewer than one thread, or a device that is not there.
    """
    if machine.threads is not None:
        set_threads(machine.threads)
    return choose_device(machine.device)


def read_data(choice: DataChoice, machine: Machine, *, model: str | None = None) -> DataSource:
    """Load the data, normalised as asked for, or else as suits the data set, or else the model.

    Raises:
        UsageError: an unknown name, or an option out of range.
        DataError: the data cannot be read, or a split is empty.
    """
    normalize = choice.normalize
    if normalize is None and model is not None and choice.spec not in DATA_SETS and not names_user_code(choice.spec):
        normalize = default_normalization(model)
    data = load_data(
        choice.spec,
        root=choice.root,
        validation_share=choice.validation_share,
        normalize=normalize,
        augmentation=choice.augmentation,
        download=choice.download,
        workers=machine.workers,
    )
    required: tuple[Split, ...] = ("train", "test")
    for split in required:
        if data.size(split) == 0:
            raise DataError(f"the {split} split of {data.name} is empty; give data with samples in it")
    return data if choice.train_share == 1 else TrainShare(data, choice.train_share)


def fingerprinted(model: ModelChoice, data: DataChoice, machine: Machine) -> tuple[ModelChoice, DataChoice]:
    """Return both with the fingerprints of their files; what is missing is fetched before, where that was asked for.

    A job is known by its fingerprints, so those of its first call and of a later one have to be the same.

    Raises:
        ModelError: the weight file is missing, or not the one that the job names.
        DataError: the data cannot be read or fetched, or is not the one that the job names.
        UsageError: a code file is missing, or an option is out of range.
    """
    model = with_fingerprint(model)
    if data.download:
        read_data(data, machine, model=model.spec)
    return model, with_data_fingerprint(data)


def build_subject(
    choice: ModelChoice,
    *,
    data: DataSource | None = None,
    shape: Shape | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Subject:
    """Build the dense model, load its weights, and find inputs for it.

    Args:
        choice: which model and weights.
        data: gives example inputs, the number of classes and of channels.
        shape: (channels, height, width) of random example inputs where there is no data; None takes the shape that
            the network was made for.
        device: where to.
        seed: of the weights where no file is given, and of random inputs.

    Raises:
        UsageError: an unknown model, or nobody says which inputs it takes.
        ModelError: it cannot be built, the weights do not fit, or there is nothing to fold.
        TraceError: it is to be folded and does not run.
    """
    classes, channels = choice.num_classes, None
    if data is not None and not names_user_code(choice.spec):
        classes, channels = classes or data.num_classes, data.sample_shape[0]
    elif shape is not None and not names_user_code(choice.spec):
        channels = shape[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        model = build_model(choice.spec, num_classes=classes, in_channels=channels)
    notes: tuple[str, ...] = ()
    if choice.weights is not None:
        choice = with_fingerprint(choice)
        head = head_of(choice.spec) if choice.new_head else None
        load_weights(model, str(choice.weights), new_head=head)
        if head is not None:
            notes = (f"{choice.weights} gave the weights of all layers but {head}, which begins with random ones",)
    model = model.to(device)
    model.eval()
    example_inputs = _inputs(choice.spec, data, shape, seed).to(device)
    if choice.fold_weight_standardisation:
        model = fold_weight_standardisation(model, example_inputs)
    arguments = {"num_classes": classes, "in_channels": channels}
    return Subject(
        model=model,
        example_inputs=example_inputs,
        builder=Builder(
            name=full_name(choice.spec),
            arguments={name: value for name, value in arguments.items() if value is not None},
        ),
        data=data,
        weights_fingerprint=choice.weights_fingerprint,
        notes=notes,
    )


def parse_shape(text: str) -> Shape:
    """Read an input shape such as ``3x32x32``.

    Raises:
        UsageError: it is not three whole numbers above 0.
    """
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"the input shape is {text!r}; give channels, height and width, such as 3x32x32")
    channels, height, width = map(int, parts)
    return channels, height, width


def shape_in_files(paths: Iterable[Path]) -> Shape | None:
    """Return the input shape that the first of ``paths`` says, of those that are model files and say one.

    A plan that lies in a run directory is asked by its neighbour, the model file of that run.
    """
    for path in paths:
        for candidate in (path, path.with_name("model.safetensors")):
            with contextlib.suppress(ArtifactError):
                preprocessing = inspect_file(candidate).preprocessing
                if preprocessing is not None:
                    return preprocessing.input_shape
    return None


def _inputs(spec: str, data: DataSource | None, shape: Shape | None, seed: int) -> Tensor:
    if data is not None:
        split: Split = "validation" if data.size("validation") >= SAMPLES else "train"
        return next(iter(data.batches(split, batch_size=SAMPLES, limit=1)))[0]
    found = shape or input_shape(spec)
    if found is None:
        raise UsageError(f"nobody says which inputs {spec} takes; give --input such as 3x224x224, or --data")
    if math.prod(found) * SAMPLES * 4 > INPUT_LIMIT_BYTES:
        raise UsageError(
            f"two inputs of {_times(found)} take {math.prod(found) * SAMPLES * 4 / 1e9:,.1f} GB, and the limit is "
            f"{INPUT_LIMIT_BYTES / 1e9:g} GB; give a smaller --input"
        )
    return torch.randn(SAMPLES, *found, generator=generator_for(seed, "example inputs"))


def _times(shape: Shape) -> str:
    return "×".join(map(str, shape))
