"""Random damage to the bytes of a file, blind to its format but for numbers and JSON's and TOML's punctuation."""

import random
import re
from collections.abc import Callable

_TOKENS = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"'",
        b",",
        b":",
        b"=",
        b"\n",
        b"\0",
        b"\xff",
        b".",
        b"null",
        b"true",
        b"NaN",
        b"1e400",
    ),
    *(
        b"-1",
        b"0",
        b"1.5",
        b"Infinity",
        b"99999999999999999999",
        b"9223372036854775807",
        b"1000000000",
        b'"nan"',
        b'"inf"',
        b'"float64"',
        b'"int64"',
        b'"bool"',
        b"[[" * 600,
        b"a." * 3000,
        b"9" * 5000,
        b"0" * 5000,
        b"\x1b[2J",
    ),
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return the data after one to four random changes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_CHANGES)(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(data) + 1)
    return data[:first] + data[first + rng.randrange(1, 40) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(data) + 1)
    piece = data[first : first + rng.randrange(1, 200)]
    return data[:first] + piece * rng.randrange(2, 50) + data[first:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(data) + 1)
    return data[:first] + rng.choice(_TOKENS) + data[first:]


def _number(data: bytes, rng: random.Random) -> bytes:
    """Replace a number that is written in digits by something else, or by a small number, which readers take more often."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[: 2**16]))
    if not found:
        return _insert(data, rng)
    where = rng.choice(found)
    new = rng.choice(_TOKENS) if rng.random() < 0.5 else str(rng.randrange(12)).encode()
    return data[: where.start()] + new + data[where.end() :]


def _word(data: bytes, rng: random.Random) -> bytes:
    """Replace four bytes by a large or a small binary number."""
    first = rng.randrange(max(1, len(data) - 4))
    value = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**16, rng.getrandbits(32)))
    return data[:first] + value.to_bytes(4, rng.choice(("little", "big"))) + data[first + 4 :]  # pyright: ignore[reportArgumentType]


_CHANGES: list[Callable[[bytes, random.Random], bytes]] = [_flip, _cut, _remove, _repeat, _insert, _number, _word]
