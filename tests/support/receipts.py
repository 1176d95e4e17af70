"""Receipts of revocations for tests: asked for until they are complete."""

from __future__ import annotations

import json
import time
from typing import Any

from ownkey.receipts import receipt_file
from support.admin import Admin


async def receipt(admin: Admin, seconds: float = 10.0, *, complete: bool = True, **about: str) -> tuple[bytes, Any]:
    """A receipt as a file, and what it says; the first that is complete, or the first of all."""
    end = time.monotonic() + seconds
    while True:
        made = (await admin("GetRevocationReceipt", tenant="acme", **about)).receipt
        if made.complete or not complete:
            return receipt_file(made), json.loads(made.description)
        assert time.monotonic() < end, made.description
