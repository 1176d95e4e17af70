"""A data key in memory: it cannot be printed, pickled or compared by accident."""

from __future__ import annotations

from typing import Final, NoReturn


class SecretBytes:
    """Key bytes that show themselves only through :meth:`reveal`.

    Python cannot promise that no copy remains (protobuf and OpenSSL make their own); :meth:`wipe` clears this one.
    Nor is it locked into memory by itself: it is smaller than a page, locks are by page and do not nest, so
    unlocking one would unlock others that share its page. ``server.lock_memory`` locks all there is.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self._value: Final = bytearray(value)

    def reveal(self) -> bytearray:
        """The bytes themselves, not a copy: whoever calls this takes care of them."""
        return self._value

    def wipe(self) -> None:
        """Overwrite the bytes with zeros."""
        self._value[:] = bytes(len(self._value))

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return "SecretBytes(...)"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("SecretBytes is never serialized")
