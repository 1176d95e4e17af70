"""What the transport lets one peer take: gRPC Core's limits on connections, calls, pings, headers and messages.

Core ignores a channel argument that it does not know without a word, and some that its documentation names have no
effect in this version. Every argument here is proven against a real server by ``tests/unit/rpc/test_transport.py``;
``docs/limits.md`` says what a caller sees of each, and which arguments were tried and found to do nothing.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace

from ownkey_server.settings.limits import LimitSettings

MIB = 1024 * 1024

# A ping too early is forgiven this often, until the connection carries data again.
PING_STRIKES = 2
# Calls that Core has taken in and that wait for the event loop. Beyond this Core cancels calls, whoever's they are; by
# default it begins at 1000, by chance, and what a flood from a few connections makes wait is more than that.
PENDING_CALLS = 10_000
# Descriptors for what is no connection: the database, the audit trail, logs, tokens, threads' wake-ups.
RESERVED_DESCRIPTORS = 512


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Bounds that hold before a request is known. Seconds and bytes.

    Attributes:
        max_message_bytes: A larger message, either way, is refused with RESOURCE_EXHAUSTED.
        max_concurrent_streams: Calls at once on one connection; more wait in the client, or are refused.
        max_connections: Connections at once to one listener; further ones are closed at once.
        handshake_seconds: From accepting a connection to the client's first SETTINGS, TLS included, and from there to
            its acknowledgement of ours.
        connection_idle_seconds: A connection without a call is closed after this long.
        connection_age_seconds: A connection takes no new calls after this long, give or take a tenth.
        connection_grace_seconds: How long calls may go on after that.
        keepalive_seconds: After so long without a byte from the peer it is pinged.
        ping_timeout_seconds: A peer that does not answer a ping in this time is taken for gone.
        min_ping_seconds: A client that pings more often than this, without data in between, is cut off.
        max_metadata_bytes: Names and values of a request's headers together, with 32 for each pair (RFC 9113 §6.5.2).
    """

    max_message_bytes: int = 12 * MIB
    max_concurrent_streams: int = 64
    max_connections: int = 12_000
    handshake_seconds: float = 10.0
    connection_idle_seconds: float = 300.0
    connection_age_seconds: float = 3600.0
    connection_grace_seconds: float = 14_400.0
    keepalive_seconds: float = 60.0
    ping_timeout_seconds: float = 20.0
    min_ping_seconds: float = 10.0
    max_metadata_bytes: int = 16 * 1024

    def fitting(self, descriptors: int) -> TransportLimits:
        """The same, with no more connections than a process with so many descriptors can hold.

        Without this bound a flood of connections takes the descriptor that the database needs next.
        """
        room = max(descriptors - RESERVED_DESCRIPTORS, descriptors // 2)
        return replace(self, max_connections=min(self.max_connections, room))


def transport_limits(settings: LimitSettings, max_message_bytes: int, max_concurrent_streams: int) -> TransportLimits:
    """The limits of the settings. What a connection carries may go on to its own end when the connection grows old."""
    return TransportLimits(
        max_message_bytes=max_message_bytes,
        max_concurrent_streams=max_concurrent_streams,
        max_connections=settings.max_connections,
        handshake_seconds=settings.handshake_seconds,
        connection_idle_seconds=settings.connection_idle_seconds,
        connection_age_seconds=settings.connection_age_seconds,
        connection_grace_seconds=settings.stream_seconds,
        keepalive_seconds=settings.keepalive_seconds,
        ping_timeout_seconds=settings.ping_timeout_seconds,
        min_ping_seconds=settings.min_ping_seconds,
        max_metadata_bytes=settings.max_metadata_bytes,
    )


def open_file_limit() -> int:
    """How many descriptors this process may have (RLIMIT_NOFILE, the soft limit)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def channel_options(limits: TransportLimits) -> list[tuple[str, int]]:
    """The limits as arguments of ``grpc.aio.server``."""
    ping_timeout = _milliseconds(limits.ping_timeout_seconds)
    return [
        # GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, GRPC_ARG_MAX_SEND_MESSAGE_LENGTH: refused by the length that comes before
        # a message, so that nothing of it is held.
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        # GRPC_ARG_MAX_CONCURRENT_STREAMS: also the defence against rapid reset (CVE-2023-44487). Core counts a stream
        # until the server is done with it, reset or not, and refuses what goes beyond before it costs anything.
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        # GRPC_ARG_SERVER_MAX_PENDING_REQUESTS, GRPC_ARG_SERVER_MAX_PENDING_REQUESTS_HARD_LIMIT: one number for both, so
        # that honest calls wait for their turn, and are not cancelled at random, while somebody resets streams rapidly.
        ("grpc.server.max_pending_requests", PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
        # GRPC_ARG_HTTP2_BDP_PROBE, GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES: a fixed window for each stream. With the
        # bandwidth probe, slow readers make the transport hold gigabytes.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", MIB),
        # GRPC_ARG_MAX_ALLOWED_INCOMING_CONNECTIONS: a connection costs some 16 KiB and a descriptor.
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        # GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS: two minutes by default, for a peer that never says a word.
        ("grpc.server_handshake_timeout_ms", _milliseconds(limits.handshake_seconds)),
        # GRPC_ARG_SETTINGS_TIMEOUT: the other half of the handshake, after the client's preface.
        ("grpc.http2.settings_timeout", _milliseconds(limits.handshake_seconds)),
        # GRPC_ARG_MAX_CONNECTION_IDLE_MS: this is what ends idle connections, pinged or not.
        ("grpc.max_connection_idle_ms", _milliseconds(limits.connection_idle_seconds)),
        # GRPC_ARG_MAX_CONNECTION_AGE_MS, GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS: clients spread over instances again, and
        # whatever a connection holds ends. Core adds a jitter of a tenth.
        ("grpc.max_connection_age_ms", _milliseconds(limits.connection_age_seconds)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(limits.connection_grace_seconds)),
        # GRPC_ARG_KEEPALIVE_TIME_MS, GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS: peers that vanished are found, with calls
        # or without. The permission works both ways: without it, a client may ping an idle connection every two hours.
        ("grpc.keepalive_time_ms", _milliseconds(limits.keepalive_seconds)),
        ("grpc.keepalive_permit_without_calls", 1),
        # GRPC_ARG_PING_TIMEOUT_MS: the one that ends a connection whose pings are not answered; a minute by default.
        # GRPC_ARG_KEEPALIVE_TIMEOUT_MS does not: it becomes TCP_USER_TIMEOUT, for bytes that nobody acknowledges.
        ("grpc.http2.ping_timeout_ms", ping_timeout),
        ("grpc.keepalive_timeout_ms", ping_timeout),
        # GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, GRPC_ARG_HTTP2_MAX_PING_STRIKES: the connection of
        # whoever pings too often ends with GOAWAY "too_many_pings". Core's five minutes would cut off honest clients.
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(limits.min_ping_seconds)),
        ("grpc.http2.max_ping_strikes", PING_STRIKES),
        # GRPC_ARG_MAX_METADATA_SIZE, GRPC_ARG_ABSOLUTE_MAX_METADATA_SIZE: one number for both. Between the two, Core
        # refuses some requests and not others, by chance.
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
    ]


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
