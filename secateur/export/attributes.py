"""The integers of modules that a model file may change: counts of channels, and nothing else.

Of torch's own classes these are the attributes listed here. Other classes keep sizes of their own for their forward to
read (``num_heads``, ``split_sizes[1]``); of them a file may make any integer smaller.
"""

from torch import nn

from secateur.errors import ArtifactError
from secateur.graph import Plan
from secateur.graph.written_sizes import read_size, written_sizes
from secateur.tensor_file import shown

COUNTS: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.modules.conv._ConvNd, ("in_channels", "out_channels", "groups")),
    (nn.Linear, ("in_features", "out_features")),
    (nn.modules.batchnorm._NormBase, ("num_features",)),
    (nn.GroupNorm, ("num_channels", "num_groups")),
    (nn.PReLU, ("num_parameters",)),
    (nn.Embedding, ("num_embeddings", "embedding_dim")),
)
"""Class → attributes that ``plan.attributes`` of a file may name, each for a value from 1 to the present one."""


def check_attributes(model: nn.Module, plan: Plan) -> None:
    """Refuse a plan from a file that would set anything but a channel count of ``model`` to a smaller one.

    Raises:
        ArtifactError: the module or attribute is not there or not to be changed by a file, or the value is out of
            range.
    """
    modules = dict(model.named_modules())
    for path, attribute, value in plan.attributes:
        place = f"{shown(path)}.{shown(attribute)}"
        module = modules.get(path)
        if module is None:
            raise ArtifactError(
                f"the plan changes {place}, but {type(model).__name__} has no such module; the file was edited"
            )
        allowed = _changeable(module)
        if attribute not in allowed:
            raise ArtifactError(
                f"the plan changes {place} of a {type(module).__name__}, where a file may change "
                f"{' and '.join(allowed) or 'nothing'}; the file was edited"
            )
        present = read_size(module, attribute)
        if type(present) is not int or not 1 <= value <= present:
            raise ArtifactError(
                f"the plan changes {place} from {present} to {shown(value)}; a cut leaves 1 to {present}; "
                "the file was edited"
            )


def _changeable(module: nn.Module) -> list[str]:
    """Return the attributes of a module that a file may make smaller."""
    allowed = [name for kind, names in COUNTS if isinstance(module, kind) for name in names]
    if type(module).__module__.startswith("torch."):
        return allowed
    return [*allowed, *(name for name in written_sizes(module) if name not in allowed)]
