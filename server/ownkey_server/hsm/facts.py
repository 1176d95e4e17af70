"""What is told of tokens and of the keys in them: plain values, without any secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ownkey_server.domain.key_labels import pending_for

RIGHTS = ("encrypt", "decrypt", "wrap", "unwrap", "sign", "verify", "derive")


class KeyUse(StrEnum):
    """What a key may be used for, as its attributes say."""

    ACTIVE = "active"
    OPENS_ONLY = "opens-only"
    RETIRED = "retired"
    WRAPS_ONLY = "wraps-only"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """A token, as it describes itself.

    Attributes:
        mechanisms: Their names, where it was asked for them.
        profile: The family that it is known as.
        serial_identifies: Its serial number is its own.
    """

    label: str
    serial: str
    manufacturer: str
    model: str
    initialized: bool
    has_user_pin: bool
    mechanisms: tuple[str, ...] = ()
    profile: str = ""
    serial_identifies: bool = True

    @property
    def identity(self) -> Mapping[str, str]:
        """Which token it is, for the ceremony log."""
        return {
            "label": self.label,
            "manufacturer": self.manufacturer,
            "model": self.model,
            "serial": self.serial,
        }

    def __str__(self) -> str:
        return f"{self.label} (serial {self.serial or 'none'}, {self.manufacturer} {self.model})".strip()


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A secret key object of a token.

    Attributes:
        check_values: Its key check values by method: hex digits.
        bits: 0 where the token does not say.
        rights: Of ``RIGHTS``, those that it has.
        local: It was made in this token; None where the token does not say.
        never_extractable: It never could leave the token in clear or wrapped; None where the token does not say.
        unfit: Why the key store would not use it, whatever its settings say.
        wrap_with_trusted: It leaves the token only under a key that the security officer trusts; None as above.
    """

    label: str
    key_type: str
    bits: int
    check_values: Mapping[str, str]
    rights: tuple[str, ...]
    sensitive: bool
    extractable: bool
    local: bool | None
    never_extractable: bool | None
    modifiable: bool | None
    unfit: tuple[str, ...] = field(default=())
    wrap_with_trusted: bool | None = None

    @property
    def exportable(self) -> bool:
        """Whether it leaves the token wrapped, and only under a key that the security officer trusts."""
        return self.extractable and bool(self.wrap_with_trusted)

    @property
    def use(self) -> KeyUse:
        """What it may be used for."""
        if pending_for(self.label):
            return KeyUse.PENDING
        wraps, opens = bool({"encrypt", "wrap"} & {*self.rights}), bool({"decrypt", "unwrap"} & {*self.rights})
        if wraps:
            return KeyUse.ACTIVE if opens else KeyUse.WRAPS_ONLY
        return KeyUse.OPENS_ONLY if opens else KeyUse.RETIRED


def told_check_value(check_values: Mapping[str, str]) -> str:
    """Key check values for people, each with its method but for the usual one."""
    return ", ".join(
        value if method == "aes-ecb" else f"{method}:{value}" for method, value in sorted(check_values.items())
    )
