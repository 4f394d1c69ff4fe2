"""Tables of pruned weights: how far the two LeNets go, and their layers beside the published ones."""

from typing import Any

from table_parts import machine, rows_to_markdown


def lenets(record: dict[str, Any]) -> str:
    """Errors against the ratio, the table of layers at the published ratio, and what is without loss."""
    parts = [_network(record, network) for network in record["networks"]]
    first = record["networks"][0]
    note = (
        f"{record['what']}; means over seeds {', '.join(map(str, first['seeds']))} ± their standard deviation. "
        f"Settings were chosen on validation images under seed {first['search']['seed']}; {machine(record)}."
    )
    return "\n\n".join([*parts, note])


def _network(record: dict[str, Any], network: dict[str, Any]) -> str:
    dense, rows = network["dense"], network["rows"]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    found = {(row["arm"], row["ratio"]): row for row in rows}
    ratios = sorted({row["ratio"] for row in rows})
    errors = [
        [f"{ratio:g}×", *(_error(found[arm, ratio]) if (arm, ratio) in found else "" for arm in arms)]
        for ratio in ratios
    ]
    within = ", ".join(
        f"{arm} {'none' if ratio is None else f'{ratio:g}×'}" for arm, ratio in network["frontier"].items()
    )
    published = network["published"]
    text = (
        f"**{network['network']}**, {network['params']:,} parameters, dense {_error(dense)} % test error on "
        f"{network['samples']:,} images (published {100 * published['test_error']['dense']:.2f}; pruned "
        f"{published['ratio']}× {100 * published['test_error']['pruned']:.2f}). Largest ratio within "
        f"{record['within_points']:g} points of dense: {within}."
    )
    parts = [text, rows_to_markdown(["fewer parameters", *(f"{arm}, test error %" for arm in arms)], errors)]
    dead = [_dead(row) for row in rows if row["ratio"] == published["ratio"]]
    text = f"Hidden units that died at {published['ratio']}×, by seed, and the largest difference once they are cut:"
    return "\n\n".join([*parts, *(_layers(network, table) for table in network["tables"]), text, "\n".join(dead)])


def _dead(row: dict[str, Any]) -> str:
    units = "; ".join(" + ".join(f"{died[name]} of {name}" for name in sorted(died)) for died in row["dead_units"])
    return f"- `{row['arm']}`: {units} ({max(row['dead_difference']):.1e})"


def _layers(network: dict[str, Any], table: dict[str, Any]) -> str:
    runs, rows = table["runs"], []
    for place, layer in enumerate(runs[0]["layers"]):
        same = [run["layers"][place] for run in runs]
        name = layer["name"].removesuffix(".weight")
        paper = network["published"]["layers"][name]
        shares = (_mean([one["density"] for one in same]), _mean([one["outputs"] for one in same]))
        cells = [*shares, _mean([one["work"] for one in same])]
        rows.append(
            [name, f"{layer['weights']:,}", *(f"{100 * c:.0f} ({p})" for c, p in zip(cells, paper, strict=True))]
        )
    head = ["layer", "weights", "Weights% (paper)", "Act% (paper)", "FLOP% (paper)"]
    files = ", ".join(
        f"{kind} {_mean([run['files'][kind]['bytes'] for run in runs]) / 1000:.1f} kB at "
        f"{100 * _mean([run['files'][kind]['test_error'] for run in runs]):.2f} %"
        for kind in runs[0]["files"]
    )
    text = f"At {network['published']['ratio']}×, `{table['arm']}` (compact file: {files}):"
    return f"{text}\n\n{rows_to_markdown(head, rows)}"


def _error(row: dict[str, Any]) -> str:
    spread = row["standard_deviation"]
    return f"{100 * row['mean']:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
