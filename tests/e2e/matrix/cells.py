"""The matrix: what happens to a key, and what everybody sees of it. This is data, and the tests do what it says.

Each row of :data:`CELLS` is one thing that happens to a customer key of its own, in a real key store, while a real
server uses it, and then ends. ``docs/state-matrix.md`` shows the same rows; ``python -m e2e.matrix.page``, from
``tests/``, writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

OK = "OK"
AVAILABLE, DEGRADED, UNREACHABLE = "AVAILABLE", "DEGRADED", "UNREACHABLE"
REVOKED, MISCONFIGURED, UNKNOWN = "REVOKED", "MISCONFIGURED", "UNKNOWN"
KEY_REVOKED, KEY_UNREACHABLE, KEY_MISCONFIGURED = "KEY_REVOKED", "KEY_UNREACHABLE", "KEY_MISCONFIGURED"
KEY_STORE_THROTTLED, CIPHERTEXT_INVALID = "KEY_STORE_THROTTLED", "CIPHERTEXT_INVALID"

CODES: Mapping[str, str] = {
    KEY_REVOKED: "FAILED_PRECONDITION",
    KEY_UNREACHABLE: "UNAVAILABLE",
    KEY_MISCONFIGURED: "FAILED_PRECONDITION",
    KEY_STORE_THROTTLED: "UNAVAILABLE",
    CIPHERTEXT_INVALID: "INVALID_ARGUMENT",
}
"""The gRPC status in which each reason comes."""


@dataclass(frozen=True, slots=True)
class Consequences:
    """What a state of a key means for those who do not use the key.

    Attributes:
        gate: What AuthorizeCall says where the tenant refuses calls whose recording cannot be protected.
        ruled: The same by a rule that refuses when the key is revoked, does not record in an outage, and allows the
            call when the set-up is at fault.
        grace: The same by a rule that refuses, after an hour's grace.
        told: The notification.
    """

    gate: str
    ruled: str
    grace: str
    told: str


ALLOWED = "allow"
NO_RECORDING = "allow without recording"
REFUSED_403 = "refuse, 403"
REFUSED_503 = "refuse, 503"

CONSEQUENCES: Mapping[str, Consequences] = {
    AVAILABLE: Consequences(ALLOWED, ALLOWED, ALLOWED, ""),
    DEGRADED: Consequences(ALLOWED, ALLOWED, ALLOWED, "replica_degraded"),
    UNREACHABLE: Consequences(REFUSED_503, NO_RECORDING, ALLOWED, "key_unreachable"),
    REVOKED: Consequences(REFUSED_403, REFUSED_403, REFUSED_403, "key_revoked"),
    MISCONFIGURED: Consequences(REFUSED_503, ALLOWED, REFUSED_503, "key_misconfigured"),
}

DOUBTFUL = Consequences(REFUSED_503, REFUSED_503, REFUSED_503, "key_misconfigured")
"""Of ``MISCONFIGURED`` where it may be its holder's doing all the same: no choice allows what revocation forbids."""

GATE = """
mode = "refuse"
countries = ["DE"]

[[tenants.call_gate.rules]]
name = "ruled"
queues = ["ruled"]
mode = "refuse"
unreachable = "allow_no_recording"
misconfigured = "allow"

[[tenants.call_gate.rules]]
name = "grace"
queues = ["grace"]
mode = "refuse"
grace_seconds = 3600
"""
"""The gate of every tenant of the matrix, as in a tenants file."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing that happens, and what is seen of it.

    Attributes:
        store: The kind of key store, and how it is set up.
        act: Name of the method in ``holders`` that does it, and undoes it.
        happens: It, in words.
        state: Of the key, for as long as it goes on.
        cause: In the words of KeyStatus, with ``*`` for what differs from machine to machine.
        generate: What GenerateDataKey answers meanwhile: the reason of its error, or OK.
        unwrap: The same for Unwrap.
        passing: Further reasons that either may have while it begins or ends, and why that is no mistake.
        while_down: Whether it happens while no server runs, so that the next one finds it.
        doubtful: Whether it is ``MISCONFIGURED`` in a way that may be its holder's doing after all.
        by_way_of: A state that it may have for a moment on its way there and back, because it is so.
    """

    store: str
    act: str
    happens: str
    state: str
    cause: str = ""
    generate: str = OK
    unwrap: str = OK
    passing: Mapping[str, str] | None = None
    while_down: bool = False
    doubtful: bool = False
    by_way_of: str = ""

    @property
    def id(self) -> str:
        """Names it in tests, and its tenant."""
        return f"{self.store}-{self.act}".replace("_", "-")

    @property
    def seen(self) -> Consequences:
        """What others see of it."""
        return DOUBTFUL if self.doubtful else CONSEQUENCES[self.state]


def revoked(store: str, act: str, happens: str, cause: str, **more: object) -> Cell:
    """A deliberate act of the key's holder."""
    fields = {"generate": KEY_REVOKED, "unwrap": KEY_REVOKED} | more
    return Cell(store, act, happens, REVOKED, cause, **fields)  # type: ignore[arg-type]


def outage(store: str, act: str, happens: str, cause: str, **more: object) -> Cell:
    """Nobody's decision."""
    fields = {"generate": KEY_UNREACHABLE, "unwrap": KEY_UNREACHABLE} | more
    return Cell(store, act, happens, UNREACHABLE, cause, **fields)  # type: ignore[arg-type]


def misconfigured(store: str, act: str, happens: str, cause: str, **more: object) -> Cell:
    """A fault of the set-up, or of ours."""
    fields = {"generate": KEY_MISCONFIGURED, "unwrap": KEY_MISCONFIGURED} | more
    doubtful = store == "aws_kms"
    return Cell(store, act, happens, MISCONFIGURED, cause, doubtful=doubtful, **fields)  # type: ignore[arg-type]


def nothing(store: str, act: str, happens: str, **more: object) -> Cell:
    """Something that says nothing of the key."""
    return Cell(store, act, happens, AVAILABLE, **more)  # type: ignore[arg-type]


_EXCHANGED = "it wraps and opens, and does not open what it had wrapped before: it is another key by the same name*"
_TAKEN_BACK = "the tenant has taken it back here, by revocation *"
_HUNG = {KEY_STORE_THROTTLED: "the places of this tenant's calls are all waiting"}
_IN_DOUBT = {KEY_STORE_THROTTLED: "the caller's time ended before it was certain"}
_BOTH_REVOKED = {"generate": KEY_REVOKED, "unwrap": KEY_REVOKED}
_LOADING = {KEY_STORE_THROTTLED: "the module is being loaded"}
_NOT_THERE = {KEY_UNREACHABLE: "there is no token at this moment"}
_ROLE_DENIED = "its holder denies us the role: see its trust policy"
_NO_TLS = "no TLS connection to AWS can be made"
_DENIED = "its holder denies us the key: see key policy"


def _files(store: str) -> tuple[Cell, ...]:
    """Keys in files, in clear or sealed."""
    return (
        revoked(store, "disabled", "its holder runs `ownkey keystore disable`", "its holder disabled it"),
        outage(
            store,
            "volume_gone",
            "the directory is gone: its volume is not mounted",
            "*/acme-main.key is not there any more",
        ),
        outage(store, "file_deleted", "the key's file is gone", "*/acme-main.key is not there any more"),
        outage(
            store,
            "unreadable",
            "we may not read the file any more",
            "*/acme-main.key cannot be read: Permission denied",
        ),
        outage(
            store,
            "folder_closed",
            "we may not enter the directory any more",
            "*/acme-main.key cannot be read: Permission denied",
        ),
        misconfigured(store, "readable_by_others", "others may read the file", "*chmod 600*"),
        misconfigured(store, "cut_short", "the file lost its end", "*"),
        revoked(store, "taken_back", "its tenant runs `ownkey admin revocation create --key`", _TAKEN_BACK),
        nothing(store, "forged", "a caller hands in a changed wrapped key", unwrap=CIPHERTEXT_INVALID),
        outage(
            store,
            "volume_gone_at_start",
            "the directory is gone: its volume is not mounted",
            "*/keys is not there: is its volume mounted?",
            while_down=True,
        ),
        revoked(store, "disabled_while_down", "its holder disables it", "its holder disabled it", while_down=True),
    )


def _token(store: str) -> tuple[Cell, ...]:
    """Keys in a token of SoftHSM."""
    return (
        revoked(
            store,
            "rights_withdrawn",
            "its holder takes all its rights",
            "it may neither encrypt and decrypt nor wrap and unwrap",
        ),
        revoked(store, "opening_forbidden", "its holder takes its right to decrypt or unwrap", "*"),
        revoked(
            store, "destroyed", "its holder destroys the key", "the token has no key of this label", passing=_IN_DOUBT
        ),
        misconfigured(
            store,
            "wrong_pin_while_down",
            "the PIN is another",
            "the token has refused the PIN*",
            while_down=True,
            passing=_LOADING,
        ),
        misconfigured(
            store,
            "open_pin_while_down",
            "others may read the PIN's file",
            "*chmod 600*",
            while_down=True,
            passing=_LOADING,
        ),
        misconfigured(
            store,
            "initialized_anew",
            "the token is exchanged for another by its label",
            "the token was initialized anew, and has no key of this label",
            passing=_NOT_THERE,
        ),
        revoked(
            store,
            "destroyed_while_down",
            "its holder destroys the key",
            "the token has no key of this label",
            while_down=True,
            passing=_IN_DOUBT | _LOADING,
        ),
        misconfigured(
            store,
            "exchanged_while_down",
            "its holder destroys the key, and makes another of its label",
            _EXCHANGED,
            while_down=True,
            passing=_LOADING | {KEY_REVOKED: "the other key is gone, and the right one is not back yet"},
            by_way_of=REVOKED,
        ),
        outage(
            store, "pulled_while_down", "the token is pulled", "there is no token*", while_down=True, passing=_LOADING
        ),
        outage(store, "hung", "the token does not come back from a call", "*", passing=_HUNG),
        outage(store, "pulled", "the token is pulled", "there is no token*"),
        nothing(store, "forged", "a caller hands in a changed wrapped key", unwrap=CIPHERTEXT_INVALID),
    )


def _cloud(store: str) -> tuple[Cell, ...]:
    """Keys in AWS KMS."""
    throttled = {"generate": KEY_STORE_THROTTLED, "unwrap": KEY_STORE_THROTTLED}
    return (
        revoked(store, "disabled", "its holder disables it", "the key is disabled"),
        revoked(store, "deletion_scheduled", "its holder schedules its deletion", "the key is scheduled for deletion"),
        revoked(store, "deleted", "the waiting period ends, and AWS deletes it", "the key was deleted"),
        revoked(store, "denied", "its holder denies us the key in its policy", _DENIED),
        revoked(store, "decrypt_denied", "its holder denies us Decrypt alone", _DENIED, generate=OK),
        revoked(store, "wrapping_denied", "its holder denies us GenerateDataKey alone", _DENIED, unwrap=OK),
        nothing(
            store, "class_denied", "its holder denies us recordings, by a condition on the context", **_BOTH_REVOKED
        ),
        revoked(
            store,
            "material_deleted",
            "its holder deletes the imported material",
            "its imported key material was deleted",
        ),
        revoked(
            store,
            "manager_denies",
            "the proxy of its external key store denies us the key",
            "the proxy of its external key store denies us the key",
        ),
        revoked(
            store,
            "manager_disabled",
            "its holder disables it in the external key manager",
            "the key is disabled in its external key manager",
        ),
        revoked(store, "role_untrusting", "its holder's role trusts us no more", _ROLE_DENIED),
        revoked(store, "role_deleted", "its holder deletes the role", _ROLE_DENIED),
        revoked(store, "disabled_while_down", "its holder disables it", "the key is disabled", while_down=True),
        revoked(store, "denied_while_down", "its holder denies us the key in its policy", _DENIED, while_down=True),
        revoked(store, "deleted_while_down", "AWS deletes it", "the key was deleted", while_down=True),
        outage(store, "cut_off", "nobody listens at the endpoint", "AWS cannot be reached"),
        outage(store, "reset", "connections are reset", "AWS *"),
        outage(store, "swallowed", "the endpoint takes requests and answers none", "AWS *", passing=_HUNG),
        outage(store, "black_hole", "the requests for this key get no answer", "AWS * answer in time", passing=_HUNG),
        outage(store, "dripping", "answers come a byte at a time", "AWS *", passing=_HUNG),
        outage(store, "false_certificate", "the endpoint shows a certificate of nobody we believe", _NO_TLS),
        outage(store, "gateway_500", "a gateway before KMS answers 500", "AWS KMS has trouble of its own"),
        outage(store, "internal_error", "KMS answers KMSInternalException", "AWS KMS has trouble of its own"),
        outage(store, "unavailable", "KMS answers KeyUnavailableException", "AWS KMS has trouble of its own"),
        outage(
            store, "unheard_of", "KMS answers what nobody has heard of", "AWS answers an error that is not known here"
        ),
        outage(
            store, "custom_store_gone", "its custom key store is not connected", "its custom key store is not connected"
        ),
        outage(
            store,
            "silent_manager",
            "its external key manager does not answer",
            "its external key manager does not answer",
        ),
        outage(
            store,
            "black_hole_while_down",
            "the requests for this key get no answer",
            "AWS * answer in time",
            passing=_HUNG,
            while_down=True,
        ),
        nothing(store, "throttled", "KMS answers ThrottlingException", **throttled),
        nothing(store, "gateway_throttles", "a gateway before KMS answers ThrottlingException", **throttled),
        nothing(store, "busy_manager", "the proxy of its external key store is too busy", **throttled),
        nothing(store, "role_sessions_ended", "the sessions of its holder's role end"),
        nothing(store, "forged", "a caller hands in a changed wrapped key", unwrap=CIPHERTEXT_INVALID),
        misconfigured(
            store,
            "own_credentials_expired",
            "our own credentials expire",
            "AWS refuses our own credentials: renew them",
        ),
        misconfigured(store, "bad_signature", "AWS refuses our signature", "AWS refuses our signature: *"),
        misconfigured(
            store,
            "denied_by_our_policy",
            "our own IAM policy lets us no more",
            "AWS denies us the key by an identity-based*",
        ),
        misconfigured(
            store,
            "own_rights_lost",
            "AWS denies us every key, our canary too",
            "AWS denies us the key, and our canary key does not work either*",
        ),
        misconfigured(
            store,
            "own_canary_silent",
            "AWS denies us the key, and our canary does not answer",
            "AWS denies us the key, and our canary key does not answer*",
            passing={KEY_REVOKED: "the canary answers again, and only then is it known that it was no fault of ours"},
            by_way_of=REVOKED,
        ),
        misconfigured(
            store,
            "denied_without_canary",
            "AWS denies us the key in a region where we have no canary",
            "AWS denies us the key; a canary key in its region*",
        ),
        misconfigured(
            store, "closed_region", "the account closes the region", "the account has not enabled this region"
        ),
        Cell(
            store, "of_two_first_gone", "of two regions, the first cannot be reached", DEGRADED, "*cannot be reached*"
        ),
        Cell(
            store, "of_two_second_gone", "of two regions, the second cannot be reached", DEGRADED, "*cannot be reached*"
        ),
        outage(
            store,
            "of_two_both_gone",
            "of two regions, none can be reached",
            "*AWS cannot be reached*",
            by_way_of=DEGRADED,
        ),
        revoked(
            store, "of_two_first_disabled", "of two regions, its holder disables it in the first", "the key is disabled"
        ),
    )


CELLS: tuple[Cell, ...] = (
    *_files("embedded"),
    misconfigured("embedded", "exchanged", "the file holds another key", "*/acme-main.key holds another key than*"),
    misconfigured(
        "embedded",
        "exchanged_while_down",
        "the file holds another key",
        _EXCHANGED,
        while_down=True,
    ),
    *_files("embedded-sealed"),
    misconfigured(
        "embedded-sealed",
        "other_passphrase_while_down",
        "the passphrase is another",
        "*cannot be opened*",
        while_down=True,
    ),
    misconfigured(
        "embedded-sealed", "seal_gone_while_down", "`.seal` is gone", "*put it back from a backup*", while_down=True
    ),
    nothing("embedded-sealed", "passphrase_gone", "the passphrase's file is gone: the server has it in memory"),
    *_token("pkcs11-gcm"),
    *_token("pkcs11-kw"),
    *_cloud("aws_kms"),
)
