"""What comes back from a module's process: a few kinds of values, and nothing that could run here.

The vendor's library shares its process with nobody. Custodians' keys and components are in the command's process, so
that what the other sends is read as data: pickles, of an allow-list of classes.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NoReturn

_ALLOWED = {
    ("ownkey.container.header", "EncryptedDataKey"),
    ("ownkey_server.hsm.facts", "KeyFacts"),
    ("ownkey_server.hsm.facts", "TokenFacts"),
    ("ownkey_server.hsm.operations.transport", "PublicKey"),
}


class AnswerForbidden(Exception):
    """The bytes are no answer of ours."""


def packed(answer: object) -> bytes:
    """An answer, as it is sent."""
    return pickle.dumps(answer, protocol=5)


def unpacked(content: bytes) -> Any:
    """The answer again.

    Raises:
        AnswerForbidden: It is none, or holds what none holds.
    """
    try:
        return _Reader(io.BytesIO(content)).load()
    except AnswerForbidden:
        raise
    except Exception:  # noqa: BLE001 - whatever bytes make of a reader
        raise AnswerForbidden from None


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The class of that name, if it is one of an answer's."""
        return super().find_class(module, name) if (module, name) in _ALLOWED else _forbidden()


def _forbidden() -> NoReturn:
    raise AnswerForbidden
