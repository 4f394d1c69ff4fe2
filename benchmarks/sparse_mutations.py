"""Sparse files with lies in them, and files whose bytes were changed without knowing the format."""

import json
import random
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur import sparse
from secateur.randomness import derive_seed, generator_for

NUMBERS = (0, 1, 2, 3, 7, 8, 16, 17, 255, 256, 1000, 2**16, 2**31, 2**32, 2**40, 2**48, 2**53, 2**63, 2**64, 10**30)
STRANGE = (-1, -(2**63), 0.5, True, None, "1", [], {}, [1], "F32", "")
Header = dict[str, Any]
Data = dict[str, bytes]


class Plain:
    """A sparse file taken apart: its header, its ``secateur`` object and the bytes of each tensor."""

    def __init__(self, content: bytes) -> None:
        """Take apart what :func:`secateur.sparse.encode` wrote."""
        length = int.from_bytes(content[:8], "little")
        self.header: Header = json.loads(content[8 : 8 + length])
        self.inner: Header = json.loads(self.header.pop("__metadata__")["secateur"])
        data = content[8 + length :]
        self.data: Data = {name: data[slice(*entry["data_offsets"])] for name, entry in self.header.items()}

    def joined(self, rng: random.Random, *, lie: "Lie | None" = None) -> bytes:
        """Return the file with offsets, lengths and checksum that fit, but for what ``lie`` does to the header."""
        position = 0
        for name, entry in self.header.items():
            entry["data_offsets"] = [position, position + len(self.data[name])]
            if name in self.inner["weights"]:
                entry["shape"] = [len(self.data[name])]
            position += len(self.data[name])
        if lie is not None:
            lie(self, rng)
        inner = json.dumps(self.inner, separators=(",", ":"))
        if inner.startswith('{"crc32":"'):
            inner = inner[:10] + self.checksum(inner[:10] + "00000000" + inner[18:]) + inner[18:]
        text = json.dumps({"__metadata__": {"secateur": inner}, **self.header})
        if lie is repeat_name:
            text = _with_repeated_key(text, rng)
        return (
            len(text.encode()).to_bytes(8, "little") + text.encode() + b"".join(self.data[name] for name in self.data)
        )

    def checksum(self, inner: str) -> str:
        """Return the checksum of FORMAT.md, of whatever the header says now."""
        found = zlib.crc32(inner.encode())
        for name in sorted(self.data):
            entry = self.header[name]
            sizes = ",".join(map(str, entry["shape"])) if isinstance(entry["shape"], list) else ""
            found = zlib.crc32(f"{name}\0{entry['dtype']}\0{sizes}\0".encode(), found)
            found = zlib.crc32(self.data[name], found)
        return f"{found:08x}"

    def weight(self, rng: random.Random) -> tuple[str, Header]:
        """Return one of the coded weights."""
        name = rng.choice(sorted(self.inner["weights"]))
        return name, self.inner["weights"][name]


Lie = Callable[[Plain, random.Random], None]


def number(rng: random.Random, near: Any) -> Any:
    """Return a number near another one, a special one, or none at all."""
    kind = rng.random()
    if kind < 0.4 and isinstance(near, int):
        return near + rng.choice((-2, -1, 1, 2, 8, -8, near, -near))
    return rng.choice(NUMBERS) if kind < 0.85 else rng.choice(STRANGE)


def change_count(file: Plain, rng: random.Random) -> None:
    """Lie about a number of a weight."""
    _, entry = file.weight(rng)
    key = rng.choice(("bits", "entries", "fillers", "centroids"))
    entry[key] = number(rng, entry[key])


def change_length(file: Plain, rng: random.Random) -> None:
    """Lie about the coding or the length of a stream, sometimes so that the sum still fits."""
    _, entry = file.weight(rng)
    one, other = rng.sample(("indices", "values"), 2)
    if rng.random() < 0.3:
        entry[one][0] = rng.choice(("packed", "deflate", "zip", 3))
        return
    before = entry[one][1]
    entry[one][1] = number(rng, before)
    lengths = (before, entry[one][1], entry[other][1])
    if rng.random() < 0.5 and all(isinstance(length, int) for length in lengths):
        entry[other][1] += before - entry[one][1]


def change_shape(file: Plain, rng: random.Random) -> None:
    """Lie about the shape or type of a decoded weight."""
    _, entry = file.weight(rng)
    if rng.random() < 0.3:
        entry["dtype"] = rng.choice(("F64", "F32", "F16", "BF16", "I64", "U8", "F8_E4M3", "F31", 4))
        return
    place = rng.randrange(len(entry["shape"]))
    kind = rng.random()
    if kind < 0.6:
        entry["shape"][place] = number(rng, entry["shape"][place])
    else:
        entry["shape"] = rng.choice(([], [1] * 9, [2**24, 2**24], [0], [1000, 1000], [2**31, 2**31], 7, None))


def change_kind(file: Plain, rng: random.Random) -> None:
    """Lie about what the values of a weight are."""
    _, entry = file.weight(rng)
    entry["kind"] = rng.choice(("own", "F16", "codebook", "F32", None))
    if rng.random() < 0.5:
        entry["centroids"] = rng.choice((0, 1, 3, 15, 255, 256))


def change_offsets(file: Plain, rng: random.Random) -> None:
    """Lie about where a tensor lies: overlaps, gaps, ends beyond the file."""
    entry = file.header[rng.choice(sorted(file.header))]
    kind = rng.random()
    if kind < 0.3:
        other = file.header[rng.choice(sorted(file.header))]
        entry["data_offsets"], other["data_offsets"] = other["data_offsets"], entry["data_offsets"]
    elif kind < 0.6:
        shift = rng.choice((-8, -1, 1, 8, 2**40))
        entry["data_offsets"] = [value + shift for value in entry["data_offsets"]]
    else:
        place = rng.randrange(2)
        entry["data_offsets"][place] = number(rng, entry["data_offsets"][place])


def change_tensor(file: Plain, rng: random.Random) -> None:
    """Lie about type or shape of a stored tensor."""
    entry = file.header[rng.choice(sorted(file.header))]
    if rng.random() < 0.5:
        entry["dtype"] = rng.choice(("F32", "U8", "I64", "BOOL", "F64", "U64", "BF16", "C64", "F4", None))
    elif entry["shape"]:
        place = rng.randrange(len(entry["shape"]))
        entry["shape"][place] = number(rng, entry["shape"][place])
    else:
        entry["shape"] = [number(rng, 1)]


def change_names(file: Plain, rng: random.Random) -> None:
    """Name a weight that is not there, or give a tensor a name that is taken."""
    name, entry = file.weight(rng)
    kind = rng.random()
    if kind < 0.3:
        file.inner["weights"][rng.choice(("ghost", "", "\n", "x" * 600, rng.choice(sorted(file.header))))] = dict(entry)
    elif kind < 0.5:
        del file.inner["weights"][name]
    else:
        names = [*sorted(file.header), "ghost", "", "other", 3]
        file.inner["aliases"] = rng.choice(
            ({rng.choice(names[:-1]): rng.choice(names)}, {"a": "b", "b": "a"}, [], None)
        )


def change_top(file: Plain, rng: random.Random) -> None:
    """Change, drop or add a key of the ``secateur`` object."""
    key = rng.choice(sorted(file.inner))
    kind = rng.random()
    if kind < 0.4:
        del file.inner[key]
    elif kind < 0.8:
        file.inner[key] = rng.choice((*STRANGE, *NUMBERS))
    else:
        file.inner["surprise"] = rng.choice(STRANGE)


def repeat_name(file: Plain, rng: random.Random) -> None:
    """Stand for a key that is repeated, which only the text can show."""
    del file, rng


LIES: tuple[Lie, ...] = (
    *(change_count, change_length, change_shape, change_kind, change_offsets),
    *(change_tensor, change_names, change_top, repeat_name),
)


def change_stream(file: Plain, rng: random.Random) -> None:
    """Change bytes of a weight and mend the checksum."""
    name, _ = file.weight(rng)
    data = bytearray(file.data[name])
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if data:
            data[rng.randrange(len(data))] = rng.choice((0, 255, rng.randrange(256)))
    file.data[name] = bytes(data)


def replace_stream(file: Plain, rng: random.Random) -> None:
    """Put another stream in place: a bomb, a stream cut short, one with bytes behind it; lengths are mended."""
    name, entry = file.weight(rng)
    data = file.data[name]
    bounds = (0, entry["indices"][1], entry["indices"][1] + entry["values"][1], len(data))
    which = rng.randrange(2)
    part = data[bounds[which] : bounds[which + 1]]
    kind = rng.random()
    if kind < 0.4:
        coder = zlib.compressobj(9, zlib.DEFLATED, -15)
        size = rng.choice((entry["entries"], entry["entries"] + 1, 10 * entry["entries"] + 7, 2**18))
        fill = bytes(size) if rng.random() < 0.5 else rng.randbytes(min(size, 4000)) + bytes(max(0, size - 4000))
        part, coding = coder.compress(fill) + coder.flush(), "deflate"
    elif kind < 0.6:
        part, coding = part[: rng.randrange(len(part) + 1)], entry[("indices", "values")[which]][0]
    elif kind < 0.8:
        part, coding = part + rng.randbytes(rng.randrange(1, 9)), entry[("indices", "values")[which]][0]
    else:
        part, coding = rng.randbytes(len(part)), rng.choice(("packed", "deflate"))
    file.data[name] = data[: bounds[which]] + part + data[bounds[which + 1] :]
    entry[("indices", "values")[which]] = [coding, len(part)]
    if rng.random() < 0.3:  # a bomb that promises what it holds
        entry["entries"] = rng.choice((2**18, 2**20, 2**30))
        entry["shape"] = [rng.choice((2**18, 2**20, 2**30))]


def mutated_text(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return a file with changes that know nothing of the format."""
    changed = bytearray(content)
    length = int.from_bytes(content[:8], "little") + 8
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        end = max(1, length if rng.random() < 0.6 else len(changed))
        place = rng.randrange(min(end, len(changed)) or 1)
        kind = rng.randrange(7)
        if kind == 0 and changed:
            changed[place % len(changed)] ^= 1 << rng.randrange(8)
        elif kind == 1 and changed:
            changed[place % len(changed)] = rng.randrange(256)
        elif kind == 2:
            del changed[place : place + rng.choice((1, 2, 8, 64, len(changed)))]
        elif kind == 3:
            changed[place:place] = changed[place : place + rng.choice((1, 8, 64))]
        elif kind == 4:
            changed[place:place] = rng.randbytes(rng.choice((1, 2, 8)))
        elif kind == 5:
            start = rng.randrange(len(other))
            changed[place : place + 32] = other[start : start + 32]
        else:
            changed[:8] = rng.choice((*NUMBERS[:18], length + rng.randrange(-9, 9))).to_bytes(8, "little")
    return bytes(changed)


def mutated(number_: int, files: list[bytes]) -> tuple[str, bytes]:
    """Return the kind and the content of the mutated file of this number."""
    rng = random.Random(derive_seed("sparse fuzz", number_))
    content, other = rng.choice(files), rng.choice(files)
    if number_ % 2:
        return "bytes", mutated_text(content, other, rng)
    file = Plain(content)
    if rng.random() < 0.4:
        change = rng.choice((change_stream, replace_stream))
        change(file, rng)
        return change.__name__, file.joined(rng, lie=rng.choice(LIES) if rng.random() < 0.1 else None)
    lie = rng.choice(LIES)
    if rng.random() < 0.1:  # two lies, of which the first is covered up
        rng.choice((change_count, change_length, change_kind))(file, rng)
    return lie.__name__, file.joined(rng, lie=lie)


def _with_repeated_key(text: str, rng: random.Random) -> str:
    """Return JSON with one of its keys twice: of the header, of a tensor, or inside the metadata."""
    content = json.loads(text)
    inner = content["__metadata__"]["secateur"]
    if rng.random() < 0.5:
        name = rng.choice(sorted(content))
        return text[:-1] + f", {json.dumps(name)}: {json.dumps(content[name])}}}"
    key = rng.choice(sorted(json.loads(inner)))
    content["__metadata__"]["secateur"] = inner[:-1] + f', "{key}": {json.dumps(json.loads(inner)[key])}}}'
    return json.dumps(content)


def originals(folder: Path) -> list[bytes]:
    """Return sound files of all kinds of values, codings, widths and types."""
    ways: tuple[Mapping[str, Any], ...] = (
        {"entropy": False},
        {},
        {"bits": 1},
        {"bits": 13, "entropy": False},
        {"bits": 11},
        {"values": "fp16"},
        {"values": "fp16", "bits": 2, "entropy": False},
        {"values": "codebook"},
        {"values": "codebook", "codebook_bits": 3, "entropy": False},
        {"values": "codebook", "codebook_bits": 8, "bits": 3},
    )
    files = []
    for number_, way in enumerate(ways):
        sparse.encode(small_state(number_), folder / "original.sparse.safetensors", **way)
        files.append((folder / "original.sparse.safetensors").read_bytes())
    return files


def small_state(seed: int) -> dict[str, Tensor]:
    """Return a few tensors: pruned weights, one of them in a pattern, biases, a counter, an empty one, a tied name."""
    draw = generator_for("sparse fuzz state", seed)
    conv = torch.randn(8, 3, 3, 3, generator=draw) * (torch.rand(8, 3, 3, 3, generator=draw) < 0.3)
    matrix = torch.randn(40, 50, generator=draw) * (torch.rand(40, 50, generator=draw) < 0.05)
    pattern = torch.randn(32, 64, generator=draw) * (torch.arange(64) % 4 == 1)
    state = {
        "pattern.weight": pattern,
        "conv.weight": conv,
        "conv.bias": torch.randn(8, generator=draw),
        "fc.weight": matrix.to((torch.float32, torch.float64, torch.float16, torch.bfloat16)[seed % 4]),
        "fc.bias": torch.randn(40, generator=draw),
        "norm.num_batches_tracked": torch.tensor(7),
        "norm.empty": torch.empty(0),
    }
    state["tied.weight"] = state["conv.weight"]
    return state
