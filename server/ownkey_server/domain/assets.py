"""What is protected: asset classes, origins, and the facts about one asset."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class AssetClass(StrEnum):
    """The kind of content. The value is the public name, in policies, contexts and on the command line."""

    MEETING_RECORDING = "meeting_recording"
    MEETING_TRANSCRIPT = "meeting_transcript"
    MEETING_CHAT = "meeting_chat"
    WEBINAR_RECORDING = "webinar_recording"
    PHONE_RECORDING = "phone_recording"
    PHONE_VOICEMAIL = "phone_voicemail"
    PHONE_TRANSCRIPT = "phone_transcript"
    PHONE_MMS = "phone_mms"
    CALENDAR_TOKEN_ROOMS = "calendar_token_rooms"  # noqa: S105 - a class name
    CALENDAR_TOKEN_USER = "calendar_token_user"  # noqa: S105 - a class name
    TEAMS_TOKEN = "teams_token"  # noqa: S105 - a class name
    MEETING_ARCHIVE = "meeting_archive"
    WEBINAR_ARCHIVE = "webinar_archive"
    TEAM_CHAT = "team_chat"
    LIVE_MEDIA = "live_media"


class AssetOrigin(StrEnum):
    """Where content came from."""

    CREATED = "created"
    UPLOADED = "uploaded"


@dataclass(frozen=True, slots=True)
class Asset:
    """The facts about one asset that policy may look at.

    Attributes:
        tenant: Id of the tenant.
        asset_class: The kind of content.
        asset_id: The caller's id, unique within tenant and class.
        origin: Made by the service, or uploaded by a user.
        user: Id of the owner, or empty.
        group: Id of a group that the caller knows the owner to be in, or empty.
        create_time: When the content came into being (UTC); None means now.
    """

    tenant: str
    asset_class: AssetClass
    asset_id: str
    origin: AssetOrigin = AssetOrigin.CREATED
    user: str = ""
    group: str = ""
    create_time: datetime | None = None
