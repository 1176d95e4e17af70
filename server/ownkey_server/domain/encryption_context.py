"""The encryption context: string pairs bound to a wrapped key, and shown in the customer's own key log.

The reserved pairs are a public contract: customers write conditions on them in the policy of their key, to take back
one class, group, asset or hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from ownkey_server.domain.assets import Asset
from ownkey_server.domain.errors import AssetMismatch, InvalidRequest

TENANT = "ownkey:tenant"
ASSET_CLASS = "ownkey:asset-class"
ASSET_ID = "ownkey:asset-id"
GROUP = "ownkey:group"
HOUR = "ownkey:hour"
HOUR_LENGTH = len("2026-11-23T16")
HOUR_FORMAT = "%Y-%m-%dT%H"

RESERVED_PREFIX = "ownkey:"
# `aws-crypto-` belongs to the container format, and AWS keeps `aws:` for itself: nobody needs either.
REFUSED_PREFIXES = (RESERVED_PREFIX, "aws-", "aws:")
RESERVED_KEYS = frozenset({TENANT, ASSET_CLASS, ASSET_ID, GROUP, HOUR})


def build(asset: Asset, group: str, now: datetime, extra: Mapping[str, str]) -> dict[str, str]:
    """The context of a new data key.

    Args:
        asset: What the key is for.
        group: The group that policy decided by, or empty.
        now: The present time (UTC).
        extra: The caller's own pairs.

    Raises:
        InvalidRequest: A pair of the caller's uses a reserved prefix, in whatever case, or two differ by case alone.
    """
    seen: dict[str, str] = {}
    for key in extra:
        folded = _folded(key)
        if folded.startswith(REFUSED_PREFIXES):
            raise InvalidRequest("extra_context", f"key {key!r} must not begin with {' or '.join(REFUSED_PREFIXES)}")
        if (other := seen.setdefault(folded, key)) != key:
            raise InvalidRequest("extra_context", f"keys {other!r} and {key!r} differ by case alone")
    context = {
        TENANT: asset.tenant,
        ASSET_CLASS: asset.asset_class.value,
        ASSET_ID: asset.asset_id,
        HOUR: now.astimezone(UTC).isoformat(timespec="hours")[:HOUR_LENGTH],
        **extra,
    }
    if group:
        context[GROUP] = group
    return context


def hour_of(text: str) -> datetime | None:
    """The hour (UTC) that a context's :data:`HOUR` names; None when it names none."""
    try:
        return datetime.strptime(text, HOUR_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def require_asset(context: Mapping[str, str], asset: Asset, expected: Mapping[str, str]) -> None:
    """Make sure that a context is that of the asset which the caller named: never one asset's content for another's.

    Args:
        context: The pairs of a wrapped key or of an object's header.
        asset: What the caller says it is. An empty group accepts any.
        expected: Further pairs that must be there.

    Raises:
        AssetMismatch: Names the first pair that differs, not its value; or one whose name passes for another's.
    """
    # Nobody else may have made such a context either: what opens it would have been denied by a pair that it hides.
    disguised = _disguised(context)
    if disguised is not None:
        raise AssetMismatch(asset.tenant, disguised)
    reserved = {TENANT: asset.tenant, ASSET_CLASS: asset.asset_class.value, ASSET_ID: asset.asset_id}
    if asset.group:
        reserved[GROUP] = asset.group
    for key, value in (*reserved.items(), *expected.items()):
        if context.get(key) != value:
            raise AssetMismatch(asset.tenant, key)


def _folded(key: str) -> str:
    """A name as whoever does not look at case sees it.

    Names of conditions in AWS's policies have no case: a caller's `Ownkey:Hour` could stand for the customer's own
    `ownkey:hour`. To upper case first, for some letters (a dotless i) have only that in common.
    """
    return key.lower() if key.isascii() else key.upper().casefold()


def _disguised(names: Iterable[str]) -> str | None:
    """The first name that passes for a reserved one, or for one before it, by its case; None when none does."""
    seen = set(RESERVED_KEYS)
    for name in names:
        if name in RESERVED_KEYS:  # as nearly all are
            continue
        folded = _folded(name)
        if folded in seen or (folded.startswith(REFUSED_PREFIXES) and not name.startswith(REFUSED_PREFIXES)):
            return name
        seen.add(folded)
    return None
