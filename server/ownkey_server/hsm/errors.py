"""What stops the work at a token: told in one line, with what to change."""

from __future__ import annotations

from enum import StrEnum


class Trouble(StrEnum):
    """What kind of thing it is: decides the exit code."""

    WRONG = "wrong"
    NOT_FOUND = "not_found"
    TAKEN = "taken"
    UNREACHABLE = "unreachable"
    UNSUPPORTED = "unsupported"
    UNFIT = "unfit"
    REFUSED = "refused"
    FORGED = "forged"


class HsmError(Exception):
    """Nothing was done, or what was begun was undone.

    Args:
        message: What happened, without any secret.
        trouble: Of which kind it is.
        hint: What to do about it.
    """

    def __init__(self, message: str, trouble: Trouble = Trouble.WRONG, hint: str = "") -> None:
        super().__init__(message)
        self.trouble = trouble
        self.hint = hint


class ModuleDied(HsmError):
    """The process with the module in it has ended, or had to be ended: what it was doing may be done or not."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, Trouble.UNREACHABLE, hint)
