"""What can be wrong with an object.

::

    ContainerError
    ├── UnsupportedFormat          not this format, or not the profile of it that we read
    ├── LimitExceeded              more than a limit of the profile allows
    ├── HeaderInvalid              the header is not well formed
    ├── CommitmentMismatch         the data key is not this object's
    ├── HeaderTampered             the header was changed
    ├── FrameTampered              a frame was changed
    ├── FrameOutOfOrder            frames are missing, repeated or swapped
    ├── Truncated                  the object ends before its final frame
    ├── TrailingData               bytes follow the final frame
    ├── RangeInvalid               a byte range starts after the end
    ├── BranchEntryInvalid         a data key does not open under this branch key and context
    └── EncryptionLimitExceeded    more frames than a message may have
"""

from __future__ import annotations


class ContainerError(Exception):
    """Root of all errors of the container. The message never holds key or content."""


class UnsupportedFormat(ContainerError):
    """The bytes are not in this format, or in a version, suite or framing of it that we do not read."""


class LimitExceeded(ContainerError):
    """The object, or what is to become one, asks for more than a limit of the profile allows."""


class HeaderInvalid(ContainerError):
    """The header is not well formed."""


class CommitmentMismatch(ContainerError):
    """The data key is not the one that the object commits to."""

    def __init__(self) -> None:
        super().__init__("the data key is not this object's: its header commits to another; unwrap this object's own")


class HeaderTampered(ContainerError):
    """The header was changed since it was written."""

    def __init__(self) -> None:
        super().__init__("the object's header was changed since it was written: fetch or restore the object")


class FrameTampered(ContainerError):
    """A frame was changed since it was written.

    Attributes:
        sequence_number: Which, counted from 1.
    """

    def __init__(self, sequence_number: int) -> None:
        super().__init__(f"frame {sequence_number} was changed since it was written: fetch or restore the object")
        self.sequence_number = sequence_number


class FrameOutOfOrder(ContainerError):
    """Frames are missing, repeated or swapped.

    Attributes:
        expected: The sequence number that had to come.
        found: The one that came.
    """

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"frame {expected} had to come here, but frame {found} did: fetch or restore the object")
        self.expected = expected
        self.found = found


class Truncated(ContainerError):
    """The object ends before its final frame."""


class TrailingData(ContainerError):
    """Bytes follow the final frame, or the end of a range's ciphertext."""

    def __init__(
        self, text: str = "bytes follow the object's final frame: what was appended is not part of it"
    ) -> None:
        super().__init__(text)


class RangeInvalid(ContainerError):
    """A byte range starts after the end of the content."""


class BranchEntryInvalid(ContainerError):
    """A data key does not open: another branch key wrapped it, or for another context, or it was changed."""

    def __init__(
        self, text: str = "this data key was not wrapped by that branch key for that context, or was changed since"
    ) -> None:
        super().__init__(text)


class EncryptionLimitExceeded(ContainerError):
    """A message may have 2**32 - 1 frames, and this one has them."""

    def __init__(self) -> None:
        super().__init__("an object has at most 2**32 - 1 frames: finish this one, and put the rest into another")
