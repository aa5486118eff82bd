"""Seeded mutations: of bytes, of opcodes of pickles, of JSON, and of what archives contain."""

from __future__ import annotations

import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes, Sequence[bytes]], bytes]
BORDERS = [b + d for b in (0, 2**7, 2**8, 2**15, 2**16, 2**31, 2**32, 2**63) for d in (-1, 0, 1)]
#: Opcodes that move objects around, and some that make new ones.
SNIPPETS = [bytes([b]) for b in b"0()Nabestu]}RQq\x81\x85\x86\x87\x88\x8f\x90\x91\x93\x94"] + [
    *(b"h" + bytes([i]) for i in range(8)),
    *(b"q" + bytes([i]) for i in range(8)),
    b"K\xff",
    b"J\xff\xff\xff\xff",
    b"G\x7f\xf8" + bytes(6),
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"\x8a\x09" + b"\xff" * 8 + b"\x00",
    b"X\x04\x00\x00\x00\x1b[2J",
    b"C\x03abc",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"ctorch.storage\n_load_from_bytes\n",
    b"ctorch\nFloatStorage\n",
    b"cnumpy\ndtype\n",
    b"cnumpy\nndarray\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cbuiltins\nset\n",
    b"c_codecs\nencode\n",
    b"cdnnlib.tflib.network\nNetwork\n",
    b"cos\nsystem\n",
]
ODD: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, -(10**400), 0.5, float("nan"), float("inf")),
    *("", "a", "\x1b[2J\u202e", "\ud800", "x" * 5000, "NaN", "../..", [], {}, [[[]]], {"a": {}}),
    *([0] * 100, [2**62] * 40, "9" * 5000),
]


def number(random: Random) -> int:
    return random.choice(BORDERS) if random.random() < 0.7 else random.getrandbits(64)


def mutate_bytes(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Flip bits, cut, repeat, splice, or write a number where a length may be."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = _position(random, len(out))
        kind = random.randrange(7)
        if kind == 0 and out:
            for _ in range(random.choice((1, 1, 8))):
                out[_position(random, len(out) - 1)] ^= 1 << random.randrange(8)
        elif kind == 1:
            end = len(out) if random.random() < 0.3 else at + random.choice((1, 2, 16))
            del out[at:end]
        elif kind == 2:
            size, end = random.choice("<>") + random.choice("BHIQ"), len(out)
            packed = struct.pack(size, number(random) % 256 ** struct.calcsize(size))
            out[at : min(at + len(packed), end)] = packed
        elif kind == 3:
            out[at:at] = out[at : at + random.choice((1, 4, 64, 512))] * random.choice((1, 3))
        elif kind == 4:
            other = random.choice(others)
            start = _position(random, len(other))
            out[at : at + 32] = other[start : start + random.choice((4, 32, 256))]
        elif kind == 5:
            out[at : at + 1] = bytes([random.choice((0, 1, 0x7F, 0x80, 0xFF))])
        else:
            out[at:at] = random.choice(SNIPPETS)
    return bytes(out)


def _position(random: Random, size: int) -> int:
    """A position, half of the time near the ends, where headers and directories are."""
    if size < 1:
        return 0
    near = random.randrange(min(size, 400) + 1)
    return random.choice((random.randrange(size + 1), near, max(size - near, 0)))


@lru_cache(maxsize=64)
def opcode_positions(data: bytes) -> tuple[int, ...]:
    """Where the opcodes of the pickle at the start of `data` begin."""
    found = []
    try:
        for _, _, position in pickletools.genops(data):
            found.append(position or 0)
    except Exception:  # a mutated one: as far as it goes
        pass
    return tuple(found)


def mutate_pickle(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Delete, repeat, exchange, insert or renumber opcodes."""
    positions = opcode_positions(data)
    if len(positions) < 3 or random.random() < 0.15:
        return mutate_bytes(random, data, others)
    pieces: list[tuple[int, int, bytes]] = []
    for _ in range(random.choice((1, 1, 2, 3))):
        i = random.randrange(len(positions) - 1)
        j = min(i + random.choice((1, 1, 2, 5)), len(positions) - 1)
        start, end = positions[i], positions[j]
        kind = random.randrange(6)
        own = data[start:end]
        if kind == 0:
            pieces.append((start, end, b""))
        elif kind == 1:
            pieces.append((end, end, own * random.choice((1, 2, 30))))
        elif kind == 2:
            pieces.append((start, start, random.choice(SNIPPETS)))
        elif kind == 3:
            pieces.append((start, end, random.choice(SNIPPETS)))
        elif kind == 4:
            k = random.randrange(len(positions) - 1)
            pieces.append((start, end, data[positions[k] : positions[k + 1]]))
        else:
            size = random.choice((1, 1, 2, 4))
            small = (number(random) % 256**size).to_bytes(size, "little")
            pieces.append((start + 1, min(start + 1 + size, end), small))
    out, last = [], 0
    for start, end, new in sorted(pieces):
        if start >= last:
            out += [data[last:start], new]
            last = max(end, start)
    return b"".join([*out, data[last:]])


def mutate_json(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Replace values of JSON by odd ones; sometimes, mutate its text."""
    if random.random() < 0.25:
        return mutate_bytes(random, data, others)
    lines = data.splitlines() if data.count(b"\n{") else [data]
    at = random.randrange(len(lines))
    try:
        content = json.loads(lines[at])
    except ValueError:
        return mutate_bytes(random, data, others)
    for _ in range(random.choice((1, 1, 2))):
        content = odd_value(random, content)
    lines[at] = dumps(content).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def dumps(content: Any) -> str:
    """JSON, also with numbers of more digits than Python writes."""
    try:
        return json.dumps(content)
    except ValueError:
        return '{"a": ' + "9" * 6000 + "}"


def odd_value(random: Random, value: Any) -> Any:
    """`value` with one of its parts replaced, removed or repeated; texts of JSON are parsed."""
    if isinstance(value, str) and value[:1] in "{[" and value:
        try:
            return dumps(odd_value(random, json.loads(value)))
        except ValueError:
            return random.choice(ODD)
    if not isinstance(value, (dict, list)) or not value or random.random() < 0.1:
        return random.choice(ODD)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = random.choice(list(keys))
    kind = random.random()
    copy: Any = value.copy()
    if kind < 0.1:
        del copy[key]
    elif kind < 0.2 and isinstance(copy, dict):
        copy[str(random.choice(ODD))[:300]] = copy.pop(key)
    else:
        copy[key] = odd_value(random, value[key])
    return copy


def mutate_safetensors(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Mutate the JSON header of a safetensors file, or its bytes."""
    size = struct.unpack_from("<Q", data)[0] if len(data) > 8 else 0
    if random.random() < 0.2 or not 0 < size < len(data):
        return mutate_bytes(random, data, others)
    header, tensors = json.loads(data[8 : 8 + size]), data[8 + size :]
    about = header.get("__metadata__")
    for _ in range(random.choice((1, 1, 2))):
        if about and random.random() < 0.6:
            header["__metadata__"] = about = _texts(odd_value(random, about))
        else:
            header = odd_value(random, header)
        if not isinstance(header, dict):
            break
        about = header.get("__metadata__") if isinstance(header.get("__metadata__"), dict) else None
    if random.random() < 0.1:
        values = bytearray(tensors)
        at = random.randrange(max(len(values) - 8, 1)) & ~3
        values[at : at + 4] = struct.pack("<f", random.choice((float("nan"), float("inf"), 1e38)))
        tensors = bytes(values)
    text = dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + tensors


def _texts(value: Any) -> Any:
    """Metadata are texts: others are refused before our code sees them."""
    if not isinstance(value, dict):
        return value
    return {str(k): v if isinstance(v, str) else dumps(v) for k, v in value.items()}


def mutate_zip(inner: Mutation, names: tuple[str, ...]) -> Mutation:
    """Return a mutation of zip archives: of one of the entries ending in `names`, or of bytes."""

    def mutate(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                entries = {info.filename: archive.read(info) for info in archive.infolist()}
        except Exception:
            return mutate_bytes(random, data, others)
        chosen = [name for name in entries if name.endswith(names)]
        if not chosen or random.random() < 0.4:
            return mutate_bytes(random, data, others)
        name = random.choice(chosen)
        entries[name] = inner(random, entries[name], others)
        if random.random() < 0.1:
            entries[random.choice(("../a.png", "\x1b[2J.png", "a" * 3000, "b/.png"))] = b"x"
        out = io.BytesIO()
        method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return out.getvalue()

    return mutate
