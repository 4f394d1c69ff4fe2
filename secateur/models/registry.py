"""Networks by name: our own, torchvision's, timm's, and the user's. Nothing is ever downloaded."""

from torch import nn

from secateur.errors import ModelError, UsageError
from secateur.models.libraries import LIBRARIES, LIBRARY_CALLS, torchvision_has
from secateur.models.networks import NETWORKS
from secateur.models.widths import split_width, without_width_argument
from secateur.names import nearest_name, unknown_name
from secateur.user_code import call_user_function, names_user_code

OWN = "secateur"


def build_model(
    name: str, *, num_classes: int | None = None, in_channels: int | None = None, allow_code: bool = True
) -> nn.Module:
    """Return a new, untrained network.

    Args:
        name: a key of :data:`NETWORKS` (also as ``secateur:NAME``), ``torchvision:NAME``, ``timm:NAME``, or
            ``file.py:function``, which is called with the arguments given here and returns an ``nn.Module``. With
            ``@1.5x`` behind it, all hidden layers are 1.5 times as wide: our networks for ImageNet in multiples of 8;
            torchvision's by its own rule, where it has one; a function is called with ``width=1.5``.
        num_classes: outputs; None takes what the network has by itself.
        in_channels: of the images; None takes what the network has by itself.
        allow_code: whether ``file.py:function`` may run.

    Raises:
        UsageError: the name is unknown (the nearest is suggested), a package is missing, an argument does not fit, the
            width is no factor from 0.1 to 8, or it is given to a network that takes none.
        ModelError: the network cannot be built, or the user's function fails.
    """
    _check_positive(num_classes=num_classes, in_channels=in_channels)
    given = {"num_classes": num_classes, "in_channels": in_channels}
    arguments: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    plain, width = split_width(name)
    if width != 1:
        arguments["width"] = width
    if names_user_code(plain):
        made = call_user_function(plain, allow_code=allow_code, error=ModelError, arguments=arguments)
        if not isinstance(made, nn.Module):
            what = f"the class {made.__name__}" if isinstance(made, type) else type(made).__name__
            call = f": call it, as in {made.__name__}(…)" if isinstance(made, type) else ""
            raise ModelError(f"{plain} returned {what}; it should return an nn.Module{call}")
        return made
    library, inner = _split_name(name)
    if library != OWN:
        return LIBRARIES[library].build(inner, num_classes=num_classes, in_channels=in_channels, width=width)
    network = NETWORKS[inner]
    if network.fixed_width and width != 1:
        raise without_width_argument(plain, width)
    if network.fixed_channels and arguments.pop("in_channels", 1) != network.input_shape[0]:
        raise UsageError(f"{plain} takes images of {network.input_shape[0]} channel, not {in_channels}; choose another")
    return network.build(**arguments)


def model_names() -> list[str]:
    """Return the names of our own networks, sorted."""
    return sorted(NETWORKS)


def full_name(name: str) -> str:
    """Return the name with the library that it is of: ``secateur:resnet20@1.5x`` for ``resnet20@1.5x``.

    Others' names, and those of user code, are as they were.

    Raises:
        UsageError: what stands behind an ``@`` is no width.
    """
    return f"{OWN}:{name}" if split_width(name)[0] in NETWORKS else name


def head_of(name: str) -> str:
    """Return the path of the layers of a network that other data needs anew, such as ``classifier``.

    Raises:
        UsageError: the name is unknown (the nearest is suggested), or it is not known of this network.
    """
    known = [own for own, network in NETWORKS.items() if network.head is not None]
    if not names_user_code(name):
        library, inner = _split_name(name)
        head = NETWORKS[inner].head if library == OWN else None
        if head is not None:
            return head
    raise UsageError(
        f"nobody says which layers of {name} are its head, so it cannot be new; it is known of {', '.join(known)}"
    )


def input_shape(name: str) -> tuple[int, int, int] | None:
    """Return (channels, height, width) that the network of this name was made for, or None where nobody says.

    Raises:
        UsageError: the name is unknown (the nearest is suggested), or a package is missing.
    """
    if names_user_code(name):
        return None
    library, inner = _split_name(name)
    return NETWORKS[inner].input_shape if library == OWN else LIBRARIES[library].input_shape(inner)


def default_normalization(name: str) -> str | None:
    """Return the normalisation that the network of this name is usually given, or None where nobody says.

    Returns:
        A name such as ``"cifar10"``, or the numbers, as ``"mean=…;std=…"``.

    Raises:
        UsageError: the name is unknown (the nearest is suggested), or a package is missing.
    """
    if names_user_code(name):
        return None
    library, inner = _split_name(name)
    return NETWORKS[inner].normalization if library == OWN else LIBRARIES[library].normalization(inner)


def _split_name(name: str) -> tuple[str, str]:
    """Return (library, name within it, without a width) of a network that our own table or a library may have."""
    name, _ = split_width(name)
    library, separator, inner = name.partition(":")
    if not separator:
        library, inner = OWN, name
    if library in LIBRARIES:
        LIBRARIES[library].require(inner)
        return library, inner
    if library == OWN and inner in NETWORKS:
        return OWN, inner
    if library == OWN and not separator and torchvision_has(inner):
        raise UsageError(f"unknown model {name!r}; did you mean 'torchvision:{inner}'?")
    near = nearest_name(library, LIBRARIES) if separator else None
    if near is not None:
        raise UsageError(f"unknown model {name!r}; did you mean '{near}:{inner}'?")
    raise UsageError(unknown_name("model", inner if library == OWN else name, [*NETWORKS, *LIBRARY_CALLS]))


def _check_positive(**values: int | None) -> None:
    for key, value in values.items():
        if value is not None and value < 1:
            raise UsageError(f"{key} is {value}; it must be at least 1")
