"""Tables of what a model is made of: its groups, a plan for them, its costs, a model file."""

from collections import Counter

from secateur.cost import Profile, profile_graph
from secateur.export import ArtifactInfo
from secateur.graph import ChannelGraph, Group, Plan
from secateur.report.grid import Grid
from secateur.report.values import count, of_dense, share, size

SHOWN_MEMBERS = 3


def groups_grid(graph: ChannelGraph) -> Grid:
    """Return the groups of channels that can only be cut together."""
    rows = [
        (group.name, _state(group), _members(group), str(group.size), str(len(group.members))) for group in graph.groups
    ]
    return Grid("Groups of channels", ("group", "can be cut", "members", "units", "tensors"), tuple(rows), left=3)


def groups_facts(graph: ChannelGraph) -> tuple[tuple[str, str], ...]:
    """Return what belongs to the table of groups: what can be cut at most, and what is not understood."""
    facts = [("can be cut", f"at most {share(graph.prunable_share_of_macs(), 1)} of {count(graph.macs())} MACs")]
    if graph.unreached:
        shown = ", ".join(graph.unreached[:5]) + (
            f" and {len(graph.unreached) - 5} more" if graph.unreached[5:] else ""
        )
        facts.append(("not reached", f"{len(graph.unreached)} parameter(s) that no run reads: {shown}"))
    for name, times in sorted(graph.unknown_ops.items()):
        facts.append(("unknown", f"{name} ({times}×) has no rule; it locks what it touches"))
    return tuple(facts)


def plan_grid(graph: ChannelGraph, plan: Plan) -> Grid:
    """Return what a plan keeps of each group."""
    rows = []
    for group in graph.groups:
        kept = len(plan.kept.get(group.name, range(group.size)))
        note = _state(group) if not group.prunable else ""
        rows.append((group.name, note, str(group.size), str(kept), share(kept / group.size, 1)))
    return Grid("Plan", ("group", "locked", "units", "kept", "share"), tuple(rows), left=2)


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
        ("file", f"{info.size_bytes:,} bytes, {len(info.tensors)} tensors"),
    ]
    if info.plan is None:
        facts.append(("cut", "nothing"))
    else:
        kept = sum(len(units) for units in info.plan.kept.values())
        total = sum(info.plan.sizes.values())
        facts.append(("cut", f"{total - kept} of {total} units in {len(info.plan.kept)} groups"))
    if info.preprocessing is not None:
        shape = "×".join(map(str, info.preprocessing.input_shape))
        facts.append(("input", f"{shape}, (pixel / {info.preprocessing.peak:g} − mean) / std"))
        facts.append(("mean", ", ".join(f"{value:g}" for value in info.preprocessing.mean)))
        facts.append(("std", ", ".join(f"{value:g}" for value in info.preprocessing.std)))
        facts.append(("classes", str(len(info.preprocessing.labels))))
    facts += [(name.replace("_", " "), _noted(value)) for name, value in info.provenance.items() if value is not None]
    return tuple(facts)


def _noted(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_noted(inner)}" for name, inner in value.items() if inner is not None)
    return ", ".join(map(_noted, value)) if isinstance(value, list) else str(value)


def _state(group: Group) -> str:
    if group.locked is not None:
        return f"no: {group.locked}"
    return "yes" if group.approximate is None else f"only approximately: {group.approximate}"


def _members(group: Group) -> str:
    names = list(Counter(member.parameter for member in group.members))
    more = f" +{len(names) - SHOWN_MEMBERS}" if len(names) > SHOWN_MEMBERS else ""
    return ", ".join(names[:SHOWN_MEMBERS]) + more
