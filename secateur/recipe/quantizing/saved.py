"""``quantize_named``: the five steps for a model that is named, as the command does them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, JsonValue, TypeAdapter
from torch import nn

from secateur.data import DataSource
from secateur.errors import UsageError
from secateur.export import file_fingerprint, load_built
from secateur.export import inspect as inspect_file
from secateur.recipe.fingerprints import with_data_fingerprint
from secateur.recipe.plans import is_model_file
from secateur.recipe.quantizing.call import QuantizeResult, quantize
from secateur.recipe.quantizing.settings import Quantize
from secateur.recipe.quantizing.stages import QuietStages, Stages
from secateur.recipe.rundir import FILES
from secateur.recipe.saved import data_for, require_code
from secateur.recipe.settings import DataChoice, Machine, ModelChoice
from secateur.recipe.subject import build_subject, fingerprinted, read_data, settle


@dataclass(frozen=True, kw_only=True)
class QuantizeJob:
    """Which model, on which data, and how it is brought to integers."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: ModelChoice  # its ``spec`` is a name with weights beside it, or the path of a model file
    code: str | None = None  # file.py:function that builds the network of a model file
    data: DataChoice
    quantize: Quantize = field(default_factory=Quantize)
    seed: int = 0
    machine: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        """Refuse a model that cannot be meant.

        Raises:
            UsageError: it has no weights, or has them twice, or is a file of another kind.
        """
        spec = self.model.spec
        if spec.endswith(".onnx"):
            raise UsageError(f"{spec} is an ONNX file; give the model file beside it, such as model.safetensors")
        if self.is_file:
            self._check_file()
            return
        if self.model.weights is None and Path(spec).is_dir():
            raise UsageError(f"{spec} is a folder; give the model file in it, such as {Path(spec, FILES['model'])}")
        if self.model.weights is None and Path(spec).is_file():
            raise UsageError(f"{spec} is no model file; give a .safetensors file of secateur, or a name with --weights")
        if self.code is not None:
            raise UsageError(
                f"--model {self.code} builds the network of a model file, but {spec} is none; leave it out"
            )
        if self.model.weights is None:
            raise UsageError(
                f"the model {spec} has no weights, and ranges of random ones mean nothing: give the file of a trained "
                "model with --weights, or a model file in place of the name"
            )

    def _check_file(self) -> None:
        """Refuse what a model file says of itself."""
        spec = self.model.spec
        if self.model.weights is not None:
            raise UsageError(f"{spec} is a model file, which has its weights; leave out --weights")
        if self.model.num_classes is not None:
            raise UsageError(
                f"{spec} is a model file, which has its classes, but --num-classes is {self.model.num_classes}; leave "
                "it out"
            )
        if self.model.fold_weight_standardisation:
            raise UsageError(
                f"{spec} is a model file, whose layers stay as they were saved; leave out --fold-weight-standardisation"
            )

    @property
    def is_file(self) -> bool:
        """Whether the model is a model file."""
        return self.model.spec.endswith(".safetensors") or is_model_file(Path(self.model.spec))

    def to_json(self) -> dict[str, JsonValue]:
        """Return all settings as JSON."""
        values: dict[str, JsonValue] = _JOB.dump_python(self, mode="json")
        return values


_JOB: TypeAdapter[QuantizeJob] = TypeAdapter(QuantizeJob)


def quantize_named(
    job: QuantizeJob,
    out: Path | str,
    *,
    force: bool = False,
    command: Sequence[str] = (),
    stages: Stages = QuietStages(),  # noqa: B008  (holds nothing)
) -> QuantizeResult:
    """Load a model and data, and bring the model to INT8; see :func:`quantize`. The same job is not done twice.

    Raises:
        SecateurError: as :func:`quantize`, and whatever is wrong with the files.
    """
    device = settle(job.machine)
    job, model, data = _loaded(job)
    return quantize(
        model,
        data,
        out,
        settings=job.quantize,
        seed=job.seed,
        device=str(device),
        threads=job.machine.threads or 1,
        force=force,
        described=job.to_json(),
        command=command,
        stages=stages,
    )


def _loaded(job: QuantizeJob) -> tuple[QuantizeJob, nn.Module, DataSource]:
    """Return the job with its fingerprints, and what it names."""
    if not job.is_file:
        choice, data_choice = fingerprinted(job.model, job.data, job.machine)
        data = read_data(data_choice, job.machine, model=choice.spec)
        return replace(job, model=choice, data=data_choice), build_subject(choice, data=data, seed=job.seed).model, data
    path = Path(job.model.spec)
    info = inspect_file(path)
    require_code(path, info, job.code)
    if job.data.download:
        read_data(job.data, job.machine)
    data = data_for(path, job.data, info.preprocessing, job.machine)
    noted = replace(job.model, weights_fingerprint=file_fingerprint(path))
    return replace(job, model=noted, data=with_data_fingerprint(job.data)), load_built(path, code=job.code), data
