"""A watch of keys: what the service tells of their states, reconnected by itself, without missing a change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ownkey._watch import AsyncWatch, Watch
from ownkey._watching import Watching
from ownkey.models import KeyWatchEvent

Call = Callable[[Any], Any]


class KeyWatch(Watch[KeyWatchEvent]):
    """Events of keys, for as long as they are asked for. Iterate over it; use it as a context manager, or close it.

    The first event is a snapshot. When the service is away there is a ``disconnected`` event for each try, and after
    the reconnect come the changes that were missed, and a snapshot.

    Raises:
        OwnkeyError: While iterating: there is no such tenant or key, or the caller may not watch it.
    """

    def __init__(self, call: Call, watching: Watching) -> None:
        super().__init__(watching)
        self._call = call
        self._watching = watching

    @property
    def resume_token(self) -> str:
        """Where a later watch goes on."""
        return self._watching.token

    def _start(self) -> Any:
        return self._call(self._watching.request())


class AsyncKeyWatch(AsyncWatch[KeyWatchEvent]):
    """The same as :class:`KeyWatch`, for one event loop."""

    def __init__(self, call: Call, watching: Watching) -> None:
        super().__init__(watching)
        self._call = call
        self._watching = watching

    @property
    def resume_token(self) -> str:
        """Where a later watch goes on."""
        return self._watching.token

    def _start(self) -> Any:
        return self._call(self._watching.request())
