"""The integers of modules that a model file may change: counts of channels, in classes of torch, and nothing else."""

from torch import nn

from secateur.errors import ArtifactError
from secateur.export.container import shown
from secateur.graph import Plan

COUNTS: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.modules.conv._ConvNd, ("in_channels", "out_channels", "groups")),
    (nn.Linear, ("in_features", "out_features")),
    (nn.modules.batchnorm._NormBase, ("num_features",)),
    (nn.GroupNorm, ("num_channels",)),
    (nn.PReLU, ("num_parameters",)),
    (nn.Embedding, ("num_embeddings", "embedding_dim")),
)
"""Class → attributes that ``plan.attributes`` of a file may name, each for a value from 1 to the present one."""


def check_attributes(model: nn.Module, plan: Plan) -> None:
    """Refuse a plan from a file that would set anything but a channel count of ``model`` to a smaller one.

    Raises:
        ArtifactError: the module or attribute is not there, not in :data:`COUNTS`, or the value is out of range.
    """
    modules = dict(model.named_modules())
    for path, attribute, value in plan.attributes:
        place = f"{shown(path)}.{shown(attribute)}"
        module = modules.get(path)
        if module is None:
            raise ArtifactError(
                f"the plan changes {place}, but {type(model).__name__} has no such module; the file was edited"
            )
        allowed = [name for kind, names in COUNTS if isinstance(module, kind) for name in names]
        if attribute not in allowed:
            raise ArtifactError(
                f"the plan changes {place} of a {type(module).__name__}, where a file may change "
                f"{' and '.join(allowed) or 'nothing'}; the file was edited"
            )
        present = getattr(module, attribute)
        if type(present) is not int or not 1 <= value <= present:
            raise ArtifactError(
                f"the plan changes {place} from {present} to {shown(value)}; a cut leaves 1 to {present}; "
                "the file was edited"
            )
