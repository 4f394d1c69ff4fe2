"""Cut and prove a model; a refusal names the groups to lock, and the option that does it."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from secateur.errors import SecateurError, TraceError, VerificationError
from secateur.graph import Plan, Proof, apply, trace, verify

NAMED = 3  # groups in a sentence


def proved_cut(model: nn.Module, plan: Plan, example_inputs: Tensor) -> tuple[nn.Module, Proof]:
    """Return ``model`` cut, with the proof that the cut is exact.

    Raises:
        PlanError: the plan was made for another model.
        VerificationError: the cut could not be proved; the groups to lock are named where they are known.
    """
    small = apply(model, plan, verify_with=None)
    proof = verify(model, small, plan, example_inputs)
    if not proof.passed:
        module = _where_it_fails(small, example_inputs)
        groups = () if module is None else _groups_in(model, plan, example_inputs, module)
        raise VerificationError(f"{proof.sentence()}; {_hint(groups)}")
    return small, proof


def require_proof(proof: Proof) -> None:
    """Refuse a proof that did not pass.

    Raises:
        VerificationError: with the reason.
    """
    if not proof.passed:
        raise VerificationError(f"{proof.sentence()}; {_hint(())}")


def _hint(groups: tuple[str, ...]) -> str:
    if not groups:
        return "make a plan that leaves groups alone with --lock 'GROUP'; `secateur groups` lists their names"
    options = " ".join(f"--lock {name!r}" for name in groups[:NAMED])
    more = f" (and {len(groups) - NAMED} more, see `secateur groups`)" if len(groups) > NAMED else ""
    return f"try {options}{more}"


def _where_it_fails(small: nn.Module, example_inputs: Tensor) -> str | None:
    """Return the path of the innermost module whose forward fails, or None where the model runs."""
    inside: list[str] = []
    with _followed(small, inside), torch.no_grad(), contextlib.suppress(Exception):
        small(example_inputs)
        return None
    return inside[-1] if inside else ""


@contextlib.contextmanager
def _followed(model: nn.Module, inside: list[str]) -> Iterator[None]:
    """Keep in ``inside`` the paths of the modules that run; those that fail stay there."""
    handles = []
    for path, module in model.named_modules():

        def enter(*_: object, path: str = path) -> None:
            inside.append(path)

        def leave(*_: object) -> None:
            inside.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _groups_in(model: nn.Module, plan: Plan, example_inputs: Tensor, module: str) -> tuple[str, ...]:
    """Return the groups that lose units and have a member in ``module``."""
    prefix = f"{module}." if module else ""
    try:
        groups = trace(model, example_inputs).groups
    except (TraceError, SecateurError):
        return ()
    return tuple(
        group.name
        for group in groups
        if group.name in plan.kept and any(member.parameter.startswith(prefix) for member in group.members)
    )
