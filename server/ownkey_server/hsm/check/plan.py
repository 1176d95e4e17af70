"""What is to be checked, and how: from the command line to the processes that do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from ownkey_server.keystores.pkcs11.profiles import AUTO
from ownkey_server.keystores.pkcs11.ways import Way

MECHANISMS = ("auto", *(way.value for way in Way))
SESSIONS_AT_ONCE = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Plan:
    """A token, and what to look at.

    Attributes:
        module: The vendor's library.
        token_label: Which token.
        keys: Labels of the keys to look at; a key of the session is made and looked at where there are none.
        mechanism: One of ``MECHANISMS``: what the key store is set to.
        sessions: How many sessions are opened at the most, to see whether that many may be.
        patience: Seconds of silence after which the module has hung.
        speed_seconds: How long each measurement takes; 0 for none.
        run: Names the throw-away keys of this check: ``ownkey-check-RUN-…``.
        inventory: What the token held when the check began: a digest; empty as long as it is not known.
        serial: The serial number that it must have; empty for any.
        arguments: What the module is initialized with; None for nothing.
        profile: The token's family; ``auto`` knows it by what token and module say.
        exportable_keys: The key store uses keys, too, that the token's security officer can have exported.
    """

    module: Path
    token_label: str
    keys: tuple[str, ...] = ()
    mechanism: str = "auto"
    sessions: int = 32
    patience: float = 20.0
    speed_seconds: float = 1.0
    run: str = ""
    inventory: str = ""
    serial: str = ""
    arguments: str | None = None
    profile: str = AUTO
    exportable_keys: bool = False

    @property
    def throw_away(self) -> str:
        """How the labels of this check's own keys begin."""
        return f"ownkey-check-{self.run}-"

    def with_inventory(self, inventory: str) -> Self:
        """The same, once it is known what the token holds."""
        return replace(self, inventory=inventory)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "module": str(self.module)}

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """What ``plain`` gave."""
        return cls(**{**fields, "module": Path(fields["module"]), "keys": tuple(fields["keys"])})
