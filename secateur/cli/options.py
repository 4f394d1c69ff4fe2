"""Options by what they are about; commands take whole sets of them (see :func:`spread`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from secateur.cli.spreading import spread as spread

Text = str | None
_LATENCY = "milliseconds per pass in ONNX Runtime, by --latency-table: a share such as 0.5x, or 3.2ms"
_DATA_SETS = (
    "digits, mnist, fashion-mnist, cifar10, cifar100, svhn, imagenet, cub200[:DIR], folder:DIR, parquet:DIR, voc:DIR "
    "(segmentation), or file.py:function"
)
_AMOUNT = "a share such as 0.5 or 50%, or an amount such as 60M"


def option(panel: str | None, *names: str, help: str, **more: Any) -> Any:
    """Return an option of a command, in a panel of its help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


@dataclass(frozen=True)
class ModelOptions:
    """Which dense network."""

    model: Annotated[
        str,
        option(
            "Model",
            help="a name such as resnet56-b, torchvision:NAME, timm:NAME, or file.py:function; with @1.5x behind it "
            "the network is 1.5 times as wide",
        ),
    ]
    weights: Annotated[
        Text, option("Model", help="trained weights: .safetensors, or a file of tensors by torch.save")
    ] = None
    new_head: Annotated[
        bool,
        option(
            "Model",
            "--new-head",
            help="take the weights of all layers but the last, which is trained anew with --train-epochs: other "
            "classes, or vgg16-gap from the weights of VGG-16",
        ),
    ] = False
    num_classes: Annotated[
        int | None, option("Model", min=1, help="outputs of the network; without it, the classes of the data")
    ] = None
    fold_weight_standardisation: Annotated[
        bool,
        option(
            "Model",
            "--fold-weight-standardisation",
            help="turn layers that compute their weights (standardised weights, weight norm) into plain ones, which "
            "can be cut; training goes on from there without it",
        ),
    ] = False


@dataclass(frozen=True)
class DataOptions:
    """Which data."""

    data: Annotated[str, option("Data", help=_DATA_SETS)]
    data_root: Annotated[str, option("Data", help="folder with the data sets that have a name")] = "data"
    normalize: Annotated[
        Text,
        option(
            "Data",
            help="cifar10, cifar100, svhn, imagenet, mnist, fashion-mnist, digits, none, or mean=…;std=…; without it, "
            "what suits the data",
        ),
    ] = None
    validation_share: Annotated[
        float, option("Data", help="part of the training data set aside for validation, by seed")
    ] = 0.1
    augment: Annotated[
        Text,
        option(
            "Data",
            help="of training images: none, flip, crop, cifar, imagenet, …, or with masks segmentation:SIZE; without "
            "it, what suits the data",
        ),
    ] = None
    train_share: Annotated[float, option("Data", help="part of the training images that is used, for short trials")] = (
        1.0
    )
    download: Annotated[
        bool, option("Data", "--download", help="fetch the data where it is missing and there is internet")
    ] = False
    workers: Annotated[int, option("Data", min=0, help="reading processes of data that streams")] = 2


@dataclass(frozen=True)
class InputOptions:
    """Which example inputs, for commands that only run a model once."""

    data: Annotated[Text, option("Inputs", help="take them from data, named as in `secateur prune`")] = None
    data_root: Annotated[str, option("Inputs", help="folder with the data sets that have a name")] = "data"
    normalize: Annotated[Text, option("Inputs", help="as in `secateur prune`")] = None
    input: Annotated[
        Text,
        option("Inputs", metavar="CxHxW", help="shape of one random input; without it, what the network was made for"),
    ] = None


@dataclass(frozen=True)
class ReadingOptions:
    """How images are read, for commands that look at some of them but train on none."""

    augment: Annotated[
        Text,
        option(
            "Inputs",
            help="as in `secateur prune`; images are not augmented here, but it says to which size they are brought, "
            "such as imagenet:160",
        ),
    ] = None
    validation_share: Annotated[
        float | None,
        option(
            "Inputs", help="part of the training data set aside for validation, as in `secateur prune`; 0.1 by default"
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        option(
            "Inputs",
            min=1,
            help="images per mini-batch: fewer take less memory, and batch norm is averaged over mini-batches; 128 by "
            "default",
        ),
    ] = None


@dataclass(frozen=True)
class BudgetOptions:
    """What the result may cost at most; all that are given hold."""

    macs: Annotated[Text, option("Budget", metavar="AMOUNT", help=f"multiply-adds per sample: {_AMOUNT}")] = None
    params: Annotated[Text, option("Budget", metavar="AMOUNT", help="parameters, tied ones once")] = None
    nonzeros: Annotated[Text, option("Budget", metavar="AMOUNT", help="parameters that are stored")] = None
    size_bytes: Annotated[Text, option("Budget", metavar="AMOUNT", help="bytes of the weights as saved")] = None
    activation_bytes: Annotated[
        Text, option("Budget", metavar="AMOUNT", help="peak bytes of activations alive, per sample")
    ] = None
    latency_ms: Annotated[Text, option("Budget", metavar="AMOUNT", help=_LATENCY)] = None
    latency_table: Annotated[
        Text, option("Budget", metavar="FILE", help="what `secateur measure` wrote for this network, for --latency-ms")
    ] = None


@dataclass(frozen=True)
class RestoreOptions:
    """What comes back right after every cut, before any training."""

    compensate: Annotated[
        Literal["none", "mean", "scale", "both"],
        option(
            "Restoring without training",
            help="re-fit the layers that read a cut one to the outputs before the cut: mean gives them a bias, scale a "
            "factor per input channel (least squares), both gives both; try both first, and alone",
        ),
    ] = "none"
    compensate_images: Annotated[
        int, option("Restoring without training", min=1, help="training images that --compensate looks at")
    ] = 512
    bn_images: Annotated[
        int,
        option(
            "Restoring without training",
            min=0,
            help="training images to measure the running statistics of batch norm on anew, after that; 0 leaves them. "
            "After --compensate this often costs accuracy on small networks: compare with and without",
        ),
    ] = 0


@dataclass(frozen=True)
class SearchOptions:
    """The smallest model within an accuracy, in place of a budget."""

    max_drop: Annotated[
        float | None,
        option(
            "Budget",
            metavar="POINTS",
            help="instead: the smallest model within so many points of the dense one's validation accuracy",
        ),
    ] = None
    shrink: Annotated[
        Text, option("Budget", help="what --max-drop makes small: macs (default), params, size_bytes, …")
    ] = None
    recovery_epochs: Annotated[
        int | None, option("Budget", min=0, help="of fine-tuning that each candidate of --max-drop gets; 1 by default")
    ] = None


@dataclass(frozen=True)
class ControlOptions:
    """A control to compare with."""

    control: Annotated[
        Literal["scratch"] | None,
        option("Training", help="scratch: train what the method found from random weights, as long as it fine-tunes"),
    ] = None


@dataclass(frozen=True)
class TrainingOptions:
    """How the cut model is fine-tuned, and the dense one trained where it has no weights."""

    epochs: Annotated[
        int,
        option(
            "Training",
            help="epochs of fine-tuning after the cut; gate_decorator and network_slimming fine-tune as published, but "
            "for what is given here",
        ),
    ] = 20
    learning_rate: Annotated[float, option("Training", "--lr", help="highest rate of fine-tuning")] = 0.01
    batch_size: Annotated[int, option("Training", help="samples per step")] = 128
    schedule: Annotated[
        Literal["constant", "step", "cosine", "triangular", "linear"],
        option("Training", help="of the learning rate"),
    ] = "cosine"
    weight_decay: Annotated[float, option("Training", help="of fine-tuning")] = 5e-4
    label_smoothing: Annotated[float, option("Training", help="of fine-tuning, in [0, 1)")] = 0.0
    distill: Annotated[bool, option("Training", "--distill/--no-distill", help="also learn from the dense model")] = (
        False
    )
    temperature: Annotated[
        float, option("Training", "--distill-temperature", help="softens the dense model's outputs")
    ] = 4.0
    weight: Annotated[
        float, option("Training", "--distill-weight", help="of the dense model's outputs against the labels")
    ] = 0.9
    train_epochs: Annotated[
        int, option("Training", help="first train the dense model so long, where it has no weights")
    ] = 0
    train_lr: Annotated[float, option("Training", help="highest learning rate of that training")] = 0.1


@dataclass(frozen=True)
class CommonOptions:
    """What every command has."""

    seed: Annotated[int, option(None, help="of every random draw")] = 0
    threads: Annotated[int | None, option(None, help="CPU threads; without it, as torch chooses")] = None
    device: Annotated[str, option(None, help="auto, cpu, cuda, cuda:1 or mps")] = "auto"
    as_json: Annotated[bool, option(None, "--json", help="print the result as JSON")] = False
    quiet: Annotated[bool, option(None, "--quiet", "-q", help="show no progress")] = False
    verbose: Annotated[bool, option(None, "--verbose", "-v", help="show where an error came from")] = False


@dataclass(frozen=True)
class RunOptions:
    """Where a run goes."""

    out: Annotated[Path, option(None, "--out", "-o", help="folder of the run; made if it is not there")] = Path(
        "secateur-run"
    )
    force: Annotated[bool, option(None, "--force", help="start over in the folder of another run")] = False
