"""``save``, ``load`` and ``inspect``: one safetensors file is a pruned model. The format is in FORMAT.md."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import JsonValue
from torch import nn

from secateur import graph
from secateur.errors import ArtifactError, PlanError
from secateur.export.attributes import check_attributes
from secateur.export.fitting import check_attribute_values, check_fits, check_kind, refitted
from secateur.export.header import KEY, Builder, Header, Preprocessing, Spec, as_builder, read_header
from secateur.export.packing import packed
from secateur.export.stored import LAYOUTS, check_plan_of, is_saved, refuse_unsaveable, spec_of
from secateur.files import whole_file
from secateur.graph import Plan
from secateur.graph.plan import fingerprint_of
from secateur.graph.slots import StoredTensor, refuse_wrappers, stored_tensors
from secateur.models.selection import ChannelSelection
from secateur.record import environment
from secateur.tensor_file import Container, StoredShape, read_container, shown


@dataclass(frozen=True, kw_only=True)
class ArtifactInfo:
    """What the header of a model file says.

    Attributes:
        size_bytes: of the file.
        tensors: name → type and shape of each stored tensor.
        spec: the cut model: class, shapes, buffers, tied names.
        plan: what was cut, or None for an uncut model.
        preprocessing: how an image becomes an input, or None.
        builder: what builds the dense model, or None.
        provenance: versions and what the writer noted.
    """

    size_bytes: int
    tensors: Mapping[str, StoredShape]
    spec: Spec
    plan: Plan | None
    preprocessing: Preprocessing | None
    builder: Builder | None
    provenance: Mapping[str, JsonValue]

    @property
    def model_class(self) -> str:
        """Qualified name of the model's class."""
        return self.spec.model_class

    @property
    def params(self) -> int:
        """Number of parameters, tied ones once."""
        buffers = set(self.spec.buffers)
        return sum(math.prod(shape) for name, shape in self.spec.shapes.items() if name not in buffers)

    @property
    def dense_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the model before the cut."""
        return self.spec.shapes if self.plan is None else self.plan.shapes


def save(
    model: nn.Module,
    path: Path | str,
    *,
    plan: Plan | None = None,
    preprocessing: Preprocessing | None = None,
    builder: Builder | str | None = None,
    provenance: Mapping[str, JsonValue] | None = None,
) -> None:
    """Write ``model`` to one ``.safetensors`` file, whole or not at all; equal arguments give equal bytes.

    Args:
        model: the cut model.
        path: where to; folders are made.
        plan: what was cut from the dense model (several cuts composed with ``Plan.then``); None for an uncut model.
        preprocessing: how an image becomes an input.
        builder: what builds the dense model, so that the file can be loaded without being given one.
        provenance: JSON values to note: fingerprint of the source weights, metrics, a time. Versions are added.

    Raises:
        ArtifactError: the plan does not describe ``model``, or something cannot be stored.
        TraceError: ``model`` is a wrapper, compiled or scripted.
        UsageError: the file cannot be written.
    """
    refuse_wrappers(model)
    stored = stored_tensors(model)
    refuse_unsaveable(model, stored)
    check_plan_of(model, stored, plan)
    chosen = {name: entry.tensor for name, entry in stored.items() if is_saved(entry, plan)}
    place = environment()
    header = Header(
        spec=spec_of(model, stored, chosen, plan),
        plan=None if plan is None else packed(plan.to_json()),
        preprocessing=preprocessing,
        builder=None if builder is None else as_builder(builder).without_folder(),
        provenance={"versions": {"secateur": place.secateur, "torch": place.torch}, **(provenance or {})},
    )
    text = header.to_text()
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in chosen.items()}
    # Views of one storage are not the same tensor; the container has a place for each.
    storages: set[int] = set()
    for name, tensor in plain.items():
        if tensor.untyped_storage().data_ptr() in storages:
            plain[name] = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
    with whole_file(path) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, metadata={KEY: text})
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error
        try:
            read_header(read_container(temporary), temporary)
        except ArtifactError as error:
            raise ArtifactError(
                f"the model cannot be saved: {str(error).replace(str(temporary), str(path))}"
            ) from error


def load(model: nn.Module, path: Path | str) -> nn.Module:
    """Return ``model`` cut as the file says, with the tensors of the file, in their types; ``model`` stays as it was.

    Args:
        model: the dense model, freshly built, of the class that was saved.
        path: what :func:`save` wrote.

    Raises:
        ArtifactError: the file is missing, corrupt, hostile, or does not fit ``model``; it says which tensor or class.
        SurgeryError: ``model`` cannot be copied.
    """
    path = Path(path)
    container = read_container(path)
    header, plan = read_header(container, path)
    spec = header.spec
    refuse_wrappers(model)
    if plan is None:
        plan = _empty_plan(spec)
    model = refitted(model, spec, plan.shapes, path)
    stored = stored_tensors(model)
    check_fits(model, stored, spec, plan, path)
    try:
        check_attributes(model, plan)
        small = graph.apply(model, plan, verify_with=None)
    except (ArtifactError, PlanError) as error:
        raise ArtifactError(f"{path} does not fit this {type(model).__name__}: {error}") from error
    check_attribute_values(small, spec, path)
    targets = stored_tensors(small)
    strange = next(iter(set(targets) ^ set(plan.shapes_after)), None)
    if strange is not None:
        raise ArtifactError(
            f"{path} drops blocks in a way that does not leave {shown(strange)} as its spec has it; "
            "save the model again"
        )
    for name, entry in targets.items():
        if is_saved(entry, plan) and name not in container.tensors:
            raise ArtifactError(
                f"{path} does not hold {name}, which {type(model).__name__} needs; save the model again"
            )
        if name in container.tensors:
            check_kind(entry, container.tensors[name], path)
    _fill(targets, container, set(spec.channels_last), path)
    _check_selections(small, path)
    return small


def inspect(path: Path | str) -> ArtifactInfo:
    """Return what a model file says of itself; only its header is read.

    Raises:
        ArtifactError: the file is missing, corrupt or hostile.
    """
    path = Path(path)
    container = read_container(path)
    header, plan = read_header(container, path)
    return ArtifactInfo(
        size_bytes=container.size_bytes,
        tensors=container.tensors,
        spec=header.spec,
        plan=plan,
        preprocessing=header.preprocessing,
        builder=header.builder,
        provenance=header.provenance,
    )


def file_fingerprint(path: Path | str) -> str:
    """Return a hash of a file's content, to note in the provenance where weights came from.

    Raises:
        ArtifactError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}; give a file that can be read") from error


def _check_selections(model: nn.Module, path: Path) -> None:
    """Refuse indices that a selection of channels cannot have: as many as there are channels pass for all of them.

    Raises:
        ArtifactError: they do not rise from 0 or more on.
    """
    for name, module in model.named_modules():
        if isinstance(module, ChannelSelection) and not module.is_sound():
            raise ArtifactError(f"{path} is corrupt: {name}.indices are not rising channel numbers from 0 on")


def _fill(targets: Mapping[str, StoredTensor], container: Container, channels_last: set[str], path: Path) -> None:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            for name in container.tensors:
                tensor = targets[name].tensor
                # Cloned, because the file is mapped into memory and may change.
                data = file.get_tensor(name).clone().to(tensor.device)
                if tuple(data.shape) != tuple(tensor.shape):
                    raise ArtifactError(f"{path} changed while it was read; load it again")
                if name in channels_last and data.dim() in LAYOUTS:
                    data = torch.empty_like(data, memory_format=LAYOUTS[data.dim()]).copy_(data)
                tensor.data = data
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise ArtifactError(f"cannot read the tensors of {path} ({shown(error, 120)}); copy it again") from error


def _empty_plan(spec: Spec) -> Plan:
    nothing: dict[str, Any] = {"kept": {}, "sizes": {}, "cuts": (), "attributes": (), "regrouped": frozenset()}
    return Plan(
        fingerprint=fingerprint_of(spec.model_class, spec.shapes),
        model_class=spec.model_class,
        shapes=spec.shapes,
        **nothing,
    )
