"""Options by what they are about; commands take whole sets of them (see :func:`spread`)."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Text = str | None
_LATENCY = "milliseconds per pass; needs a latency table, which this version cannot measure yet"
_AMOUNT = "a share such as 0.5 or 50%, or an amount such as 60M"


def _option(panel: str | None, *names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


@dataclass(frozen=True)
class ModelOptions:
    """Which dense network."""

    model: Annotated[
        str, _option("Model", help="a name such as resnet56-b, torchvision:NAME, timm:NAME, or file.py:function")
    ]
    weights: Annotated[
        Text, _option("Model", help="trained weights: .safetensors, or a file of tensors by torch.save")
    ] = None
    num_classes: Annotated[
        int | None, _option("Model", min=1, help="outputs of the network; without it, the classes of the data")
    ] = None


@dataclass(frozen=True)
class DataOptions:
    """Which data."""

    data: Annotated[str, _option("Data", help="digits, mnist, cifar10, parquet:DIR, or file.py:function")]
    data_root: Annotated[str, _option("Data", help="folder with mnist and cifar10")] = "data"
    normalize: Annotated[
        Text,
        _option(
            "Data", help="cifar10, imagenet, mnist, digits, none, or mean=…;std=…; without it, what suits the data"
        ),
    ] = None
    validation_share: Annotated[
        float, _option("Data", help="part of the training data set aside for validation, by seed")
    ] = 0.1
    workers: Annotated[int, _option("Data", min=0, help="reading processes of data that streams")] = 2


@dataclass(frozen=True)
class InputOptions:
    """Which example inputs, for commands that only run a model once."""

    data: Annotated[
        Text, _option("Inputs", help="take them from digits, mnist, cifar10, parquet:DIR or file.py:function")
    ] = None
    data_root: Annotated[str, _option("Inputs", help="folder with mnist and cifar10")] = "data"
    normalize: Annotated[Text, _option("Inputs", help="as in `secateur prune`")] = None
    input: Annotated[
        Text,
        _option("Inputs", metavar="CxHxW", help="shape of one random input; without it, what the network was made for"),
    ] = None


@dataclass(frozen=True)
class BudgetOptions:
    """What the result may cost at most; all that are given hold."""

    macs: Annotated[Text, _option("Budget", metavar="AMOUNT", help=f"multiply-adds per sample: {_AMOUNT}")] = None
    params: Annotated[Text, _option("Budget", metavar="AMOUNT", help="parameters, tied ones once")] = None
    nonzeros: Annotated[Text, _option("Budget", metavar="AMOUNT", help="stored weights")] = None
    size_bytes: Annotated[Text, _option("Budget", metavar="AMOUNT", help="bytes of the weights as saved")] = None
    activation_bytes: Annotated[
        Text, _option("Budget", metavar="AMOUNT", help="peak bytes of activations alive, per sample")
    ] = None
    latency_ms: Annotated[Text, _option("Budget", metavar="AMOUNT", help=_LATENCY)] = None


@dataclass(frozen=True)
class MethodOptions:
    """What is cut first."""

    criterion: Annotated[str, _option("What to cut", help="what makes a channel matter: l1, l2 or random")] = "l1"
    scope: Annotated[
        Literal["global", "local", "isomorphic"],
        _option("What to cut", help="compare all channels, cut every group alike, or compare alike groups"),
    ] = "global"
    combine: Annotated[
        Literal["mean", "sum", "max", "l2"], _option("What to cut", help="how the members of a group combine")
    ] = "mean"
    steps: Annotated[int, _option("What to cut", min=1, help="cuts on the way to the budget")] = 1
    step_epochs: Annotated[
        int, _option("What to cut", min=0, help="epochs of training after each cut but the last")
    ] = 1
    min_units: Annotated[int, _option("What to cut", min=1, help="channels that every group keeps")] = 1
    min_share: Annotated[float, _option("What to cut", help="share of channels that every group keeps")] = 0.0
    round_to: Annotated[int, _option("What to cut", min=1, help="kept channels are multiples of this")] = 1
    lock: Annotated[
        list[str] | None,
        _option("What to cut", metavar="PATTERN", help="groups to leave alone, such as 'layer1.*'; may be repeated"),
    ] = None


@dataclass(frozen=True)
class TrainingOptions:
    """How the cut model is fine-tuned, and the dense one trained where it has no weights."""

    epochs: Annotated[int, _option("Training", help="epochs of fine-tuning after the cut")] = 20
    learning_rate: Annotated[float, _option("Training", "--lr", help="highest rate of fine-tuning")] = 0.01
    batch_size: Annotated[int, _option("Training", help="samples per step")] = 128
    schedule: Annotated[
        Literal["constant", "step", "cosine", "triangular", "linear"],
        _option("Training", help="of the learning rate"),
    ] = "cosine"
    weight_decay: Annotated[float, _option("Training", help="of fine-tuning")] = 5e-4
    label_smoothing: Annotated[float, _option("Training", help="of fine-tuning, in [0, 1)")] = 0.0
    distill: Annotated[bool, _option("Training", "--distill/--no-distill", help="also learn from the dense model")] = (
        False
    )
    temperature: Annotated[
        float, _option("Training", "--distill-temperature", help="softens the dense model's outputs")
    ] = 4.0
    weight: Annotated[
        float, _option("Training", "--distill-weight", help="of the dense model's outputs against the labels")
    ] = 0.9
    train_epochs: Annotated[
        int, _option("Training", help="first train the dense model so long, where it has no weights")
    ] = 0
    train_lr: Annotated[float, _option("Training", help="highest learning rate of that training")] = 0.1


@dataclass(frozen=True)
class CommonOptions:
    """What every command has."""

    seed: Annotated[int, _option(None, help="of every random draw")] = 0
    threads: Annotated[int | None, _option(None, help="CPU threads; without it, as torch chooses")] = None
    device: Annotated[str, _option(None, help="auto, cpu, cuda, cuda:1 or mps")] = "auto"
    as_json: Annotated[bool, _option(None, "--json", help="print the result as JSON")] = False
    quiet: Annotated[bool, _option(None, "--quiet", "-q", help="show no progress")] = False
    verbose: Annotated[bool, _option(None, "--verbose", "-v", help="show where an error came from")] = False


@dataclass(frozen=True)
class RunOptions:
    """Where a run goes."""

    out: Annotated[Path, _option(None, "--out", "-o", help="folder of the run; made if it is not there")] = Path(
        "secateur-run"
    )
    force: Annotated[bool, _option(None, "--force", help="start over in the folder of another run")] = False


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Turn a function of option sets into one of single options, which is what typer reads.

    Parameters that are annotated with a dataclass of this module are replaced by its fields, in order; the others
    stay. Options without a default come first, because a signature needs it.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    sets: dict[str, type[Any]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if not dataclasses.is_dataclass(hints[name]):
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        sets[name] = typing.cast(type[Any], hints[name])
        annotations = typing.get_type_hints(hints[name], include_extras=True)
        for entry in dataclasses.fields(hints[name]):
            default = inspect.Parameter.empty if entry.default is dataclasses.MISSING else entry.default
            parameters.append(
                inspect.Parameter(
                    entry.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotations[entry.name]
                )
            )

    @functools.wraps(command)
    def called(**given: Any) -> None:
        grouped = {
            name: kind(**{entry.name: given.pop(entry.name) for entry in dataclasses.fields(kind)})
            for name, kind in sets.items()
        }
        command(**grouped, **given)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called
