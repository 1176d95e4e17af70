"""How a tenant's calls are gated: the choices and the rules, as plain values. ``ownkey.gate`` decides by them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ownkey_server.domain.assets import AssetClass

MAX_GRACE = 86_400
"""Seconds: no grace lasts longer."""


class GateMode(StrEnum):
    """What happens to a call whose recording could not be protected."""

    ALLOW = "allow"
    REFUSE = "refuse"
    ALLOW_NO_RECORDING = "allow_no_recording"
    OFF = ALLOW

    @classmethod
    def _missing_(cls, value: object) -> GateMode | None:
        """``off``: what ``allow`` was called before."""
        return cls.ALLOW if value == "off" else None

    @property
    def strictness(self) -> int:
        """How much it keeps from being set up or recorded."""
        return (GateMode.ALLOW, GateMode.ALLOW_NO_RECORDING, GateMode.REFUSE).index(self)


class CallDirection(StrEnum):
    """Which way a call goes, seen from the tenant."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Choices:
    """What to do while a key that is needed is not usable.

    Attributes:
        mode: In every state of which nothing else is said.
        grace: Seconds after the key was last seen working during which an outage, or a want of evidence, counts for
            nothing. A revocation counts at once.
    """

    mode: GateMode = GateMode.ALLOW
    revoked: GateMode | None = None
    unreachable: GateMode | None = None
    unknown: GateMode | None = None
    misconfigured: GateMode | None = None
    grace: int = 0


@dataclass(frozen=True, slots=True)
class GateRule:
    """A line of a gate. All conditions must hold; one that is empty always holds.

    Attributes:
        name: Unique within the gate.
        callers: Number ranges, as ``ownkey.gate`` has them; ``callees`` the same.
    """

    name: str
    choices: Choices
    sites: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    callers: tuple[str, ...] = ()
    callees: tuple[str, ...] = ()
    directions: frozenset[CallDirection] = frozenset()
    groups: frozenset[str] = frozenset()
    stores: frozenset[AssetClass] = frozenset()


@dataclass(frozen=True, slots=True)
class CallGate:
    """How a tenant's calls are gated: the first rule that matches decides, or else the default.

    Attributes:
        mode: By default: what to do while a key that is needed is not usable.
        directions: By default: the calls that are gated; others are as with mode ``allow``.
        countries: ISO 3166 codes of where the tenant's phones are: whose emergency numbers count.
        emergency_numbers: The tenant's own, such as an internal security desk.
        outside_line_prefixes: Digits dialled to get an outside line, such as ``9``.
        choices: By default: what to do where that is not what the mode says; its own mode does not count.
    """

    mode: GateMode = GateMode.ALLOW
    directions: frozenset[CallDirection] = frozenset(CallDirection)
    countries: tuple[str, ...] = ()
    emergency_numbers: frozenset[str] = frozenset()
    outside_line_prefixes: tuple[str, ...] = ()
    choices: Choices = Choices()
    rules: tuple[GateRule, ...] = ()


NOT_GATED = CallGate()
"""The gate of a tenant that has none."""
