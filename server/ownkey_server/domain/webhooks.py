"""Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks, spec 1.0): what signs a notice.

A secret is ``whsec_`` and base64 of 32 random bytes. A signature is HMAC-SHA-256 over ``ID.TIMESTAMP.BODY``; while a
secret is being replaced there are two, by the new secret and by the former.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

PREFIX = "whsec_"
SECRET_BYTES = 32
MAX_URL = 2048
_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_QUAD = re.compile(rf"({_OCTET}\.){{3}}{_OCTET}")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_V6 = re.compile(r"[0-9a-fA-F:.]{2,45}")


class WebhookUrlInvalid(ValueError):
    """No webhook can be there. The message does not repeat the URL: its path may be a secret."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a webhook is.

    Attributes:
        host: A name, or an address without brackets.
        path: With the query, as it goes into the request.
    """

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def parse_url(url: str, *, allow_http: bool) -> Target:
    """Take a webhook's URL apart.

    Args:
        url: What somebody gave.
        allow_http: Whether it may go in clear.

    Raises:
        WebhookUrlInvalid: It cannot be one.
    """
    if len(url) > MAX_URL or not url.isascii() or any(ord(one) <= 0x20 or one == "\x7f" for one in url) or "\\" in url:
        raise WebhookUrlInvalid(
            f"must be a URL of at most {MAX_URL} ASCII characters without spaces and backslashes (names in other"
            " scripts: xn--...)"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise WebhookUrlInvalid("must be a URL such as https://hooks.example.com/ownkey") from None
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise WebhookUrlInvalid("must be a URL such as https://hooks.example.com/ownkey")
    if parts.scheme == "http" and not allow_http:
        raise WebhookUrlInvalid("must begin with https: what is sent in clear can be read and changed on its way")
    if "@" in parts.netloc:
        raise WebhookUrlInvalid("must hold no user and no password")
    if parts.fragment or "#" in url:
        raise WebhookUrlInvalid("must hold no #fragment: it would never be sent")
    if port == 0 or parts.netloc.endswith(":"):
        raise WebhookUrlInvalid("must name a port from 1 to 65535, or none")
    host = parts.hostname
    if "[" not in parts.netloc and _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) and not _QUAD.fullmatch(host):
        # What C libraries take for an address: 2130706433, 0177.0.0.1, 0x7f.1.
        raise WebhookUrlInvalid("must write an address as four decimal numbers, without leading zeros")
    if not (_V6 if parts.netloc.startswith("[") else _HOST).fullmatch(host):
        raise WebhookUrlInvalid("must name a host by its DNS name or its address")
    secure = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(secure, host.rstrip("."), port or (443 if secure else 80), path)


def secret_text(raw: bytes) -> str:
    """A secret as receivers keep it: ``whsec_...``."""
    return PREFIX + base64.b64encode(raw).decode()


def secret_bytes(text: str) -> bytes:
    """The bytes of a secret.

    Raises:
        ValueError: It is none; the message does not repeat it.
    """
    try:
        raw = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a webhook's secret is whsec_ and base64") from None
    if not text.startswith(PREFIX) or not 24 <= len(raw) <= 64:
        raise ValueError("a webhook's secret is whsec_ and base64 of 24 to 64 bytes")
    return raw


def signature(secret: bytes | bytearray, webhook_id: str, timestamp: int, body: bytes) -> str:
    """One signature: ``v1,`` and base64."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def headers(secrets: Iterable[bytes | bytearray], webhook_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """The three headers of a signed webhook.

    Args:
        secrets: By which it is signed, the newest first.
        webhook_id: The notice's.
        timestamp: When it is sent, in seconds since 1970.
        body: What is sent.
    """
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signature(one, webhook_id, timestamp, body) for one in secrets),
    }
