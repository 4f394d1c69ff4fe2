"""The table of `benchmarks/int8.py`."""

from typing import Any

from table_parts import machine, rows_to_markdown

WAYS = {
    "eager": "torch eager",
    "runtime_fp32": "ONNX Runtime fp32",
    "cut_fp32": "cut, ONNX Runtime fp32",
    "runtime_int8": "ONNX Runtime's own INT8",
    "ours": "our INT8 file in ONNX Runtime",
    "openvino": "our INT8 file in OpenVINO",
}


def int8(record: dict[str, Any]) -> str:
    """Milliseconds of every way, and how much faster the INT8 file is."""
    rows = []
    for row in record["rows"]:
        for result in row["results"]:
            medians, faster = result["median_ms"], result["ours_faster"]
            rows.append(
                [
                    row["title"],
                    str(result["batch"]),
                    *(f"{medians[way]:.1f}" if way in medians else "–" for way in WAYS),
                    *(
                        f"{faster[way]:.2f}×" if way in faster else "–"
                        for way in ("eager", "runtime_fp32", "runtime_int8")
                    ),
                    "{} of {}".format(*row["ours"]["convolutions"]),
                    f"{row['ours']['fp32_size_bytes'] / 1e6:.1f} → {row['ours']['size_bytes'] / 1e6:.1f}",
                ]
            )
    head = [
        "network",
        "batch",
        *(f"{title}, ms" for title in WAYS.values()),
        "ours over eager",
        "over fp32",
        "over its own INT8",
        "convolutions in integers",
        "file MB",
    ]
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    load = [value for row in record["rows"] for result in row["results"] for value in result["load"]]
    least = min(len(result["timings_ms"]["ours"]) for row in record["rows"] for result in row["results"])
    note = (
        f"Medians of at least {least} runs of each way in turn, {record['threads']} thread; ratios are medians of "
        f"neighbouring runs. Eager torch in channels_last; OpenVINO with float32 for what is not in integers. Load "
        f"of the machine while timing {min(load):.1f} to {max(load):.1f}. {packages}; {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


def int8_accuracy(record: dict[str, Any]) -> str:
    """Accuracy by calibrator, simulated and as the file; fewer bits; what repairs bring."""
    parts = [_accuracy(network) for network in record["networks"]]
    first = record["networks"][0]
    parts.append(
        f"Top-1 %, {record['what']}: ranges from {first['images']:,} training images, the calibrator picked (bold) by "
        f"least divergence on {first['deciding']} test images, reported on the other {first['samples']}; one seed; "
        f"{machine(record)}."
    )
    return "\n\n".join(parts)


def _accuracy(network: dict[str, Any]) -> str:
    rows = [["fp32", f"{100 * network['fp32']:.2f}", "", "", ""]]
    for row in network["rows"]:
        picked = row["calibrator"] == network["picked"]
        rows.append(
            [
                f"**{row['calibrator']}**" if picked else row["calibrator"],
                f"{100 * row['simulated']:.2f}",
                f"{100 * row['file']:.2f}",
                f"{row['equal']} of {row['samples']}",
                f"{1e3 * row['divergence_nats']:.3f}",
            ]
        )
    head = [network["network"], "simulated", "INT8 file", "equal predictions", "divergence from fp32, 1e-3 nats"]
    lower = [[row["what"], f"{100 * row['simulated']:.2f}"] for row in network["fewer"]]
    epochs = f", {network['epochs']} epochs" if network["epochs"] else ""
    lower += [
        [
            f"4 bits and {row['what']}{epochs if row['what'].startswith('trained') else ''}",
            f"{100 * row['simulated']:.2f}",
        ]
        for row in network["repairs"]
    ]
    second = [f"{network['network']}, {network['picked']}", "simulated"]
    return f"{rows_to_markdown(head, rows)}\n\n{rows_to_markdown(second, lower)}"
