"""Tables of what a model is made of: its groups, a plan for them, its costs, a model file."""

from secateur.cost import Profile, profile_graph
from secateur.export import ArtifactInfo
from secateur.graph import ChannelGraph, Group, Plan
from secateur.report.grid import Grid
from secateur.report.restored import KEY, error_grid, refitted_facts, restored_facts, told_restorations
from secateur.report.values import count, of_dense, share, size
from secateur.wording import counted

WIDTH = 100  # columns that the table of groups keeps within, where names allow


def groups_grid(graph: ChannelGraph, *, limit: int | None = None) -> Grid:
    """Return the groups of channels that can only be cut together.

    Args:
        graph: of the model.
        limit: show so many groups at most, and count the others.
    """
    macs, total = graph.macs_of_groups(), max(graph.macs(), 1)
    shown = graph.groups if limit is None or len(graph.groups) <= limit + 1 else graph.groups[:limit]
    # Names, "approx." and three columns of numbers stand beside it, two spaces apart.
    width = max(16, WIDTH - max((len(group.name) for group in shown), default=0) - 35)
    rows = [
        (
            group.name,
            "no" if group.locked else "approx." if group.approximate else "yes",
            _others(group, width),
            str(group.size),
            str(len(group.members)),
            share(macs[group.name] / total, 1),
        )
        for group in shown
    ]
    if len(shown) < len(graph.groups):
        rows.append((f"… {len(graph.groups) - len(shown)} more", "", "", "", "", ""))
    return Grid("Groups of channels", ("group", "cut", "goes with", "units", "tensors", "MACs"), tuple(rows), left=3)


def plan_grid(graph: ChannelGraph, plan: Plan) -> Grid:
    """Return what a plan keeps of each group."""
    rows = []
    for group in graph.groups:
        kept = 0 if group.name in plan.gone else len(plan.kept.get(group.name, range(group.size)))
        rows.append((group.name, _note(group, plan), str(group.size), str(kept), share(kept / group.size, 1)))
    return Grid("Plan", ("group", "locked", "units", "kept", "share"), tuple(rows), left=2)


def plan_facts(plan: Plan) -> tuple[tuple[str, str], ...]:
    """Return what the table of a plan's groups cannot hold: the blocks that go whole."""
    if not plan.drops:
        return ()
    return (("blocks", f"{len(plan.drops)} dropped whole: {', '.join(plan.dropped_blocks)}"),)


def cost_grid(graph: ChannelGraph, plan: Plan) -> Grid:
    """Return what a model costs before and after a plan."""
    before, after = profile_graph(graph), profile_graph(graph.after(plan))
    pairs = (
        ("MACs", count, before.macs, after.macs),
        ("parameters", count, before.params, after.params),
        ("bytes of weights", size, before.size_bytes, after.size_bytes),
        ("peak activation bytes", size, before.activation_bytes, after.activation_bytes),
    )
    rows = [(name, shown(old), shown(new) + of_dense(new, old)) for name, shown, old, new in pairs]
    return Grid("Costs per sample", ("", "before", "after"), tuple(rows))


def profile_grid(profile: Profile) -> Grid:
    """Return the compute of each module."""
    rows = [
        (entry.module or "(model)", entry.operator, f"{entry.macs:,}", share(entry.macs / max(profile.macs, 1), 1))
        for entry in profile.modules
    ]
    return Grid("Multiply-adds per sample", ("module", "operator", "MACs", "share"), tuple(rows), left=2)


def profile_facts(profile: Profile) -> tuple[tuple[str, str], ...]:
    """Return the totals of a profile."""
    return (
        ("MACs", f"{profile.macs:,} per sample (1 MAC = one multiply-add of a convolution or matrix product)"),
        ("parameters", f"{profile.params:,}"),
        ("weights", f"{profile.size_bytes:,} bytes"),
        ("activations", f"{profile.activation_bytes:,} bytes alive at the peak, per sample"),
    )


def artifact_facts(info: ArtifactInfo) -> tuple[tuple[str, str], ...]:
    """Return what a model file says about itself."""
    facts = [
        ("class", info.model_class),
        ("builder", info.builder.name if info.builder else "none; give the model yourself"),
        ("parameters", f"{info.params:,}"),
        ("file", f"{info.size_bytes:,} bytes, {counted(len(info.tensors), 'tensor')}"),
    ]
    if info.plan is None:
        facts.append(("cut", "nothing"))
    else:
        if info.plan.kept or not info.plan.drops:
            kept = sum(len(units) for units in info.plan.kept.values())
            total = sum(info.plan.sizes.values())
            facts.append(("cut", f"{total - kept} of {total} units in {counted(len(info.plan.kept), 'group')}"))
        facts += plan_facts(info.plan)
        if info.plan.selected:
            one, several = "selection of channels loses entries", "selections of channels lose entries"
            facts.append(("selected", counted(len(info.plan.selected), one, several)))
    if info.preprocessing is not None:
        shape = "×".join(map(str, info.preprocessing.input_shape))
        facts.append(("input", f"{shape}, (pixel / {info.preprocessing.peak:g} − mean) / std"))
        facts.append(("mean", ", ".join(f"{value:g}" for value in info.preprocessing.mean)))
        facts.append(("std", ", ".join(f"{value:g}" for value in info.preprocessing.std)))
        facts.append(("classes", str(len(info.preprocessing.labels))))
    told = told_restorations(info.provenance)
    facts += [
        (name.replace("_", " "), _noted(value))
        for name, value in info.provenance.items()
        if value is not None and not (told and name == KEY)
    ]
    return (*facts, *restored_facts(told), *refitted_facts(told))


def artifact_grid(info: ArtifactInfo) -> Grid | None:
    """Return the layers that were re-fitted after the cut, as the model file tells; None where none were."""
    return error_grid(told_restorations(info.provenance))


def _noted(value: object, *, within: bool = False) -> str:
    """Return a value as words; what lies deeper than its first level stands in parentheses."""
    if isinstance(value, dict):
        parts = (f"{name} {_noted(inner, within=True)}" for name, inner in value.items() if inner is not None)
        return f"({', '.join(parts)})" if within else ", ".join(parts)
    return ", ".join(map(_noted, value)) if isinstance(value, list) else str(value)


def _state(group: Group) -> str:
    if group.locked is not None:
        return f"no: {group.locked}"
    return "yes" if group.approximate is None else f"only approximately: {group.approximate}"


def _note(group: Group, plan: Plan) -> str:
    if group.name in plan.gone:
        return "goes with a dropped block"
    if group.name in plan.approximate:
        return f"cut approximately: {group.approximate}"
    return "" if group.prunable else _state(group)


def _others(group: Group, width: int) -> str:
    """Return the modules that a group ties to the one it is named after, as many as fit: what produces, what reads."""
    order = ("produces", "consumes", "carries")
    own = group.name.partition("#")[0]
    members = sorted(group.members, key=lambda member: order.index(member.role))
    names = [name for name in dict.fromkeys(_module(member.parameter) for member in members) if name != own]
    shown = 0
    while shown < len(names) and len(_named(names, shown + 1)) <= width:
        shown += 1
    if names and not shown:
        first = _named(names, 1)
        return f"…{first[len(first) - width + 1 :]}"
    return _named(names, shown)


def _named(names: list[str], shown: int) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" +{more}" if more else "")


def _module(parameter: str) -> str:
    return parameter.rpartition(".")[0] or parameter
