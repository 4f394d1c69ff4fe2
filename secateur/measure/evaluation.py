"""What a saved file itself computes: its accuracy, and how far two of them agree."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.data import DataSource
from secateur.data.source import Split
from secateur.errors import DataError
from secateur.export import OnnxModel, Preprocessing, inspect, load, load_built
from secateur.measure.threads import torch_threads
from secateur.record import Evaluation
from secateur.training import IGNORED, eval_mode, evaluate, evaluate_segmentation, task_of
from secateur.training.segmentation import evaluated_batch_size, main_logits, pixel_cross_entropy

Classifier = Callable[[Tensor], Any]
"""Maps inputs (N, C, H, W) to logits (N, classes), or (N, classes, H, W) of segmentation, perhaps in a dict under
``out``: a torch module in eval mode, or an :class:`OnnxModel`."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two classifiers agree on the same samples, or two segmentation networks on the same labelled pixels.

    Attributes:
        samples: compared: images, or labelled pixels.
        equal: of these, how many have the same most likely class.
        max_difference: largest difference of two logits, in the logits' own unit.
        scale: largest absolute logit of the first.
    """

    samples: int
    equal: int
    max_difference: float
    scale: float

    @property
    def share(self) -> float:
        """Share of samples or pixels for which the most likely class is the same, in [0, 1]."""
        return self.equal / self.samples


def evaluate_artifact(
    path: Path | str,
    data: DataSource,
    *,
    split: Split = "test",
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    model: nn.Module | None = None,
    code: str | None = None,
    threads: int | None = None,
) -> Evaluation:
    """Return the averages per sample of the model in a ``.safetensors`` or ``.onnx`` file.

    The sums are taken in float64, so that the two files of one model give the same numbers, as far as their logits do.

    Args:
        path: the file. An ``.onnx`` file runs in ONNX Runtime on the CPU, whatever ``device`` is.
        data: where samples come from.
        split: which samples, in stored order.
        batch_size: samples per batch, at most; of segmentation fewer where their logits would take much room. The
            result does not depend on it beyond rounding.
        device: for a ``.safetensors`` file.
        model: the freshly built dense model of a ``.safetensors`` file, where its builder is not to be used.
        code: ``file.py:function`` that builds it, for a file that was built by such a function.
        threads: for the CPU; None leaves torch's number, which ONNX Runtime then gets too.

    Raises:
        ArtifactError: the file cannot be read, or does not fit ``model``.
        DataError: the data does not fit the model: image shape, number of classes, normalisation.
    """
    with torch_threads(threads):
        classifier, preprocessing = open_classifier(path, device=device, model=model, code=code)
        check_data(data, preprocessing, str(path))
        if isinstance(classifier, OnnxModel):
            check_input_shape(data, classifier)
            device = "cpu"
        batch_size = _batch_size(data, batch_size)
        batches = data.batches(split, batch_size=batch_size, seed=None, device=device)
        with _failures_named(str(path), data):
            if task_of(data) == "segmentation":
                return evaluate_segmentation(
                    _outputs_of(classifier), batches, loss=_pixel_loss64, classes=data.num_classes
                )
            return evaluate(classifier, batches, loss=_loss64, classes=data.num_classes)


def open_classifier(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    model: nn.Module | None = None,
    code: str | None = None,
) -> tuple[nn.Module | OnnxModel, Preprocessing | None]:
    """Return what runs the file, and how it wants its images; see :func:`evaluate_artifact`.

    Raises:
        ArtifactError: the file cannot be read, or does not fit ``model``.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        runnable = OnnxModel(path, threads=torch.get_num_threads())
        return runnable, runnable.preprocessing
    preprocessing = inspect(path).preprocessing
    small = load(model, path) if model is not None else load_built(path, code=code)
    return small.to(device).eval(), preprocessing


def compare_predictions(
    first: Classifier,
    second: Classifier,
    data: DataSource,
    *,
    split: Split = "test",
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Agreement:
    """Compare the logits of two classifiers on every sample of a split, or of segmentation on every labelled pixel.

    Args:
        first: a module (run in eval mode, on ``device``) or an :class:`OnnxModel`.
        second: likewise.
        data: where samples come from.
        split: which samples, in stored order.
        batch_size: samples per batch.
        device: where the samples go.

    Raises:
        DataError: the outputs differ in shape, or the split is empty.
    """
    samples = equal = 0
    difference = scale = 0.0
    segments = task_of(data) == "segmentation"
    if segments:
        first, second = _outputs_of(first), _outputs_of(second)
    batches = data.batches(split, batch_size=_batch_size(data, batch_size), seed=None, device=device)
    for images, labels in batches:
        one, other = (_logits(classifier, images) for classifier in (first, second))
        if segments:
            one, other = (_of_labelled(logits, labels, data.num_classes) for logits in (one, other))
        one, other = one.double().cpu(), other.double().cpu()
        if one.shape != other.shape or one.dim() != 2:
            raise DataError(
                f"the two models return logits of shape {tuple(one.shape)} and {tuple(other.shape)}; "
                "compare two classifiers of the same classes"
            )
        samples += len(one)
        equal += int((one.argmax(1) == other.argmax(1)).sum())
        if len(one) == 0:
            continue  # no pixel of these images has a label
        # NaN must show, and max() would drop it.
        difference = float(torch.maximum((one - other).abs().max(), torch.tensor(difference, dtype=torch.float64)))
        scale = float(torch.maximum(one.abs().max(), torch.tensor(scale, dtype=torch.float64)))
    if samples == 0:
        what = "has no labelled pixel" if segments else "is empty"
        raise DataError(f"the {split} split of {data.name} {what}; choose another")
    return Agreement(samples=samples, equal=equal, max_difference=difference, scale=scale)


def check_data(data: DataSource, preprocessing: Preprocessing | None, name: str) -> None:
    """Refuse data whose images are not prepared as the file ``name`` says.

    Raises:
        DataError: image shape or normalisation differ.
    """
    if preprocessing is None:
        return
    if tuple(data.sample_shape) != preprocessing.input_shape:
        raise DataError(
            f"the images of {data.name} have shape {tuple(data.sample_shape)}, but {name} was made for "
            f"{preprocessing.input_shape} (channels, height, width); choose its own data"
        )
    own, wanted = data.normalization.for_channels(data.sample_shape[0]), preprocessing.normalization
    pairs = zip((*own.mean, *own.std), (*wanted.mean, *wanted.std), strict=True)
    if any(abs(first - second) > 1e-6 for first, second in pairs):
        raise DataError(
            f"the images of {data.name} are normalised with {own}, but {name} was made for {wanted}; "
            f"load the data with that normalisation"
        )


def check_input_shape(data: DataSource, runnable: OnnxModel) -> None:
    """Refuse data whose images the ONNX file does not take.

    Raises:
        DataError: the shapes differ, or the file takes several inputs.
    """
    if len(runnable.input_shapes) != 1:
        raise DataError(f"{runnable.path} takes {len(runnable.input_shapes)} inputs, but {data.name} gives images only")
    wanted = runnable.input_shapes[0][1:]
    sizes = tuple(data.sample_shape)
    if len(wanted) != len(sizes) or any(w is not None and w != s for w, s in zip(wanted, sizes, strict=True)):
        raise DataError(
            f"the images of {data.name} have shape {sizes}, but {runnable.path} takes "
            f"{tuple('any' if size is None else size for size in wanted)}; choose its own data"
        )


def _outputs_of(classifier: Classifier) -> Classifier:
    """Return what gives all outputs of an ONNX file by their names, where it has several; anything else as it is."""
    if not isinstance(classifier, OnnxModel) or len(classifier.output_names) == 1:
        return classifier
    names, run = classifier.output_names, classifier.run
    return lambda images: dict(zip(names, run(images), strict=True))


def _logits(classifier: Classifier, images: Tensor) -> Any:
    if not isinstance(classifier, nn.Module):
        return classifier(images)
    with eval_mode(classifier), torch.no_grad():
        return classifier(images)


def _of_labelled(outputs: Any, masks: Tensor, classes: int) -> Tensor:
    """Return the logits of the labelled pixels, (pixels, classes)."""
    logits = main_logits(outputs, masks, classes)
    return logits.movedim(1, -1)[masks.to(logits.device) != IGNORED]


def _batch_size(data: DataSource, asked: int) -> int:
    return evaluated_batch_size(asked, data.sample_shape) if task_of(data) == "segmentation" else asked


def _pixel_loss64(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean cross entropy over labelled pixels in float64; see :func:`_loss64`."""
    return pixel_cross_entropy(logits.double() if logits.device.type != "mps" else logits, masks)


def _loss64(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy in float64, so that sums over batches lose nothing."""
    wide = logits.double() if logits.device.type != "mps" else logits  # which has no float64
    return F.cross_entropy(wide, labels)


@contextlib.contextmanager
def _failures_named(name: str, data: DataSource) -> Iterator[None]:
    """Turn the failure of a forward pass on the data's images into one sentence."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:  # none of them an error of ours
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{name} does not run on images of shape {tuple(data.sample_shape)} of {data.name}: {first}; "
            "choose the data that it was trained on"
        ) from error
