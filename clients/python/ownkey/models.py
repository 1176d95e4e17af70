"""What the SDK's calls take and give: plain immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ownkey.v1 import asset_pb2

ASSET_CLASSES: Mapping[str, asset_pb2.AssetClass.ValueType] = {
    name.removeprefix("ASSET_CLASS_").lower(): number for name, number in asset_pb2.AssetClass.items() if number
}
"""Every asset class by its public name, such as ``phone_recording``."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One asset, and the facts that a tenant's policy may look at.

    Attributes:
        tenant: Id of the tenant.
        asset_class: One of :data:`ASSET_CLASSES`.
        asset_id: Your id of the content, unique within tenant and class. Stored in clear: never personal data.
        origin: ``created`` in your service, or ``uploaded`` by a user.
        user: Id of the owner, or empty.
        group: Id of one of the tenant's groups, when you know it; else groups are found through the user.
        create_time: When the content came into being, with a time zone; None means now.
    """

    tenant: str
    asset_class: str
    asset_id: str
    origin: str = "created"
    user: str = ""
    group: str = ""
    create_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key, made or opened.

    Attributes:
        key: Name of the customer key, or provider key, that wrapped it.
        plaintext: 32 bytes; empty when it was not asked for. Use it until ``lease_expire_time``, never store it.
        lease_expire_time: Ask ``unwrap`` again after this: that is what makes a revocation take effect.
        wrapped_key: To be stored beside the content; empty when the key was opened.
        encryption_context: What unwrapping needs besides; empty when the key was opened.
        decision: ``allow`` under a customer key, or ``provider_key``; empty when the key was opened.
        rule: Name of the policy rule that decided; empty when the key was opened.
    """

    key: str
    plaintext: bytes = field(repr=False)
    lease_expire_time: datetime
    wrapped_key: bytes = field(default=b"", repr=False)
    encryption_context: Mapping[str, str] = field(default_factory=dict)
    decision: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True)
class RewrappedKey:
    """A wrapped key as policy wraps it today. Its encryption context is the one that it had.

    Attributes:
        key: Name of the key that wraps it now.
        wrapped_key: To be stored in place of the old one.
        decision: ``allow`` under a customer key, or ``provider_key``.
        rule: Name of the policy rule that decided.
        rewrapped: Whether it was wrapped anew; if not, it came back as it was.
    """

    key: str
    wrapped_key: bytes = field(repr=False)
    decision: str
    rule: str
    rewrapped: bool


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The state of a key in one place: ``available``, ``unreachable``, ``revoked``, ``misconfigured``, ``unknown``.

    Attributes:
        note: What its holder should know of it although it works; may be empty.
    """

    replica: str
    state: str
    cause: str
    evidence_age: timedelta | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class CustomerKeyStatus:
    """The state of a customer key, its cause, and how old the evidence is (None: there is none)."""

    key: str
    state: str
    cause: str
    evidence_age: timedelta | None
    replicas: tuple[ReplicaStatus, ...]


@dataclass(frozen=True, slots=True)
class PolicyCheck:
    """What a tenant's policy says of an asset.

    Attributes:
        decision: ``allow``, ``provider_key`` or ``deny``.
        key: Name of the key that would serve; empty for ``deny``.
        key_state: State of that key as last seen; empty for ``deny``.
    """

    decision: str
    key: str
    rule: str
    explanation: str
    key_state: str


@dataclass(frozen=True, slots=True)
class CallAuthorization:
    """Whether a call may be set up.

    Attributes:
        decision: ``allow``, ``allow_no_recording`` or ``refuse``.
        reason: What decided, such as ``key_revoked``.
        sip_status: For ``refuse``, what to answer with; else 0.
        valid_until: Until when this holds for calls with the same facts; None for an answer given without the service.
        emergency: Whether the call goes to an emergency service.
    """

    decision: str
    reason: str
    explanation: str
    sip_status: int = 0
    key: str = ""
    evidence_age: timedelta | None = None
    valid_until: datetime | None = None
    emergency: bool = False

    @property
    def allowed(self) -> bool:
        """Whether the call may be set up, recorded or not."""
        return self.decision != "refuse"


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What was decided about an object, before its first byte.

    Attributes:
        message_id: The object's own id, 32 bytes, unique for ever.
        decision: ``allow`` or ``provider_key``; empty when decrypting.
        rule: Name of the policy rule that decided; empty when decrypting.
        content_size: For a range: bytes of the whole content; else None.
    """

    key: str
    encryption_context: Mapping[str, str]
    message_id: bytes
    frame_length: int
    decision: str = ""
    rule: str = ""
    content_size: int | None = None
