"""Networks of torchvision and timm, by name and without weights."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from torch import nn

from secateur.errors import ModelError, UsageError
from secateur.names import nearest_name, unknown_name
from secateur.torchvision_shim import import_torchvision

_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Library(Protocol):
    """A package that builds networks by name."""

    def require(self, name: str) -> None:
        """Raise UsageError, with the nearest name, where the package has no network of this name."""
        ...

    def build(self, name: str, *, num_classes: int | None, in_channels: int | None) -> nn.Module:
        """Return the network without trained weights; None leaves a number as the package has it."""
        ...

    def input_shape(self, name: str) -> tuple[int, int, int] | None:
        """Return (C, H, W), or None where the package does not say."""
        ...

    def normalization(self, name: str) -> str | None:
        """Return a name or numbers that :func:`secateur.data.normalization_named` reads, or None."""
        ...


@dataclass(frozen=True)
class Torchvision:
    """``torchvision:NAME``."""

    def require(self, name: str) -> None:
        """Refuse a name that ``torchvision.models`` does not have."""
        _require("torchvision", name, _torchvision_models().list_models())

    def build(self, name: str, *, num_classes: int | None, in_channels: int | None) -> nn.Module:
        """Return the network with random weights, its backbone included.

        Raises:
            UsageError: ``in_channels`` is not 3.
            ModelError: torchvision cannot build it.
        """
        if in_channels not in (None, 3):
            raise UsageError(
                f"torchvision:{name} takes images of 3 channels, not {in_channels}; try timm:NAME, "
                f"or change the first layer in a file.py:function"
            )
        builder = _torchvision_models().get_model_builder(name)
        arguments: dict[str, Any] = {"weights": None}
        if "weights_backbone" in inspect.signature(builder).parameters:
            arguments["weights_backbone"] = None  # detectors would otherwise download one
        if name in ("googlenet", "inception_v3"):
            arguments["init_weights"] = True  # what it does anyway, after a warning
        if num_classes is not None:
            arguments["num_classes"] = num_classes
        try:
            made: nn.Module = builder(**arguments)
        except Exception as error:
            raise ModelError(f"torchvision:{name} cannot be built: {error}") from error
        return made

    def input_shape(self, name: str) -> tuple[int, int, int] | None:
        """Return the size that the published weights were evaluated at; None for detectors and videos."""
        preset = getattr(self._preset(name), "keywords", {})
        size = preset.get("crop_size")
        return (3, size, size) if isinstance(size, int) else None

    def normalization(self, name: str) -> str | None:
        """Return ImageNet's statistics for image classifiers."""
        return "imagenet" if self.input_shape(name) is not None else None

    def _preset(self, name: str) -> object:
        weights = list(_torchvision_models().get_model_weights(name))
        return weights[0].transforms if weights else None


@dataclass(frozen=True)
class Timm:
    """``timm:NAME``."""

    def require(self, name: str) -> None:
        """Refuse a name that timm does not have; its ``hf-hub:`` names would go to the network."""
        timm = _import_timm()
        if not timm.is_model(name):
            _require("timm", name, timm.list_models())

    def build(self, name: str, *, num_classes: int | None, in_channels: int | None) -> nn.Module:
        """Return the network with random weights.

        Raises:
            ModelError: timm cannot build it.
        """
        arguments = {"num_classes": num_classes, "in_chans": in_channels}
        given = {key: value for key, value in arguments.items() if value is not None}
        try:
            made: nn.Module = _import_timm().create_model(name, pretrained=False, **given)
        except Exception as error:
            raise ModelError(f"timm:{name} cannot be built: {error}") from error
        return made

    def input_shape(self, name: str) -> tuple[int, int, int] | None:
        """Return the size in timm's own configuration of the network."""
        settings = _import_timm().get_pretrained_cfg(name)
        if settings is None or not settings.input_size:
            return None
        channels, height, width = settings.input_size
        return channels, height, width

    def normalization(self, name: str) -> str | None:
        """Return the statistics in timm's own configuration of the network."""
        settings = _import_timm().get_pretrained_cfg(name)
        if settings is None:
            return None
        if (tuple(settings.mean), tuple(settings.std)) == _IMAGENET_STATISTICS:
            return "imagenet"
        return f"mean={','.join(map(repr, settings.mean))};std={','.join(map(repr, settings.std))}"


LIBRARIES: dict[str, Library] = {"torchvision": Torchvision(), "timm": Timm()}
LIBRARY_CALLS = ("torchvision:NAME", "timm:NAME", "file.py:function")


def torchvision_has(name: str) -> bool:
    """Say whether torchvision is installed and has a network of this name."""
    try:
        return name in _torchvision_models().list_models()
    except UsageError:
        return False


def _torchvision_models() -> Any:
    return import_torchvision().models


def _import_timm() -> ModuleType:
    try:
        import_torchvision()  # timm imports torchvision, which must not fail there
        import timm
    except (ImportError, UsageError) as error:
        raise UsageError("timm is not installed; install it with: pip install 'secateur[timm,vision]'") from error
    return timm


def _require(library: str, name: str, names: Iterable[str]) -> None:
    known = list(names)
    if name in known:
        return
    near = nearest_name(name, known)
    if near is not None:
        raise UsageError(unknown_name(f"{library} model", name, [near]))
    # All of them would be a page.
    raise UsageError(f"unknown {library} model {name!r}; {library} lists {len(known)} others in list_models()")
