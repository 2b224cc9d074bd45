"""Bytes of a file with something in them changed, cut, repeated or put in."""

from __future__ import annotations

import random

INSERTED: tuple[bytes, ...] = (
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\\ud83d",
    b"null",
    b"\n",
    b"\r\n",
    b'"',
    b"{",
    b"[",
)
INSERTED += (b"[", b",", b"3", b"NaN", b"<|endoftext|>", b"\xed\xa0\x80", b"text")


def mutated(content: bytes, generator: random.Random) -> bytes:
    """The content with one or two changes."""
    made = bytearray(content)
    for _ in range(generator.randint(1, 2)):
        at = generator.randint(0, len(made))
        end = min(len(made), at + generator.choice((1, 1, 1, 2, 8, 64)))
        match generator.randrange(6):
            case 0:
                made[at:at] = generator.choice(INSERTED)
            case 1:
                del made[at:end]
            case 2:
                made[at:end] = generator.randbytes(end - at)
            case 3:
                made[at:at] = made[at:end]
            case 4 if at < len(made):
                made[at] ^= 1 << generator.randrange(8)
            case _ if generator.random() < 0.2:
                del made[at:]
    return bytes(made)
