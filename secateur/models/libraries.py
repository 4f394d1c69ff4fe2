"""Networks of torchvision and timm, by name and without weights."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from torch import nn

from secateur.errors import ModelError, UsageError
from secateur.models.widths import MULTIPLE, scaled, without_width_argument
from secateur.names import nearest_name, unknown_name
from secateur.torchvision_shim import import_torchvision

_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# torchvision's networks whose width is an argument: of the function that builds them, or of their class, which then
# needs the other arguments that the function gives it.
_MULTIPLIED = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
_MNASNETS = {"mnasnet0_5": 0.5, "mnasnet0_75": 0.75, "mnasnet1_0": 1.0, "mnasnet1_3": 1.3}
_DENSENETS = {  # growth, channels of the stem, layers of each block
    "densenet121": (32, 64, (6, 12, 24, 16)),
    "densenet161": (48, 96, (6, 12, 36, 24)),
    "densenet169": (32, 64, (6, 12, 32, 32)),
    "densenet201": (32, 64, (6, 12, 48, 32)),
}


class Library(Protocol):
    """A package that builds networks by name."""

    def require(self, name: str) -> None:
        """Raise UsageError, with the nearest name, where the package has no network of this name."""
        ...

    def build(self, name: str, *, num_classes: int | None, in_channels: int | None, width: float = 1.0) -> nn.Module:
        """Return the network without trained weights, ``width`` times as wide as by itself.

        None leaves a number as the package has it.
        """
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

    def build(self, name: str, *, num_classes: int | None, in_channels: int | None, width: float = 1.0) -> nn.Module:
        """Return the network with random weights, its backbone included.

        Raises:
            UsageError: ``in_channels`` is not 3, or the network takes no width.
            ModelError: torchvision cannot build it.
        """
        if in_channels not in (None, 3):
            raise UsageError(
                f"torchvision:{name} takes images of 3 channels, not {in_channels}; try timm:NAME, "
                f"or change the first layer in a file.py:function"
            )
        if width != 1:
            return _wider(name, width, {} if num_classes is None else {"num_classes": num_classes})
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

    def build(self, name: str, *, num_classes: int | None, in_channels: int | None, width: float = 1.0) -> nn.Module:
        """Return the network with random weights.

        Raises:
            UsageError: a width; timm's networks say theirs in their names.
            ModelError: timm cannot build it.
        """
        if width != 1:
            raise without_width_argument(f"timm:{name}", width)
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


def _wider(name: str, width: float, arguments: dict[str, Any]) -> nn.Module:
    """Return a network of torchvision that is ``width`` times as wide, by the argument that its class has for it."""
    models = _torchvision_models()
    if name in _MULTIPLIED:
        made: nn.Module = models.get_model_builder(name)(weights=None, width_mult=width, **arguments)
    elif name in _MNASNETS:
        made = models.MNASNet(_MNASNETS[name] * width, **arguments)
    elif name in _DENSENETS:
        growth, stem, blocks = _DENSENETS[name]
        made = models.DenseNet(
            growth_rate=scaled(growth, width, multiple=MULTIPLE),
            num_init_features=scaled(stem, width, multiple=MULTIPLE),
            block_config=blocks,
            **arguments,
        )
    else:
        raise without_width_argument(f"torchvision:{name}", width)
    return made


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
