"""How much content a frame holds, by class: one choice for the service and for local mode.

A frame is sent when it is full. 256 KiB of live voice would be half a minute of delay, and small things stay small.
"""

from __future__ import annotations

from collections.abc import Mapping

from ownkey.container import FRAME_LENGTH_DOCUMENT, FRAME_LENGTH_MEDIA, FRAME_LENGTH_VOICE

_BY_CLASS: Mapping[str, int] = {
    "live_media": FRAME_LENGTH_VOICE,
    "meeting_transcript": FRAME_LENGTH_DOCUMENT,
    "meeting_chat": FRAME_LENGTH_DOCUMENT,
    "phone_transcript": FRAME_LENGTH_DOCUMENT,
    "calendar_token_rooms": FRAME_LENGTH_DOCUMENT,
    "calendar_token_user": FRAME_LENGTH_DOCUMENT,
    "teams_token": FRAME_LENGTH_DOCUMENT,
    "team_chat": FRAME_LENGTH_DOCUMENT,
}


def frame_length_of(asset_class: str) -> int:
    """Plaintext bytes in a frame, for content of that class."""
    return _BY_CLASS.get(asset_class, FRAME_LENGTH_MEDIA)
