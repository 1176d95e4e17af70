"""Finding a secret in a heap of bytes, however it was written there."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Iterable, Mapping

# So many bytes from the beginning and from the end of a secret are looked for: what is cut short is found too.
WINDOW = 12


def encodings(secret: bytes) -> dict[str, bytes]:
    """The ways in which these bytes may be written, by the name of the way."""
    numbers = list(secret)
    found = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "hex with spaces": secret.hex(" ").encode(),
        "hex with colons": secret.hex(":").encode(),
        # Which one repr chooses depends on the quotes in all of what it shows.
        "repr": _repr(secret).replace("\\'", "'").encode(),
        "repr, with quotes escaped": _repr(secret).encode(),
        "octal, as protobuf prints bytes": "".join(_octal(number) for number in numbers).encode(),
        "a list of numbers": str(numbers)[1:-1].encode(),
        "percent": urllib.parse.quote(secret, safe="").encode(),
        "UTF-16": b"".join(bytes((number, 0)) for number in numbers),
    }
    for offset in range(3):
        # What stands before shifts the letters, and what stands after changes the last one.
        begin, end = (8 * offset + 5) // 6, 8 * (offset + len(secret)) // 6
        for name, encode in (("base64", base64.standard_b64encode), ("urlsafe base64", base64.urlsafe_b64encode)):
            found[f"{name}, {offset} bytes off"] = encode(bytes(offset) + secret)[begin:end]
    return found


def leaks(secrets: Mapping[str, bytes], heaps: Mapping[str, bytes]) -> list[str]:
    """Where which secret is, and how it is written: never the secret itself, since tests print this."""
    found = set()
    for name, secret in secrets.items():
        for needle, way in _needles(secret):
            found |= {f"{name} is in {heap} ({way})" for heap, content in heaps.items() if needle in content}
    return sorted(found)


def _needles(secret: bytes) -> Iterable[tuple[bytes, str]]:
    for part in {secret[:WINDOW], secret[-WINDOW:]}:
        for way, needle in encodings(part).items():
            yield needle, way


def _repr(secret: bytes) -> str:
    # Both quotes in front: repr then escapes every single one.
    return repr(b"'\"" + secret)[len("b'\\'\"") : -1]


def _octal(number: int) -> str:
    return chr(number) if 32 <= number < 127 and chr(number) not in "\\\"'" else f"\\{number:03o}"
