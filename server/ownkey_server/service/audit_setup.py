"""What reads, seals and copies the audit trail, as the settings say."""

from __future__ import annotations

from datetime import timedelta

from ownkey_server.domain.clock import Clock
from ownkey_server.settings import AuditSettings, DirectorySinkSettings, S3SinkSettings
from ownkey_server.storage.audit.keeper import AuditKeeper
from ownkey_server.storage.audit.signing import Signer, SigningKeyError, Verifier, load_verifier, public_path
from ownkey_server.storage.audit.sink import DirectorySink, Sink
from ownkey_server.storage.audit.sink_s3 import S3Sink
from ownkey_server.storage.database import Database


def open_sink(settings: AuditSettings, clock: Clock) -> Sink | None:
    """Where sealed segments are copied to; None for nowhere.

    Raises:
        SinkError: It cannot be used. The message says why.
    """
    match settings.sink:
        case DirectorySinkSettings(directory=directory):
            return DirectorySink(directory)
        case S3SinkSettings() as s3:
            return S3Sink(
                s3.bucket,
                s3.prefix,
                region=s3.region,
                endpoint_url=s3.endpoint_url,
                retain_days=s3.retain_days,
                mode=s3.mode,
                clock=clock,
            )
    return None


def open_keeper(
    database: Database, signer: Signer, clock: Clock, settings: AuditSettings, *, guarded: bool
) -> AuditKeeper:
    """What seals, copies and removes.

    Args:
        database: Where the trail is.
        signer: Signs what is sealed.
        clock: Tells the time.
        settings: Of the trail.
        guarded: Whether it takes two persons to keep records for less long.

    Raises:
        SinkError: The sink cannot be used.
        SigningKeyError: A public key cannot be used, or the signing key's own is not among them.
    """
    verifier = open_verifier(settings)
    if not verifier.good(signer.sign(b"trial"), b"trial"):
        own = public_path(settings.signing_key_file)
        raise SigningKeyError(
            f"{own}: is not the public half of {settings.signing_key_file}; remove it, or name another"
        )
    return AuditKeeper(
        database,
        signer,
        clock,
        open_sink(settings, clock),
        verifier=verifier,
        checkpoint_interval=timedelta(seconds=settings.checkpoint_seconds),
        segment_records=settings.segment_records,
        segment_age=timedelta(seconds=settings.segment_seconds),
        retention=configured_retention(settings),
        guarded=guarded,
    )


def configured_retention(settings: AuditSettings) -> timedelta | None:
    """How long records are kept, as the settings say; None for ever."""
    return timedelta(days=settings.retention_days) if settings.retention_days is not None else None


def open_verifier(settings: AuditSettings) -> Verifier:
    """The public keys that are trusted: those that the settings name, and the one beside the signing key.

    Raises:
        SigningKeyError: One cannot be used.
    """
    own = public_path(settings.signing_key_file)
    # An auditor has public keys alone, and names them.
    named = settings.public_key_files
    return load_verifier([*named, own] if own.exists() or not named else named)
