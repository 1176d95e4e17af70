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
        since: Since when the state is told; None without evidence.
        evidence: How it is known: ``traffic``, ``probe``, or ``shared`` by another instance; empty without evidence.
        recovering: Whether it works again, and is told ``unreachable`` until that has lasted: calls are served.
    """

    replica: str
    state: str
    cause: str
    evidence_age: timedelta | None
    note: str = ""
    since: datetime | None = None
    evidence: str = ""
    recovering: bool = False


@dataclass(frozen=True, slots=True)
class CustomerKeyStatus:
    """The state of a customer key, its cause, and how old the evidence is (None: there is none).

    Attributes:
        since: As for :class:`ReplicaStatus`, and so are ``evidence`` and ``recovering``.
    """

    key: str
    state: str
    cause: str
    evidence_age: timedelta | None
    replicas: tuple[ReplicaStatus, ...]
    since: datetime | None = None
    evidence: str = ""
    recovering: bool = False


@dataclass(frozen=True, slots=True)
class KeyStateChange:
    """A change of a key's state.

    Attributes:
        sequence: Its place among all changes: later ones have higher numbers.
        key: Name of the key.
        replica: The place; empty for the key as a whole.
        before: The state until then; empty when nothing was known.
        state: The state from then on.
        cause: Why it is not available; else empty.
        evidence: How it was seen: ``traffic`` or ``probe``.
        time: When it was seen.
    """

    sequence: int
    key: str
    replica: str
    before: str
    state: str
    cause: str
    evidence: str
    time: datetime


@dataclass(frozen=True, slots=True)
class KeyStateChanges:
    """A page of changes, the newest first; ``next_page_token`` is empty at the end."""

    changes: tuple[KeyStateChange, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class KeyWatchEvent:
    """What a watch of keys tells.

    Attributes:
        kind: ``snapshot``: the present states, of all keys that are watched. ``status``: the present state of one key,
            which is other than it was told last. ``change``: a line of the history, each once and in order.
            ``heartbeat``: nothing has happened. ``disconnected``: the service cannot be reached; what is known grows
            old, and the watch goes on by itself when it can.
        resume_token: Where a later watch goes on.
        keys: The states, of a snapshot or a status.
        change: The change.
        changes_missed: Of a snapshot: not every change until then was told.
        cause: Why it was disconnected.
    """

    kind: str
    resume_token: str
    keys: tuple[CustomerKeyStatus, ...] = ()
    change: KeyStateChange | None = None
    changes_missed: bool = False
    cause: str = ""


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
        rule: Name of the call gate's rule that decided; empty when the gate was not asked.
        retry_after: For ``sip_status`` 503: when to try again, as in its ``Retry-After``.
    """

    decision: str
    reason: str
    explanation: str
    sip_status: int = 0
    key: str = ""
    evidence_age: timedelta | None = None
    valid_until: datetime | None = None
    emergency: bool = False
    rule: str = ""
    retry_after: timedelta | None = None

    @property
    def allowed(self) -> bool:
        """Whether the call may be set up, recorded or not."""
        return self.decision != "refuse"


@dataclass(frozen=True, slots=True)
class WatchedCall:
    """A call that is under way, with the facts that a tenant's call gate may look at.

    Attributes:
        call_id: Your id of it: 1 to 256 printable ASCII characters without spaces.
        callee: Who is called, in any way of writing; ``caller`` likewise, or empty.
        direction: ``inbound``, ``outbound``, ``internal``, or empty.
        stores: The asset classes that are stored of it; empty means nothing.
    """

    call_id: str
    callee: str
    caller: str = ""
    direction: str = ""
    user: str = ""
    group: str = ""
    stores: tuple[str, ...] = ()
    site: str = ""
    queue: str = ""


@dataclass(frozen=True, slots=True)
class CallChange:
    """That something else is to be done with a call than before.

    Attributes:
        action: ``end`` it; ``stop_recording``: it goes on, and nothing of it is stored; ``continue``: it goes on, and
            what was to be stored is stored. A call to an emergency service is never told to end.
        reason: What decided, as of :class:`CallAuthorization`.
        key: Name of the key that decided; empty when none did.
        rule: Name of the call gate's rule that decided.
    """

    call_id: str
    action: str
    reason: str
    explanation: str
    key: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True)
class CallWatchEvent:
    """What a watch of calls tells.

    Attributes:
        kind: ``connected``: the service hears of the calls, the first time or again. ``change``: something else is to
            be done with a call. ``heartbeat``: nothing is. ``disconnected``: the service cannot be reached; the watch
            goes on by itself when it can, and until then nobody tells whether a key was taken away.
        calls: How many calls the service watches; when it is disconnected, how many are to be watched.
        change: What is to be done.
        cause: Why it was disconnected.
    """

    kind: str
    calls: int
    change: CallChange | None = None
    cause: str = ""


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
