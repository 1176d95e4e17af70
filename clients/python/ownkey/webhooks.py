"""For receivers of ownkey's webhooks: is what came from ownkey, unchanged, and sent just now?

The scheme is Standard Webhooks; any library of that does the same. Example::

    from ownkey import webhooks

    notice = webhooks.verify(os.environ["OWNKEY_WEBHOOK_SECRET"], request.headers, request.body)
    if notice["type"] == "key_revoked": ...

Answer with any 2xx as soon as the notice is kept. The same id may come twice: keep the ids that you have seen.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

PREFIX = "whsec_"
TOLERANCE_SECONDS = 300


class WebhookInvalid(Exception):
    """What came is not to be believed. Answer with 401, and do nothing by it."""


def verify(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance: float = TOLERANCE_SECONDS,
    now: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """The notice that came, when it may be believed. Takes the same time wherever a signature differs.

    Args:
        secret: ``whsec_...``, as it was shown when the channel was made.
        headers: The request's; their names in whatever case.
        body: The request's, as it came: parsed and written again it would be another.
        tolerance: How many seconds the sender's clock may be away from this one, either way.
        now: Tells the time, in seconds since 1970.

    Raises:
        WebhookInvalid: It may not be believed.
        ValueError: The secret is none.
    """
    key = _key(secret)
    given = {name.lower(): value for name, value in headers.items()}
    try:
        webhook_id, stamp, signatures = (given[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as error:
        raise WebhookInvalid(f"there is no header {error.args[0]}") from None
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 15):
        raise WebhookInvalid("webhook-timestamp is no time")
    if abs(now() - int(stamp)) > tolerance:
        raise WebhookInvalid("webhook-timestamp is too far from this clock: it may be a copy of an old one")
    expected = hmac.new(key, f"{webhook_id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    if not any(_is_equal(one, expected) for one in signatures.split(" ")):
        raise WebhookInvalid("no signature is by this secret")
    try:
        notice = json.loads(body)
    except ValueError:
        raise WebhookInvalid("the body is no JSON") from None
    if not isinstance(notice, dict):
        raise WebhookInvalid("the body is no JSON object")
    return notice


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a webhook's secret is whsec_ and base64") from None
    if not secret.startswith(PREFIX) or len(key) < 16:
        raise ValueError("a webhook's secret is whsec_ and base64")
    return key


def _is_equal(signature: str, expected: bytes) -> bool:
    version, _, text = signature.partition(",")
    if version != "v1":
        return False
    try:
        return hmac.compare_digest(base64.b64decode(text, validate=True), expected)
    except (binascii.Error, ValueError):
        return False
