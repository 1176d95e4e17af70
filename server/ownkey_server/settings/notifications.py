"""Settings of how tenants are told of things: what is tried, when, for how long, and what nobody may be sent to."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from ownkey_server.domain.notifications import APPRISE_NEVER
from ownkey_server.settings.fields import FilePath, Section
from ownkey_server.settings.secrets import SecretSetting

_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


class _Section(Section, BaseModel):
    """BaseModel too, by which linters know that defaults are copied."""


def _require_network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError:
        raise ValueError(
            "must be a network such as 10.20.0.0/16 or fd00:20::/32, without bits behind its length"
        ) from None
    return text


def _require_mail_address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError("must be an address alone, such as ownkey@example.com")
    return text


def _require_host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("must be a host's name, such as mail.example.com")
    return text


class SmtpSettings(_Section):
    """The provider's mail server."""

    host: Annotated[str, AfterValidator(_require_host)]
    port: int = Field(default=587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: Annotated[str, AfterValidator(_require_mail_address)]
    username: str | None = None
    password: SecretSetting | None = None
    ca_file: FilePath | None = None

    @model_validator(mode="after")
    def _send_no_password_in_clear(self) -> Self:
        if (self.username is None) is not (self.password is None):
            raise ValueError("username and password go together")
        if self.password and self.security == "none":
            raise ValueError('password: needs security = "starttls" or "tls": it is not sent in clear')
        return self


class NotificationSettings(_Section):
    """How tenants are told. Names end in their unit."""

    attempt_seconds: float = Field(default=10.0, gt=0, le=60)
    connect_seconds: float = Field(default=5.0, gt=0, le=60)
    retry_seconds: float = Field(default=5.0, gt=0, le=3600)
    max_retry_seconds: float = Field(default=3600.0, gt=0, le=86_400)
    max_age_hours: float = Field(default=72.0, gt=0, le=720)
    retention_days: float = Field(default=30.0, ge=1, le=3650)
    lease_seconds: float = Field(default=30.0, gt=0, le=600)
    concurrency: int = Field(default=64, ge=1, le=10_000)
    channels_per_tenant: int = Field(default=16, ge=1, le=1000)
    rotation_hours: float = Field(default=24.0, ge=0, le=720)
    allow_http: bool = False
    allow_addresses: list[Annotated[str, AfterValidator(_require_network)]] = []
    ca_file: FilePath | None = None
    smtp: SmtpSettings | None = None
    apprise_schemes: list[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+.-]{0,31}$")]] = []
    apprise_hosts: list[Annotated[str, AfterValidator(_require_host)]] = []

    @model_validator(mode="after")
    def _outlive_an_attempt(self) -> Self:
        if self.lease_seconds < 2 * self.attempt_seconds:
            raise ValueError("lease_seconds: must be twice attempt_seconds at least, or two instances deliver at once")
        return self

    @model_validator(mode="after")
    def _lead_nowhere_else(self) -> Self:
        for scheme in self.apprise_schemes:
            if scheme in APPRISE_NEVER:
                raise ValueError(f"apprise_schemes: {scheme} {APPRISE_NEVER[scheme]}, and is not to be used by tenants")
        return self

    @property
    def allowed(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks that are allowed although they are not the public Internet."""
        return tuple(ip_network(one) for one in self.allow_addresses)
