"""What was pruned weight by weight, as tables and in words."""

from secateur.record import PrunedWeights, PruningRound, SparseFile
from secateur.report.grid import Grid
from secateur.report.values import NOTHING, count, share, size
from secateur.wording import counted

SHOWN_ROUNDS = 20  # of a run with many, the last ones


def layers_grid(found: PrunedWeights) -> Grid:
    """Return weights, activations and multiply-adds of each layer, as Tables 2 to 5 of arXiv:1506.02626 have them."""
    rows = [
        (
            layer.name,
            count(layer.weights),
            count(layer.kept),
            share(layer.density, 1),
            share(layer.inputs, 1),
            share(layer.outputs, 1),
            count(layer.macs),
            share(layer.work, 1),
        )
        for layer in found.layers
    ]
    weights, kept = sum(layer.weights for layer in found.layers), sum(layer.kept for layer in found.layers)
    macs, work = sum(layer.macs for layer in found.layers), sum(layer.macs * layer.work for layer in found.layers)
    total = ("total", count(weights), count(kept), share(kept / weights, 1) if weights else NOTHING, "", "")
    rows.append((*total, count(macs), share(work / macs, 1) if macs else NOTHING))
    headers = ("weight", "weights", "left", "Weights%", "inputs not 0", "Act%", "MACs", "FLOP%")
    return Grid("Layers", headers, tuple(rows))


def rounds_grid(found: PrunedWeights) -> Grid:
    """Return what each pruning left, and what the retraining after it brought."""
    names = [layer.name for layer in found.layers]
    return Grid(
        "Rounds",
        ("pruning", "non-zeros", "after pruning", "after retraining", *names),
        tuple(_round(one, names) for one in found.rounds[-SHOWN_ROUNDS:]),
    )


def file_grid(found: PrunedWeights) -> Grid | None:
    """Return the bytes of each coded weight beside those of other ways to store it, or None without a file."""
    if found.file is None:
        return None
    rows = [
        (
            weight.name,
            count(weight.survivors),
            count(weight.fillers),
            str(weight.bits),
            count(weight.index_bytes),
            count(weight.value_bytes),
            count(weight.codebook_bytes),
            count(weight.dense_bytes),
            count(weight.csr_bytes),
            count(weight.zip_bytes),
        )
        for weight in found.file.weights
    ]
    headers = ("weight", "left", "fillers", "bits", "indices", "values", "codebook", "dense fp32", "CSR", "zip")
    return Grid("Bytes of the compact file", headers, tuple(rows))


def pruned_facts(found: PrunedWeights | None) -> tuple[tuple[str, str], ...]:
    """Return what is proved of the zeros, what they are worth, and what the files take."""
    if found is None:
        return ()
    facts = [("zeros", found.sentence())]
    if found.dead:
        difference = found.dead_difference
        exact = "" if difference is None else f"; the cut network equals the masked one to {difference:.1e}"
        facts.append(("dead units", found.dead + exact))
    if found.energy_pj is not None and found.dense_energy_pj is not None:
        facts.append(
            (
                "energy",
                f"{found.energy_pj / 1e6:,.2f} µJ per sample against {found.dense_energy_pj / 1e6:,.2f} dense: an "
                "estimate (45 nm, Horowitz 2014: 640 pJ per 32-bit weight from DRAM, 5 pJ per input from SRAM, 3.7 and "
                "0.9 pJ per product and sum; products with a zero left out, indices not counted)",
            )
        )
    if found.file is not None:
        facts.append(
            (
                "compact file",
                f"{size(found.file.file_bytes)}, {found.file.dense_bytes / max(1, found.file.file_bytes):.1f}× less "
                f"than dense float32; {_kept_values(found.file)}",
            )
        )
    if found.speed:
        facts.append(("speed", found.speed))
    return tuple(facts)


def _kept_values(file: SparseFile) -> str:
    if file.values == "fp32":
        return "read back bit for bit"
    trained = f", trained for {counted(file.codebook_epochs, 'epoch')}" if file.codebook_epochs else ""
    how = f"shared by the weights of a layer{trained}" if file.values == "codebook" else "rounded to fp16"
    return f"values are {how}, so it is not the model file: the row 'compact file, decoded' says how good it is"


def pruned_sections(found: PrunedWeights | None) -> list[str]:
    """Return the sections of a page."""
    if found is None:
        return []
    parts = [
        "## Weights that are left",
        layers_grid(found).to_markdown(),
        "Act%: what a layer gives on that is not 0, as the layer that runs next reads it. FLOP%: Weights% times the "
        "share of the layer's inputs that are not 0: what an engine that skips zeros would do, and no measured time.",
        "## Pruning and retraining",
        f"Validation scores; what went together: {found.granularity}.",
        rounds_grid(found).to_markdown(),
    ]
    if found.scans:
        parts += ["Each layer pruned alone, without retraining:", scans_grid(found).to_markdown()]
    coded = file_grid(found)
    return parts if coded is None else [*parts, f"## {coded.title}", coded.to_markdown()]


def scans_grid(found: PrunedWeights) -> Grid:
    """Return the validation score of each layer pruned alone, in the last round that scanned."""
    last = max(scan.round for scan in found.scans)
    scans = [scan for scan in found.scans if scan.round == last]
    rows = tuple(
        (scan.layer, f"{share(one, 1)}", share(score))
        for scan in scans
        for one, score in zip(scan.shares, scan.scores, strict=True)
    )
    return Grid(f"Sensitivity before pruning {last}", ("weight", "gone", "score"), rows)


def _round(one: PruningRound, names: list[str]) -> tuple[str, ...]:
    stage = "" if one.stage == "all" else f" ({one.stage})"
    after = NOTHING if one.retrained is None else share(one.retrained.score)
    kept = (count(one.kept.get(name)) for name in names)
    return (f"{one.number}{stage}", f"{one.nonzeros:,}", share(one.after_cut.score), after, *kept)
