"""Where a frame comes together that did not come in one piece."""

from __future__ import annotations


class FrameBuffer:
    """The beginning of one frame. Its memory serves the next frame too, and grows only as bytes come.

    Args:
        capacity: The most bytes that it will hold.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._memory = bytearray()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, piece: memoryview) -> None:
        """Take a piece, by copy."""
        end = self._length + len(piece)
        if end > len(self._memory):
            grown = bytearray(max(end, min(2 * len(self._memory), self._capacity)))
            with memoryview(grown) as new, self.view() as old:
                new[: self._length] = old
            self._memory = grown
        with memoryview(self._memory) as memory:
            memory[self._length : end] = piece
        self._length = end

    def view(self) -> memoryview:
        """What has come. To be released before the next piece."""
        return memoryview(self._memory)[: self._length]

    def clear(self) -> None:
        """Begin another frame."""
        self._length = 0
