"""What the weights of a sparse file take."""

from secateur.report.grid import Grid
from secateur.report.values import count, share
from secateur.sparse import FileSizes

_VALUES = {"own": "exact", "F16": "fp16"}


def sparse_grid(sizes: FileSizes) -> Grid:
    """Return the bytes of each coded weight beside those of other ways to store it."""
    zipped = bool(sizes.zip_bytes)
    rows = []
    for weight in sizes.weights:
        numbers = [
            count(weight.survivors),
            share(weight.survivors / weight.elements, 1) if weight.elements else "",
            count(weight.fillers),
            str(weight.bits),
            count(weight.index_bytes),
            count(weight.value_bytes),
            count(weight.codebook_bytes),
            count(weight.total_bytes),
            count(weight.dense_bytes),
            count(weight.csr_bytes),
        ]
        if zipped:
            numbers.append(count(sizes.zip_bytes[weight.name]))
        rows.append((weight.name, _VALUES.get(weight.kind, f"{weight.centroids} shared"), *numbers))
    headers = ("weight", "values", "left", "share", "fillers", "bits", "indices", "values", "codebook", "bytes")
    others = ("dense fp32", "CSR", *(("zip",) if zipped else ()))
    return Grid("Bytes of the coded weights", (*headers, *others), tuple(rows), left=2)


def sparse_facts(sizes: FileSizes) -> tuple[tuple[str, str], ...]:
    """Return what the whole file takes."""
    survivors = sum(weight.survivors for weight in sizes.weights)
    elements = sum(weight.elements for weight in sizes.weights)
    facts = [
        (
            "file",
            f"{sizes.file_bytes:,} bytes, {sizes.dense_bytes / max(sizes.file_bytes, 1):.1f}× less than dense",
        ),
        (
            "parts",
            f"{sum(weight.total_bytes for weight in sizes.weights):,} bytes of coded weights, "
            f"{sizes.dense_tensor_bytes:,} of tensors stored as they are, {sizes.header_bytes:,} of header",
        ),
    ]
    if elements:
        facts.append(("weights left", f"{survivors:,} of {elements:,} ({share(survivors / elements, 1)})"))
    facts.append(("speed", "storage only: read back, the weights are dense, and the network runs as before"))
    return tuple(facts)
