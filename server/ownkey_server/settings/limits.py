"""Settings of what one peer may take: connections, pings, headers, calls, and media streams (docs/limits.md)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024


class LimitSettings(BaseModel):
    """Limits that honest callers do not notice. Names end in their unit."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_connections: int = Field(default=12_000, ge=1)
    handshake_seconds: float = Field(default=10.0, gt=0, le=120)
    connection_idle_seconds: float = Field(default=300.0, gt=0)
    connection_age_seconds: float = Field(default=3600.0, gt=0)
    keepalive_seconds: float = Field(default=60.0, gt=0)
    ping_timeout_seconds: float = Field(default=20.0, gt=0)
    min_ping_seconds: float = Field(default=10.0, gt=0)
    max_metadata_bytes: int = Field(default=16 * 1024, ge=8 * 1024, le=MIB)

    principal_calls_per_second: float | None = Field(default=None, gt=0)
    tenant_calls_per_second: float | None = Field(default=None, gt=0)
    burst_seconds: float = Field(default=2.0, gt=0, le=3600)

    request_seconds: float = Field(default=30.0, gt=0)
    streams: int = Field(default=1000, ge=1)
    streams_per_caller: int = Field(default=500, ge=1)
    stream_seconds: float = Field(default=14_400.0, gt=0)
    stream_idle_seconds: float = Field(default=60.0, gt=0)
    stream_write_seconds: float = Field(default=60.0, gt=0)
    stream_bytes: int = Field(default=64 * 1024 * MIB, ge=MIB)
    stream_min_bytes_per_second: float = Field(default=8.0, ge=0)
    stream_progress_seconds: float = Field(default=60.0, gt=0)
    stream_messages_per_mib: int = Field(default=16_384, ge=1)
    stream_messages_per_second: float = Field(default=100.0, ge=0)
    stream_messages_burst: int = Field(default=10_000, ge=1)
    buffered_bytes: int = Field(default=512 * MIB, ge=16 * MIB)
    watches: int = Field(default=10_000, ge=1)
    watches_per_caller: int = Field(default=5_000, ge=1)
    watch_buffered_bytes: int = Field(default=64 * MIB, ge=MIB)
    watched_calls_per_stream: int = Field(default=10_000, ge=1)
    watched_calls_per_tenant: int = Field(default=100_000, ge=1)
