"""Changes that can be set to need a second person."""

from __future__ import annotations

from enum import StrEnum


class Danger(StrEnum):
    """A kind of change that may need a second person.

    ``REMOVE_KEY``: nothing that the key wrapped can be opened here any more. ``GATE_OFF``: calls are set up although
    their recordings cannot be protected. ``GRANT_ROLE``: somebody may do more than before.
    """

    REMOVE_KEY = "remove_key"
    GATE_OFF = "gate_off"
    GRANT_ROLE = "grant_role"
