"""The wrapping key pairs in a token that outlive a session: those of imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pkcs11 import Attribute, ObjectClass

if TYPE_CHECKING:
    from ownkey_server.hsm.bench import Bench


@dataclass(frozen=True, slots=True)
class KeptPairs:
    """The labels of wrapping pairs that outlived their session.

    Attributes:
        prefix: What their labels begin with.
    """

    prefix: str

    def run(self, bench: Bench) -> list[str]:
        """Look."""
        found = {
            each[Attribute.LABEL]
            for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
            for each in list(bench.session.get_objects({Attribute.CLASS: kind, Attribute.TOKEN: True}))
        }
        return sorted(label for label in found if label.startswith(self.prefix))
