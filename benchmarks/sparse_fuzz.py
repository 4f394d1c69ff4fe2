"""Mutated sparse files against the reader: nothing but a state or one sentence may come back.

Run with `.venv/bin/python benchmarks/sparse_fuzz.py`; some minutes on one core for 120,000 files. Half of the
mutations know nothing of the format: bits and bytes changed, parts cut out, repeated, put in or taken from another
file. The other half rewrites the file with one or two lies in it (lengths, counts, offsets, types, repeated names,
streams) and mends checksum and lengths around them, so that the reader gets as far as it can. Every file is drawn from
its own number, so that one can be looked at again with `--first N --files 1 --keep FILE`.

Of each file is checked: the reader returns tensors of at most `max_bytes`, or raises ArtifactError with one short line;
after changes that know nothing of the format they are those of a sound file, because the checksum was not mended; it
takes no longer than 10 s; and the memory that it takes stays below the bound in FORMAT.md.
"""

import argparse
import faulthandler
import json
import random
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from sparse_mutations import Plain, mutated, originals
from torch import Tensor

from secateur import sparse
from secateur.errors import ArtifactError
from secateur.files import write_text
from secateur.record import environment

MAX_BYTES = 2**20  # what the reader is told to allow
LIMIT_SECONDS = 10


def bound_bytes(content: bytes) -> int:
    """Return the memory that reading this file may take, as FORMAT.md states it, for ``MAX_BYTES``."""
    header = min(int.from_bytes(content[:8], "little"), len(content))
    return 4 * MAX_BYTES + 2 * len(content) + 100 * header + 2**20


def check(content: bytes, path: Path, sound: list[dict[str, Tensor]] | None) -> str:
    """Read one file and return ``read`` or ``refused``.

    Args:
        content: of the file.
        path: where to write it.
        sound: what a reader may return at all; anything that is small enough, where not given.

    Raises:
        AssertionError: the reader broke a promise.
    """
    path.write_bytes(content)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    start = time.perf_counter()
    try:
        state = sparse.decode(path, max_bytes=MAX_BYTES)
    except ArtifactError as error:
        sentence = str(error).replace(str(path), "")
        assert "\n" not in sentence, f"several lines: {sentence!r}"
        assert 20 < len(sentence) < 500, f"{len(sentence)} characters: {sentence!r}"
        outcome = "refused"
    else:
        distinct = {id(tensor): tensor.nbytes for tensor in state.values()}
        assert sum(distinct.values()) <= MAX_BYTES, "more than was allowed"
        assert sound is None or any(same(state, other) for other in sound), "a changed file is read as another state"
        outcome = "read"
    seconds = time.perf_counter() - start
    taken = tracemalloc.get_traced_memory()[1] - before
    assert seconds < LIMIT_SECONDS, f"{seconds:.1f} s"
    assert taken <= bound_bytes(content), f"{taken:,} bytes taken, {bound_bytes(content):,} allowed"
    return outcome


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Say whether two states have the same names, types, shapes and bits."""
    if one.keys() != other.keys():
        return False
    pairs = [(one[name], other[name]) for name in one]
    if any(a.dtype != b.dtype or a.shape != b.shape for a, b in pairs):
        return False
    return all(torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)) for a, b in pairs)


def main() -> None:
    """Mutate, read, count and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=120_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--keep", type=Path, help="write the last file here")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "sparse_fuzz.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        files = originals(Path(folder))
        path = Path(folder) / "mutated.sparse.safetensors"
        tracemalloc.start()
        sound = []
        for content in files:
            assert check(content, path, None) == "read", "a sound file is refused"
            sound.append(sparse.decode(path))
            again = Plain(content).joined(random.Random(0))
            assert check(again, path, sound) == "read", "a file is taken apart and not put together again"
        start = time.perf_counter()
        for number_ in range(options.first, options.first + options.files):
            kind, content = mutated(number_, files)
            faulthandler.dump_traceback_later(6 * LIMIT_SECONDS, exit=True)  # a hang shows where
            try:
                counts[f"{kind}: {check(content, path, sound if kind == 'bytes' else None)}"] += 1
            except Exception as error:
                raise SystemExit(f"file {number_} ({kind}): {type(error).__name__}: {error}") from error
            if number_ % 10_000 == 0:
                print(f"{number_:,} after {time.perf_counter() - start:.0f} s", flush=True)
        faulthandler.cancel_dump_traceback_later()
        if options.keep is not None:
            options.keep.write_bytes(content)
    print(json.dumps(dict(sorted(counts.items())), indent=1))
    record = {
        "benchmark": "sparse_fuzz",
        "what": f"{options.files:,} mutated sparse files, every second one by rules that know the format",
        "files": options.files,
        "outcomes": dict(sorted(counts.items())),
        "max_bytes": MAX_BYTES,
        "environment": asdict(environment("cpu")),
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
