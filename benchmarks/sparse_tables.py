"""Tables of sparse weights: the file beside NumPy's, hostile files against its reader, and a step that keeps masks."""

from collections import Counter
from typing import Any

from table_parts import machine, rows_to_markdown


def sparse_file(record: dict[str, Any]) -> str:
    """Bytes, seconds and memory of each way to write one state, and the two LeNets part by part."""
    rows = [
        [
            row["way"],
            f"{row['file_bytes'] / 1e6:.2f}",
            f"{record['dense_bytes'] / row['file_bytes']:.1f}×",
            f"{row['write_seconds']:.2f}, {row['write_of_numpy']:.2f}×",
            f"{row['read_seconds']:.2f}, {row['read_of_numpy']:.2f}×",
            f"{row['write_peak_of_dense']:.2f} / {row['read_peak_of_dense']:.2f}",
        ]
        for row in record["rows"]
    ]
    head = [
        "way",
        "MB",
        "less than dense",
        "s to write, of NumPy's",
        "s to read, of NumPy's",
        "peak memory to write / read, of the dense bytes",
    ]
    note = (
        f"{record['what']}; dense {record['dense_bytes'] / 1e6:.2f} MB. Medians of {record['repeats']} processes each, "
        f"one thread; {machine(record)}."
    )
    parts = ["header_bytes", "dense_tensor_bytes", "index_bytes", "value_bytes", "codebook_bytes"]
    lenets = [
        [
            row["network"],
            f"{row['codebook_bits']} bits",
            f"{row['survivors']:,}",
            f"{row['file_bytes']:,}",
            *(f"{row[part]:,}" for part in parts),
            f"{row['dense_bytes'] / row['file_bytes']:.1f}×",
            f"{row['csr_bytes']:,}",
            f"{row['zip_bytes']:,}",
        ]
        for row in record["lenets"]
    ]
    lenet_head = [
        *("network", "codes", "weights left", "file bytes", "header", "biases", "indices", "codes' bytes", "codebooks"),
        *("less than dense", "CSR bytes", "zip bytes"),
    ]
    lenet_note = (
        "Random weights at the densities of Han et al. 2015, shared values, index widths chosen for the fewest bytes: "
        "what the format takes there, not how accurate such a network is. CSR (32-bit values and columns) and zip hold "
        "the values exactly."
    )
    return "\n\n".join([rows_to_markdown(head, rows), note, rows_to_markdown(lenet_head, lenets), lenet_note])


def sparse_fuzz(record: dict[str, Any]) -> str:
    """What the reader did with mutated files, by kind of mutation."""
    counts: dict[str, Counter[str]] = {}
    for name, number in record["outcomes"].items():
        kind, _, outcome = name.partition(": ")
        counts.setdefault(kind, Counter())[outcome] += number
    rows = [
        [f"`{kind}`", f"{found.total():,}", f"{found['refused']:,}", f"{found['read']:,}"]
        for kind, found in counts.items()
    ]
    whole = sum(counts.values(), Counter())
    rows.append(["all", f"{whole.total():,}", f"{whole['refused']:,}", f"{whole['read']:,}"])
    head = ["mutation", "files", "refused in one sentence", "read"]
    note = (
        f"{record['what']}. Read: a changed file of the kind `bytes` gave the very state of a sound one; others, whose "
        f"checksum was mended, gave tensors of at most {record['max_bytes']:,} bytes. None broke a promise: the "
        f"benchmark ends at the first that does. {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"


def masked_step(record: dict[str, Any]) -> str:
    """A training step that keeps masks against the plain one."""
    rows = [
        [
            row["workload"],
            str(row["threads"]),
            f"{row['masked_weights']:,}",
            f"{row['plain_ms_per_step']:.2f}",
            f"{row['masked_ms_per_step']:.2f}",
            f"{row['ratio']:.3f}",
            "met" if row["ratio"] <= row["target"] else "missed",
        ]
        for row in record["rows"]
    ]
    target = max(row["target"] for row in record["rows"])
    head = ["workload", "threads", "weights with a mask", "ms plain", "ms masked", "ratio", f"at most {target:.2f}"]
    sparsity, batch = record["rows"][0]["sparsity"], record["rows"][0]["batch_size"]
    load = ", ".join(f"{value:.1f}" for value in record["load_average"])
    note = (
        f"`KeepMasks` at {sparsity:.0%} zeros, batch {batch}; medians over paired rounds in turn; load of the machine "
        f"{load}; {machine(record)}."
    )
    return f"{rows_to_markdown(head, rows)}\n\n{note}"
