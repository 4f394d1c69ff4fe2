"""A simulation's state as one safetensors file: folded (and trained) weights, steps and zero points; never a pickle.

The tensors are those of ``simulation.module.state_dict()``. The header's metadata has the one key ``secateur``: JSON
with ``format`` (1), ``kind`` ("simulation"), ``settings``, ``float`` (sites that stay off), ``learned`` (sites whose
step is a parameter), ``rounds``, ``images`` and ``notes``.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch

from secateur.errors import ArtifactError
from secateur.files import whole_file
from secateur.tensor_file import Container, parse_json, read_container, shown

if TYPE_CHECKING:
    from secateur.quantization.simulation import Simulation

FORMAT = 1
_KEY = "secateur"
_KINDS = {"format": int, "kind": str, "settings": dict, "float": list, "learned": list, "rounds": bool}
_KINDS |= {"images": int, "notes": dict}


@dataclass(frozen=True)
class Settings:
    """What a simulation was made with."""

    profile: str
    weight_bits: int
    activation_bits: int
    per_tensor_weights: bool


def save(simulation: "Simulation", path: Path | str) -> None:
    """Write the state of ``simulation``, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    header = {
        "format": FORMAT,
        "kind": "simulation",
        "settings": dataclasses.asdict(simulation.settings),
        "float": sorted(simulation.left_in_float),
        "learned": sorted(name for name, site in simulation.sites.items() if site.learned),
        "rounds": simulation.rounds,
        "images": simulation.images,
        "notes": dict(simulation.notes),
    }
    # Copies, because the format does not know tensors that share memory.
    tensors = {
        name: value.detach().cpu().contiguous().clone() for name, value in simulation.module.state_dict().items()
    }
    with whole_file(path) as temporary:
        try:
            safetensors.torch.save_file(tensors, temporary, metadata={_KEY: json.dumps(header)})
        except safetensors.SafetensorError as error:  # a full disk, which it does not report as an OSError
            raise OSError(str(error)) from error


def load(simulation: "Simulation", path: Path | str) -> None:
    """Give ``simulation`` the state that :func:`save` wrote; nothing changes if it does not fit.

    Args:
        simulation: of the same model and with the same settings.
        path: the file.

    Raises:
        ArtifactError: the file is missing, is no such state, or that of another model or other settings.
    """
    path = Path(path)
    container = read_container(path)
    header = _header(container, path)
    settings = dataclasses.asdict(simulation.settings)
    if header["settings"] != settings:
        raise ArtifactError(
            f"{path} is a simulation with {shown(header['settings'], 120)}, but this one has {shown(settings, 120)}; "
            "make it with the same settings"
        )
    own = {name: (value.dtype, tuple(value.shape)) for name, value in simulation.module.state_dict().items()}
    stored = {name: (entry.dtype, entry.shape) for name, entry in container.tensors.items()}
    for name in (*own, *stored):
        if own.get(name) != stored.get(name):
            raise ArtifactError(
                f"{path} does not fit this model: {shown(name)} is {_described(stored.get(name))} there and "
                f"{_described(own.get(name))} here; simulate the model that it was written for"
            )
    sites = simulation.sites
    unknown = [name for name in (*header["float"], *header["learned"]) if name not in sites]
    if unknown:
        raise ArtifactError(f"{path} names the site {shown(unknown[0])}, which this model has not; write it again")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in container.tensors}
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtifactError(f"cannot read {path}: {shown(error)}; check the file and its permissions") from error
    for name, site in sites.items():
        (site.learn if name in header["learned"] else site.freeze)()
    simulation.module.load_state_dict(tensors)
    simulation.float_sites(header["float"])
    simulation.notes, simulation.images = dict(header["notes"]), header["images"]
    simulation.round_(header["rounds"])


def _header(container: Container, path: Path) -> dict[str, Any]:
    if list(container.metadata) != [_KEY]:
        raise ArtifactError(f"{path} is no simulation: its metadata has not the key {_KEY!r} alone")
    header = parse_json(container.metadata[_KEY], f"the description of {path}")
    fits = isinstance(header, dict) and set(header) == set(_KINDS)
    if not fits or any(type(header[name]) is not kind for name, kind in _KINDS.items()):
        raise ArtifactError(f"{path} is no simulation: it does not describe itself as one; write it again")
    if header["kind"] != "simulation" or header["format"] != FORMAT:
        raise ArtifactError(
            f"{path} holds a {shown(header['kind'])} of format {header['format']}, but a simulation of format {FORMAT} "
            "is read; write it again"
        )
    if not all(isinstance(name, str) for key in ("float", "learned", "notes") for name in header[key]):
        raise ArtifactError(f"{path} names its sites by something else than text; write it again")
    return dict(header)


def _described(found: tuple[object, tuple[int, ...]] | None) -> str:
    return "missing" if found is None else f"{found[0]} of shape {found[1]}"
