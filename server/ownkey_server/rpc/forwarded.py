r"""The header ``x-forwarded-client-cert``, in which a proxy says whose certificate it has verified (Envoy's XFCC).

An element is ``key=value`` pairs joined by semicolons; elements, one for each proxy on the way, are joined by commas.
Values may be quoted, with ``\"`` for a quote.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ownkey_server.domain.errors import Unauthenticated
from ownkey_server.rpc.principals import dns_principal, spiffe_principal
from ownkey_server.settings.access import CertificateRules

HEADER = "x-forwarded-client-cert"
MAX_LENGTH = 16 * 1024


@dataclass(slots=True)
class Element:
    """What one proxy says of its client."""

    uris: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)


def principal(value: str, rules: CertificateRules) -> str:
    """The principal that a trusted proxy names.

    Raises:
        Unauthenticated: The header is not in the format, names several proxies, or nobody whose name counts.
    """
    elements = parse(value)
    if len(elements) != 1:
        # What stands before the last element, a client may have sent itself: the proxy must set the header anew.
        raise Unauthenticated(f"{HEADER} has {len(elements)} elements: set the proxy to SANITIZE_SET")
    return spiffe_principal(elements[0].uris, rules) or dns_principal(elements[0].hosts, rules)


def parse(value: str) -> list[Element]:
    """The header's elements.

    Raises:
        Unauthenticated: It is not in the format.
    """
    if len(value) > MAX_LENGTH:
        raise Unauthenticated(f"{HEADER} is longer than {MAX_LENGTH} bytes")
    elements = [Element()]
    position = 0
    while position < len(value):
        separator = value.find("=", position)
        if separator < 0:
            raise Unauthenticated(f"{HEADER} is not in its format: a pair has no value")
        key = value[position:separator].strip().lower()
        text, position = _value(value, separator + 1)
        if key == "uri":
            elements[-1].uris.append(text)
        elif key == "dns":
            elements[-1].hosts.append(text)
        if position < len(value):
            if value[position] == ",":
                elements.append(Element())
            position += 1
    return elements


def _value(value: str, position: int) -> tuple[str, int]:
    """The value that begins at a position, and the position of the separator after it."""
    if value[position : position + 1] != '"':
        end = position
        while end < len(value) and value[end] not in ";,":
            end += 1
        return value[position:end], end
    text: list[str] = []
    position += 1
    while position < len(value) and value[position] != '"':
        if value[position] == "\\" and position + 1 < len(value):
            position += 1
        text.append(value[position])
        position += 1
    position += 1
    if position > len(value) or value[position : position + 1] not in ("", ";", ","):
        raise Unauthenticated(f"{HEADER} is not in its format: a quote does not end")
    return "".join(text), position
