"""One message that is authentic under two data keys, except for what it commits to.

AES-GCM does not commit to its key. The tag is GHASH_H(additional data, ciphertext) + E_K(counter block), linear in each
block: for two keys, one free block makes both tags equal (Dodis, Grubbs, Ristenpart, Woodage, "Fast Message Franking",
2018). Here that is done for a frame, and for the tag of the header.
"""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from vectors.container.independent import Writer, iv, message_key, u32

_R = 0xE1 << 120


def multiply(x: int, y: int) -> int:
    """The product in GF(2^128), in GCM's order of bits (SP 800-38D §6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = y >> 1 ^ (_R if y & 1 else 0)
    return product


def power(x: int, exponent: int) -> int:
    result = 1 << 127
    while exponent:
        if exponent & 1:
            result = multiply(result, x)
        x = multiply(x, x)
        exponent >>= 1
    return result


def inverse(x: int) -> int:
    return power(x, 2**128 - 2)


def block_cipher(key: bytes, block: bytes) -> int:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return int.from_bytes(encryptor.update(block) + encryptor.finalize())


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def tag(key: bytes, nonce: bytes, aad: bytes, ciphertext: bytes) -> int:
    """The tag of AES-GCM (SP 800-38D, algorithm 4), as a number."""
    h = block_cipher(key, bytes(16))
    lengths = (8 * len(aad)).to_bytes(8) + (8 * len(ciphertext)).to_bytes(8)
    state, blocks = 0, padded(aad) + padded(ciphertext) + lengths
    for at in range(0, len(blocks), 16):
        state = multiply(state ^ int.from_bytes(blocks[at : at + 16]), h)
    return state ^ block_cipher(key, nonce + u32(1))


def equalizer(
    keys: tuple[bytes, bytes], nonce: bytes, aad: bytes, ciphertext: bytes, at: int, *, in_aad: bool
) -> bytes:
    """What to XOR to the 16 bytes at ``at`` (a multiple of 16), in one or the other, so that both tags are equal."""
    whole = len(padded(aad)) + len(padded(ciphertext)) + 16
    exponent = (whole - (at if in_aad else len(padded(aad)) + at)) // 16
    first, second = (power(block_cipher(key, bytes(16)), exponent) for key in keys)
    gap = tag(keys[0], nonce, aad, ciphertext) ^ tag(keys[1], nonce, aad, ciphertext)
    return multiply(gap, inverse(first ^ second)).to_bytes(16)


def xor_at(data: bytes, at: int, change: bytes) -> bytes:
    changed = bytes(a ^ b for a, b in zip(data[at : at + 16], change, strict=True))
    return data[:at] + changed + data[at + 16 :]


def forge(data_keys: tuple[bytes, bytes], message_id: bytes) -> bytes:
    """A message whose header tag and frame verify under both; it commits to the first.

    What they decrypt it to differs. The free block of the header lies in the wrapped key's ciphertext, as an attacker
    would have it, who makes both.
    """
    keys = (message_key(data_keys[0], message_id), message_key(data_keys[1], message_id))
    writer = Writer(data_keys[0], message_id)
    wrapped_at = writer.header_body.index(b"wrapped")
    free = 16 + -wrapped_at % 16
    entry = (b"test", b"key-1", bytes(free + 16))
    writer = replace(writer, entries=(entry,))
    body = writer.header_body
    at = wrapped_at + free - 16
    change = equalizer(keys, iv(0), body, b"", at, in_aad=True)
    body = xor_at(body, at, change)
    header = body + tag(keys[0], iv(0), body, b"").to_bytes(16)
    aad = writer.aad(b"Final Frame", 1, 16)
    ciphertext = xor_at(bytes(16), 0, equalizer(keys, iv(1), aad, bytes(16), 0, in_aad=False))
    frame = b"\xff\xff\xff\xff" + u32(1) + iv(1) + u32(16) + ciphertext
    return header + frame + tag(keys[0], iv(1), aad, ciphertext).to_bytes(16)
