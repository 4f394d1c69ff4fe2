"""What a model file says beside its tensors; see FORMAT.md."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from secateur.data import DataSource, Normalization
from secateur.errors import ArtifactError, PlanError
from secateur.export.packing import packed, unpacked
from secateur.graph import Plan
from secateur.graph.folded_layers import FoldedLayer
from secateur.tensor_file import Container, parse_json, shown
from secateur.user_code import names_user_code

FORMAT = "secateur-model"
VERSION = 1
KEY = "secateur"  # the one key in __metadata__
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes an input of the network: (pixel / peak − mean) / std.

    Attributes:
        mean: one per channel, of pixels divided by ``peak``.
        std: one per channel, above 0.
        size: (height, width).
        channels: of the image.
        labels: class names in the order of the outputs; may be empty.
        peak: the pixel value that counts as 1.

    Raises:
        ArtifactError: the numbers do not fit each other.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    channels: int
    labels: tuple[str, ...] = ()
    peak: float = 255.0

    def __post_init__(self) -> None:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ArtifactError(
                f"the preprocessing has {len(self.mean)} mean and {len(self.std)} std values for {self.channels} "
                "channels; give one of each per channel"
            )
        numbers = (*self.mean, *self.std, self.peak)
        if not all(map(math.isfinite, numbers)) or min(*self.std, self.peak) <= 0 or min(*self.size, self.channels) < 1:
            raise ArtifactError(
                f"the preprocessing has mean {self.mean}, std {self.std}, peak {self.peak} and size {self.size}; "
                "all must be finite, and std, peak and size above 0"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one sample."""
        return (self.channels, *self.size)

    @property
    def normalization(self) -> Normalization:
        """Mean and std in the form that data sets take."""
        return Normalization(self.mean, self.std)


def preprocessing_of(data: DataSource) -> Preprocessing:
    """Return the preprocessing that ``data`` applies to its images."""
    channels, height, width = data.sample_shape
    normalization = data.normalization.for_channels(channels)
    return Preprocessing(
        mean=normalization.mean,
        std=normalization.std,
        size=(height, width),
        channels=channels,
        labels=tuple(data.class_names),
        peak=float(getattr(data, "peak", 255.0)),
    )


@dataclass(frozen=True, kw_only=True)
class Builder:
    """What builds the dense model: a name for ``secateur.models.build_model`` and its arguments.

    A ``file.py:function`` is kept without its folder, and is only a note: a file never makes code run.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    arguments: dict[str, int] = field(default_factory=dict)

    @property
    def is_user_code(self) -> bool:
        """Whether it names a function in a file of the user."""
        return names_user_code(self.name)

    def without_folder(self) -> "Builder":
        """Return it without the folder of a user's file, which is nobody else's business."""
        if not self.is_user_code:
            return self
        file, _, function = self.name.rpartition(":")
        return Builder(name=f"{Path(file).name}:{function}", arguments=self.arguments)


def as_builder(builder: Builder | str) -> Builder:
    """Return a builder without arguments for a name."""
    return Builder(name=builder) if isinstance(builder, str) else builder


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What the cut model looks like; the attributes are the keys that FORMAT.md describes."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model_class: str
    shapes: dict[str, tuple[int, ...]]
    buffers: tuple[str, ...] = ()
    non_persistent: tuple[str, ...] = ()
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    attributes: dict[str, dict[str, int | tuple[int, ...]]] = field(default_factory=dict)
    channels_last: tuple[str, ...] = ()
    folded: dict[str, FoldedLayer] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Header:
    """The value of the ``secateur`` key."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    spec: Spec
    plan: JsonValue
    preprocessing: Preprocessing | None
    builder: Builder | None
    provenance: dict[str, JsonValue]
    format: str = FORMAT
    version: int = VERSION

    def to_text(self) -> str:
        """Return it as JSON.

        Raises:
            ArtifactError: the provenance holds something that JSON cannot say.
        """
        try:
            return json.dumps(_HEADER.dump_python(self, mode="json"), allow_nan=False, separators=(",", ":"))
        except (ValueError, TypeError) as error:
            raise ArtifactError(
                f"the header cannot be written: {_first(error)}; provenance takes JSON values only"
            ) from error


_HEADER = TypeAdapter(Header)


def read_header(container: Container, path: Path) -> tuple[Header, Plan | None]:
    """Return the header and the plan in it, checked against each other and against the stored tensors.

    Raises:
        ArtifactError: it is missing, malformed, of another version, or inconsistent.
    """
    if KEY not in container.metadata:
        raise ArtifactError(
            f"{path} holds tensors but no model (no {KEY!r} in its metadata); read it as a plain weight file"
        )
    text = container.metadata[KEY]
    content = parse_json(text, f"the {KEY!r} metadata of {path}")
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found == "secateur-sparse":
        raise ArtifactError(f"{path} is a sparse file; make a model file of it first, with secateur unpack {path}")
    if isinstance(content, dict) and content.get("kind") == "simulation":
        raise ArtifactError(
            f"{path} is a simulation of an INT8 model, not a model file; give the model file that it was made of, or "
            "the INT8 file beside it where an .onnx file will do"
        )
    if found != FORMAT:
        raise ArtifactError(
            f"{path} has the format {shown(found)!r} instead of {FORMAT!r}; save it again with secateur.save"
        )
    if type(content.get("version")) is not int or content["version"] != VERSION:
        raise ArtifactError(
            f"{path} has format version {shown(content.get('version'))}, but this secateur reads version {VERSION}; "
            "read it with the secateur that wrote it"
        )
    missing = {"spec", "plan", "preprocessing", "builder", "provenance"} - set(content)
    if missing:
        raise ArtifactError(f"the header of {path} lacks {', '.join(sorted(missing))}; save the model again")
    try:
        header = _HEADER.validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"the header of {path} is malformed: {_first(error)}; save the model again") from error
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    plan = None if header.plan is None else _plan(content["plan"], path)
    _check_stored(header.spec, container, path)
    _check_plan_leads_to(header.spec, plan, path)
    return header, plan


def _plan(content: Any, path: Path) -> Plan:
    try:
        plan = Plan.from_json(unpacked(content, path))
        canonical = packed(plan.to_json()) == content
    except (PlanError, ValueError, OverflowError, RecursionError, TypeError) as error:
        raise ArtifactError(f"the plan in {path} is refused: {shown(error, 200)}") from error
    if not canonical:
        raise ArtifactError(
            f"the plan in {path} is not spelt as secateur spells it; it was edited, save the model again"
        )
    ghosts = sorted(set(plan.sizes) - set(plan.kept))
    if ghosts:
        raise ArtifactError(f"the plan in {path} gives a size but no units of group {shown(ghosts[0])}; save it again")
    return plan


def _check_stored(spec: Spec, container: Container, path: Path) -> None:
    for name, stored in container.tensors.items():
        if spec.shapes.get(name) != stored.shape:
            listed = f"shape {spec.shapes[name]}" if name in spec.shapes else "no such tensor"
            raise ArtifactError(
                f"{path} holds {name} of shape {stored.shape}, but its spec lists {listed}; save the model again"
            )
    buffers = set(spec.buffers)
    absent = next((name for name in spec.shapes if name not in buffers and name not in container.tensors), None)
    if absent is not None:
        raise ArtifactError(
            f"{path} does not hold the parameter {shown(absent)} that its spec lists; save the model again"
        )


def _check_plan_leads_to(spec: Spec, plan: Plan | None, path: Path) -> None:
    if plan is None:
        return
    if plan.model_class != spec.model_class:
        raise ArtifactError(
            f"{path} is a {shown(spec.model_class)}, but its plan is for {shown(plan.model_class)}; save it again"
        )
    for name in (*spec.shapes, *plan.shapes):
        after, listed = plan.shapes_after.get(name), spec.shapes.get(name)
        if after != listed:
            raise ArtifactError(
                f"the plan in {path} gives {shown(name)} the shape {after}, but the spec lists {listed}; "
                "save the model again"
            )


def _first(error: Exception) -> str:
    """Return the first complaint in one line."""
    if isinstance(error, ValidationError):
        detail: Mapping[str, Any] = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, detail["loc"])) or "the object"
        return f"{shown(place, 120)}: {shown(detail['msg'], 120)}"
    return shown(error, 200)


_PREPROCESSING = TypeAdapter(Preprocessing)


def preprocessing_to_json(preprocessing: Preprocessing) -> str:
    """Return ``preprocessing`` as JSON text."""
    return _PREPROCESSING.dump_json(preprocessing).decode()


def preprocessing_from_json(text: str, what: str) -> Preprocessing:
    """Return what :func:`preprocessing_to_json` wrote.

    Raises:
        ArtifactError: it is malformed; ``what`` begins the sentence.
    """
    try:
        return _PREPROCESSING.validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"{what} is malformed: {_first(error)}") from error
